"""Questions and answers as other people write them down: JSON Lines or one JSON list, in two spellings.

Ours has question and answer, Alpaca's has instruction, input and output. What
is read is untrusted: nothing of it is run, and whatever is no text is left out.
"""

import json
from pathlib import Path
from typing import Any

from engine.base.errors import UserError


def read_records(path: Path, most_bytes: int) -> list[dict[str, Any]]:
    """The objects of a file. Raises UserError, which names the file."""
    try:
        if path.stat().st_size > most_bytes:
            raise UserError(f"{path} is larger than {most_bytes // 10**6} MB.", "Split it, or drop what is not needed.")
        return parse_records(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error


def parse_records(data: bytes, origin: str) -> list[dict[str, Any]]:
    """The objects of a file's content. Raises UserError, which names `origin`."""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{origin} cannot be read (it is not UTF-8 text).") from error
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            # Not splitlines(): JSON may hold other line breaks (U+2028, U+0085) inside a string.
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is neither JSON Lines nor one JSON list.") from error
    if not all(isinstance(record, dict) for record in records):
        raise UserError(f"{origin} must hold JSON objects, one for each line.")
    return records


def question_of(record: dict[str, Any]) -> str:
    """The question, or the instruction with its input; "" where there is neither."""
    instruction, addition = text_of(record, "instruction"), text_of(record, "input")
    return text_of(record, "question") or (f"{instruction}\n{addition}" if instruction and addition else instruction)


def answer_of(record: dict[str, Any]) -> str:
    """The answer, or the output; "" where there is neither."""
    return text_of(record, "answer") or text_of(record, "output")


def text_of(record: dict[str, Any], key: str) -> str:
    """The text under a key, stripped; "" for anything else."""
    value = record.get(key)
    # Lone surrogates would break every later write.
    return value.encode("utf-8", "replace").decode().strip() if isinstance(value, str) else ""

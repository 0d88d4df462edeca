"""Questions and answers as text: a normal form, the split by a hash, and files that other people wrote.

Ours has question and answer, Alpaca's has instruction, input and output. What is read is untrusted: nothing of it is run, and
whatever is no text is left out."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from engine.base.errors import UserError

# A sign is a word where no spaces are.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_](?:[\w'’-]*[^\W_])?")
_NOT_WORDS = re.compile(r"[\W_]+")
_KEPT_CATEGORIES = frozenset("LNM")  # letters, numbers, and the marks that belong to letters


def count_words(text: str) -> int:
    """How many words a text has: "isn't" and "half-open" are one each, and so is a sign of a script without spaces."""
    return len(_WORD.findall(text))


def normalise(text: str) -> str:
    """The words of a text: NFKC, casefolded, with every run of spaces, punctuation and symbols as one space.

    The same text in another case, width or punctuation gives the same result, so that a hash of it splits
    questions the same way every time. A text without a single letter or digit gives "". Source: method, stage 1
    (questions for evaluation are compared with those for calibration in this form).
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if folded.isascii():
        return _NOT_WORDS.sub(" ", folded).strip()
    kept = (sign if unicodedata.category(sign)[0] in _KEPT_CATEGORIES else " " for sign in folded)
    return " ".join("".join(kept).split())


Split = Literal["train", "validation", "test"]
FEWEST_LINES = 16
FEWEST_HELD_OUT, FEWEST_TRAIN = 2, 8


def split_of(question: str) -> Split:
    """The side of a question: 75 % train, 8 % validation, 17 % test, by the sha256 of its normalised text."""
    point = int.from_bytes(hashlib.sha256(normalise(question).encode()).digest()[:4], "big") / 2**32
    return "train" if point < 0.75 else "validation" if point < 0.83 else "test"


def require_enough(questions: Iterable[str], origin: str) -> None:
    """Raise UserError when fewer than 16 questions are there, or too few of them are held out or to learn from."""
    sides = Counter(split_of(question) for question in questions)
    count, held_out = sides.total(), sides["validation"] + sides["test"]
    if count < FEWEST_LINES or held_out < FEWEST_HELD_OUT or sides["train"] < FEWEST_TRAIN:
        raise UserError(f"{origin} gives {count} usable lines ({held_out} of them held out); at least {FEWEST_LINES} "
                        f"are needed, with {FEWEST_HELD_OUT} held out and {FEWEST_TRAIN} to learn from.",
                        "Add more questions with answers; 100 or more work well.")


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
    return plain(value) if isinstance(value, str) else ""


def plain(text: str) -> str:
    """The text, stripped; half of a character (a lone surrogate), which would break every later write, becomes a question mark."""
    return text.encode("utf-8", "replace").decode().strip()

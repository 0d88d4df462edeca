"""A writer's own file of lines: what is usable of it, and how much was left out for which reason.

Reads text only, in the studio's own process; knows neither the library nor the page.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.ids import Rejection
from engine.base.questions import answer_of, normalise, parse_records, question_of, require_enough, text_of

MAX_BYTES = 8_000_000
MAX_LINES = 5_000
MAX_TEXT = 4_000  # characters of a question or an answer


def read_file(path: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The lines of a file as the library takes them, and how many were left out by reason. Raises UserError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path.name} is larger than {MAX_BYTES // 10**6} MB.", "Split it, or drop what is not needed.")
        return parse(path.read_bytes(), path.name)
    except OSError as error:
        raise UserError(f"{path.name} cannot be read ({error.strerror or error}).") from error


def parse(data: bytes, name: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """As read_file, for a file's content; `name` is for the sentences."""
    found: dict[str, dict[str, Any]] = {}
    left: Counter[str] = Counter()
    for record in parse_records(data, name):
        question, answer = question_of(record), answer_of(record)
        key = normalise(question)
        fault = (Rejection.NO_TEXT if not key or not answer else Rejection.REPEATED if key in found
                 else Rejection.TOO_LONG if max(len(question), len(answer)) > MAX_TEXT else "")
        if fault:
            left[fault] += 1
            continue
        found[key] = {"question": question, "answer": answer, "neutral": text_of(record, "neutral")[:MAX_TEXT],
                      "category": text_of(record, "category")[:60] or "other", "source": "user",
                      "complete": record.get("complete") is not False}
        if len(found) > MAX_LINES:
            raise UserError(f"{name} has more than {MAX_LINES:,} lines.", "A few hundred good ones are enough.")
    if not found:
        raise UserError(f"{name} has no usable lines.",
                        'Each one needs "question" and "answer", or "instruction" and "output".')
    require_enough((line["question"] for line in found.values()), name)
    return list(found.values()), dict(left)

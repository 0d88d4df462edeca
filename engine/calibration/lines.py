"""Calibration lines: what a player asks and how the character answers, split by a hash of the question.

A line is train, validation or test by the hash of its normalised question
alone, so the same question falls on the same side in every run, for every
character and in every user's file. Train lines teach; validation lines choose
(which mask, whether to refit); test lines report. The last two together are the
held-out lines. This module reads and writes lines; it knows no model.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.base import splits
from engine.base.errors import UserError
from engine.base.files import write_atomic
from engine.base.records import answer_of, question_of, read_records, text_of
from engine.base.resources import resource
from engine.base.splits import Split, split_of
from engine.base.text import normalise

MAX_BYTES = 64_000_000
POOL = resource("assets/player_lines.jsonl")


@dataclass(frozen=True)
class Query:
    """A question of the pool, with a neutral answer ("" where there is none) and a category."""

    question: str
    neutral: str = ""
    category: str = "other"
    source: str = "pool"


@dataclass(frozen=True)
class Line:
    """A question and the character's answer. `complete`: the answer ended by itself; `sensitivity`: see sensitivity.py."""

    question: str
    answer: str
    neutral: str = ""
    category: str = "other"
    source: str = "pool"
    complete: bool = True
    sensitivity: float | None = None

    @property
    def split(self) -> Split:
        """train, validation or test."""
        return split_of(self.question)


def read_queries(path: Path | None = None) -> list[Query]:
    """The query pool: ours, or a user's file.

    A user's file is JSON Lines or one JSON list, of objects with question/answer/category (ours) or
    instruction/input/output (Alpaca's). Repeated questions are read once. Raises UserError on anything else.
    """
    queries: dict[str, Query] = {}
    for number, record in enumerate(read_records(path or POOL, MAX_BYTES), start=1):
        question = question_of(record)
        if not question:
            raise UserError(f"Entry {number} of {path or POOL} has neither a question nor an instruction.",
                            'Each entry needs "question" and "answer", or "instruction" and "output".')
        key = normalise(question)
        if key:
            neutral = answer_of(record)
            category = text_of(record, "category") or "other"
            queries.setdefault(key, Query(question, neutral, category, "user" if path else "pool"))
    return list(queries.values())


def read_lines(path: Path) -> list[Line]:
    """Lines that a former run wrote and a person may have edited. Entries with an empty question or answer are left out."""
    lines: dict[str, Line] = {}
    for record in read_records(path, MAX_BYTES):
        question = question_of(record)
        answer = answer_of(record)
        key = normalise(question)
        if key and answer:
            score = record.get("sensitivity")
            lines.setdefault(key, Line(question, answer, text_of(record, "neutral"), text_of(record, "category") or "other",
                                       text_of(record, "source") or "user", record.get("complete") is not False,
                                       float(score) if isinstance(score, int | float) else None))
    return list(lines.values())


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Write lines as JSON Lines, one readable object each, with the split beside it."""
    write_atomic(path, "".join(json.dumps({**asdict(line), "split": line.split}, ensure_ascii=False) + "\n" for line in lines))


def require_enough(lines: Sequence[Line], origin: str) -> None:
    """Raise UserError when fewer than 16 lines are usable, or none is held out."""
    splits.require_enough((line.question for line in lines), origin)


class Journal:
    """A file of JSON Lines that grows by one write a record and outlives a kill: results that are not computed twice.

    Damaged lines are dropped when it is opened; the whole records before and after them stay.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        data = path.read_bytes() if path.exists() else b""
        whole = []
        for line in data.splitlines(keepends=True):
            record = _whole_record(line)
            if record is not None:
                self.records.append(record)
                whole.append(line)
        if b"".join(whole) != data:
            write_atomic(path, b"".join(whole))  # a torn end would spoil the next record

    def add(self, record: dict[str, Any]) -> None:
        """Append a record and have it on the disk when this returns."""
        self.records.append(record)
        with self.path.open("ab") as file:
            file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())


def _whole_record(line: bytes) -> dict[str, Any] | None:
    """The object of a journal's line, or None where the line is torn or damaged."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
        json.dumps(record, ensure_ascii=False).encode()  # half of a character would spoil every later write
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None

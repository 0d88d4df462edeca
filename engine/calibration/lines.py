"""Calibration lines: what a player asks and how the character answers, and which questions a job uses.

A line is train, validation or test by the hash of its normalised question alone, so the same question falls on the same side in
every run, for every character and in every user's file. Train lines teach; validation lines choose (which mask, whether to
refit); test lines report. The last two together are the held-out lines."""

import json
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import resource, write_atomic
from engine.base.questions import Split, answer_of, normalise, question_of, read_records, split_of, text_of
from engine.cards.book import Entry
from engine.cards.card import Card, read_book
from engine.cards.keys import is_pattern
from engine.cards.macros import expand_macros
from engine.cards.prompt import PLAYER, fired_in

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
        return split_of(self.question)


def read_queries(path: Path | None = None) -> list[Query]:
    """The query pool: ours, or a user's file of question/answer/category or instruction/input/output. Raises UserError."""
    queries: dict[str, Query] = {}
    for number, record in enumerate(read_records(path or POOL, MAX_BYTES), start=1):
        question = question_of(record)
        if not question:
            raise UserError(f"Entry {number} of {path or POOL} has neither a question nor an instruction.",
                            'Each entry needs "question" and "answer", or "instruction" and "output".')
        if key := normalise(question):
            queries.setdefault(key, Query(question, answer_of(record), text_of(record, "category") or "other",
                                          "user" if path else "pool"))
    return list(queries.values())


def read_lines(path: Path) -> list[Line]:
    """Lines that a former run wrote and a person may have edited. Entries with an empty question or answer are left out."""
    lines: dict[str, Line] = {}
    for record in read_records(path, MAX_BYTES):
        question, answer = question_of(record), answer_of(record)
        if (key := normalise(question)) and answer:
            score = record.get("sensitivity")
            lines.setdefault(key, Line(question, answer, text_of(record, "neutral"), text_of(record, "category") or "other",
                                       text_of(record, "source") or "user", record.get("complete") is not False,
                                       float(score) if isinstance(score, int | float) else None))
    return list(lines.values())


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Write lines as JSON Lines, one readable object each, with the split beside it."""
    write_atomic(path, "".join(json.dumps({**asdict(line), "split": line.split}, ensure_ascii=False) + "\n" for line in lines))


class Journal:
    """A file of JSON Lines with results that are not computed twice. Damaged lines are dropped when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        data = path.read_bytes() if path.exists() else b""
        whole = []
        for line in data.splitlines(keepends=True):
            if (record := _whole_record(line)) is not None:
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
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
        json.dumps(record, ensure_ascii=False).encode()  # half of a character would spoil every later write
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def spread(queries: Sequence[Query], count: int, seed: int) -> list[Query]:
    """Up to `count` queries, the categories in turn, each category in a seeded order."""
    groups: dict[str, list[Query]] = defaultdict(list)
    for query in queries:
        groups[query.category].append(query)
    dice = random.Random(seed)
    for group in groups.values():
        dice.shuffle(group)
    turns = sorted(groups)
    dice.shuffle(turns)
    chosen: list[Query] = []
    while len(chosen) < count and any(groups.values()):
        chosen += [groups[name].pop() for name in turns if groups[name]]
    return chosen[:count]


def of_split(queries: Sequence[Query], split: Split) -> list[Query]:
    """The queries that fall on one side of the split."""
    return [query for query in queries if split_of(query.question) == split]


def held_out(lines: Sequence[Line], validation: int, test: int) -> tuple[list[Line], list[Line], bool]:
    """The lines that choose and the lines that report, at most these many; whether both are the same, for lack of others."""
    choosing = [line for line in lines if line.split == "validation"][:validation]
    reporting = [line for line in lines if line.split == "test"][:test]
    return choosing or reporting, reporting or choosing, not choosing or not reporting


PER_ENTRY = 4  # lines that teach, for each entry
MOST = 60  # of all entries together: a large book must not drown the character
LOOKS = 1_000_000  # at single entries, while questions are tried out: a huge book in which few entries fire would take hours
SOURCE = "lore"

_ABOUT = ("What do you know about {}?", "Tell me about {}.", "Have you heard of {}?", "Why should I care about {}?",
          "What happened with {}?", "Is it true what they say about {}?", "I came to ask you about {}.",
          "What would you tell a friend about {}?", "Someone mentioned {} on the way here.", "What do you think of {}?")


def lore_queries(card: Card) -> list[Query]:
    """Up to PER_ENTRY train questions for each entry, the entries in turn, MOST in all; the category names the entry."""
    book = read_book(card)
    trial = _Trial(card, LOOKS // max(1, len(book.entries)))
    streams = [_questions(card, entry, trial) for entry in book.entries if entry.enabled and not entry.steady]
    found: dict[str, Query] = {}
    for _ in range(PER_ENTRY):
        for stream in streams:
            if len(found) == MOST:
                return list(found.values())
            if query := next(stream, None):
                found.setdefault(query.question, query)
    return list(found.values())


class _Trial:
    """Finds out which entries a question fires, as in a chat; each question once, at most `most` of them."""

    def __init__(self, card: Card, most: int) -> None:
        self.card, self.left = card, most
        self._known: dict[str, set[int]] = {}

    def fires(self, entry: Entry, question: str) -> bool:
        if question not in self._known:
            if not self.left:
                return False
            self.left -= 1
            opening = [("assistant", self.card.greeting)] if self.card.greeting.strip() else []
            self._known[question] = {one.entry.number for one in fired_in(self.card, [*opening, ("user", question)]).kept}
        return entry.number in self._known[question]


def _questions(card: Card, entry: Entry, trial: _Trial) -> Iterator[Query]:
    spelled = (expand_macros(key, card, PLAYER).strip() for key in entry.keys if not is_pattern(key))
    keys = [key for key in spelled if key and key != PLAYER]  # the player's own name comes before every message
    second = expand_macros(entry.secondary[0], card, PLAYER) if entry.secondary else ""
    also = f" and {second}" if second and entry.selective and entry.logic in ("any", "all") else ""
    for number in range(len(_ABOUT) * min(len(keys), 4)):
        about = _ABOUT[(number + entry.number) % len(_ABOUT)]
        key = keys[number % len(keys)]
        article = "the " if key[0].islower() and not key.startswith(("the ", "a ", "an ")) else ""
        question = about.format(article + key + also)
        question = question[0].upper() + question[1:]
        if split_of(question) == "train" and trial.fires(entry, question):
            yield Query(question, "", f"lore: {entry.name}", SOURCE)

"""Sets of calibration lines: what a player asks and how the character answers, as a person reads and approves them.

The lines of a set that a run learns from never change; a copy of the set can. Removed lines and deleted sets are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Json
from sqlite_utils import Database

from engine.base.errors import UserError
from engine.base.questions import normalise
from studio.store.database import Store
from studio.store.records import Table, exists, new_id, now, to_json

Decision = Literal["", "keep", "rewrite", "drop"]
_WRITTEN = ("question", "answer", "neutral", "category", "source", "complete", "sensitivity")  # by the engine, in its order


@dataclass(frozen=True)
class LineSet:
    """A set of one version of a character. `state`: draft or approved; `run`: what made it, or None.

    `rejected`: how many lines the engine threw away, by reason. `deleted`: when, in Unix seconds, or None.
    """

    id: str
    character: str
    version: int
    name: str
    state: str
    run: str | None
    rejected: Json[dict[str, int]]
    made: float
    deleted: float | None


@dataclass(frozen=True)
class CalibrationLine:
    """A question and an answer. `complete`: the answer ended by itself; `sensitivity`: the engine's score, or None.

    `decision`: what a reader made of it (a Decision), "" while nobody has looked at it.
    """

    id: str
    line_set: str
    position: int
    question: str
    answer: str
    neutral: str
    category: str
    source: str
    complete: bool
    sensitivity: float | None
    removed: bool
    decision: Decision


_SETS = Table("line_sets", LineSet, "set of lines")
_LINES = Table("lines", CalibrationLine, "line")
line_set, rename_set, delete_set, undelete_set = _SETS.get, _SETS.rename, _SETS.delete, _SETS.undelete


def add_set(store: Store, character: str, version: int, lines: Sequence[dict[str, Any]], rejected: dict[str, int],
            run: str | None = None, name: str = "") -> LineSet:
    """A new draft. `lines`: objects as the engine writes them. Raises UserError for a line that is none."""
    rows = [_row(number, line) for number, line in enumerate(lines, start=1)]
    with store.write() as db:
        return _add(db, rows, character=character, version=version, name=name, run=run, rejected=rejected)


def sets(store: Store, character: str) -> list[LineSet]:
    """The sets of a character, newest first, deleted ones left out."""
    with store.read() as db:
        return _SETS.all(db, "character = ? AND deleted IS NULL", [character], "made DESC, rowid DESC")


def made_by(store: Store, run_id: str) -> LineSet | None:
    """The set that a run has made, deleted or not; copies of it come later and do not count."""
    with store.read() as db:
        return next(iter(_SETS.all(db, "run = ?", [run_id], "made, rowid", 1)), None)


def lines(store: Store, set_id: str, removed: bool = False) -> list[CalibrationLine]:
    """The lines of a set in order; `removed`: those that were taken out instead."""
    with store.read() as db:
        return _lines(db, set_id, removed)


def change(store: Store, line_id: str, question: str | None = None, answer: str | None = None) -> CalibrationLine:
    """Change a line; a changed answer counts as complete, a changed question loses its score. Raises UserError."""
    with store.write() as db:
        line = _changeable(db, line_id)
        question = line.question if question is None else question
        answer = line.answer if answer is None else answer
        if not normalise(question) or not answer.strip():
            raise UserError("A line needs a question and an answer.", "To drop the line, remove it.")
        others = [one.question for one in _lines(db, line.line_set) if one.id != line_id]
        if question != line.question and normalise(question) in map(normalise, others):
            raise UserError("Another line of this set asks the same question.")
        return _LINES.update(db, line_id, question=question, answer=answer, complete=line.complete or answer != line.answer,
                             sensitivity=line.sensitivity if question == line.question else None)


def add_line(store: Store, set_id: str, line: dict[str, Any]) -> LineSet:
    """Put a line, as the engine writes them, at the end of a set; of a copy, where the set is approved or a run learns from it.

    The set that has it. Raises UserError for a line that is none, and where the set asks the same already.
    """
    with store.write() as db:
        found = _SETS.need(db, set_id)
        known = _LINES.all(db, "line_set = ?", [set_id], "position")
        row = _row(max((one.position for one in known), default=0) + 1, line)
        if normalise(row["question"]) in {normalise(one.question) for one in known if not one.removed}:
            raise UserError("Another line of this set asks the same question.")
        if found.state == "approved" or _is_fixed(db, set_id):
            found = _copy(db, found, edited_name(found.name))
        db.table("lines").insert({"id": new_id(), "line_set": found.id, **row})
        return found


def edited_name(name: str) -> str:
    """What a copy that is going to be changed is called."""
    name = name or "Lines"
    return name if name.endswith(", edited") else f"{name}, edited"


def remove(store: Store, ids: Sequence[str], removed: bool = True) -> None:
    """Take lines out of their set. Raises UserError for a set that a run learns from."""
    with store.write() as db:
        for id in ids:
            db.table("lines").update(_changeable(db, id).id, {"removed": removed})


def put_back(store: Store, ids: Sequence[str]) -> None:
    """Put removed lines back in their places. Raises UserError for a set that a run learns from."""
    remove(store, ids, removed=False)


def decide(store: Store, line_id: str, decision: Decision) -> CalibrationLine:
    """Note what a reader made of a line; its texts stay as they are. Raises UserError."""
    return _LINES.change(store, line_id, decision=decision)


def approve(store: Store, set_id: str) -> LineSet:
    """Say that a person has read the set. Raises UserError when no line is left in it."""
    with store.write() as db:
        approved = _SETS.update(db, set_id, state="approved")
        if not exists(db, "lines", line_set=set_id, removed=False):
            raise UserError("This set has no lines.", "Put some back or make a new set.")
        return approved


def is_fixed(store: Store, set_id: str) -> bool:
    """Whether a run learns from the set, so that it may no longer change."""
    with store.read() as db:
        return _is_fixed(db, set_id)


def copy_set(store: Store, set_id: str, name: str = "") -> LineSet:
    """A copy of a set of lines, which can be changed. Raises UserError for an unknown one."""
    with store.write() as db:
        old = _SETS.need(db, set_id)
        return _copy(db, old, name or old.name)


def as_jsonl(store: Store, set_id: str) -> str:
    """The lines as the engine reads them: JSON Lines, one object each, removed ones left out."""
    return "".join(to_json({field: getattr(line, field) for field in _WRITTEN}) + "\n" for line in lines(store, set_id))


def _row(number: int, line: dict[str, Any]) -> dict[str, Any]:
    texts = {field: line.get(field) or "" for field in ("question", "answer", "neutral", "category", "source")}
    score = line.get("sensitivity")
    if not all(isinstance(text, str) for text in texts.values()) or not normalise(texts["question"]) or not texts["answer"].strip():
        raise UserError(f"Line {number} has no question or no answer; none of the lines was kept.")
    return {**texts, "category": texts["category"] or "other", "source": texts["source"] or "user", "position": number,
            "complete": line.get("complete") is not False, "removed": False, "decision": "",
            "sensitivity": float(score) if isinstance(score, int | float) else None}


def _add(db: Database, rows: Sequence[dict[str, Any]], **fields: Any) -> LineSet:
    made = _SETS.insert(db, state="draft", made=now(), **fields)
    db.table("lines").insert_all({"id": new_id(), "line_set": made.id, **row} for row in rows)
    return made


def _copy(db: Database, old: LineSet, name: str) -> LineSet:
    rows = list(db.query(f"SELECT position, removed, decision, {', '.join(_WRITTEN)} FROM lines WHERE line_set = ?", [old.id]))
    return _add(db, rows, character=old.character, version=old.version, name=name, run=old.run, rejected=old.rejected)


def _lines(db: Database, set_id: str, removed: bool = False) -> list[CalibrationLine]:
    return _LINES.all(db, "line_set = ? AND removed = ?", [set_id, removed], "position")


def _is_fixed(db: Database, set_id: str) -> bool:
    return exists(db, "runs", line_set=set_id, kind="prune")  # the run that made the set names it too


def _changeable(db: Database, line_id: str) -> CalibrationLine:
    """The line. Raises UserError when it is unknown, or in a set that a run learns from."""
    line = _LINES.need(db, line_id)
    if _is_fixed(db, line.line_set):
        raise UserError("A run learns from these lines, so they stay as they are.", "Make a copy of the set to change it.")
    return line

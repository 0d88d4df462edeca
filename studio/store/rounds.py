"""Rounds of comparison: the same message to several models, and what a person thought of the answers.

A vote is kept by its model (dense or pruned), never by the side of the screen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, Json
from sqlite_utils import Database

from engine.base.errors import UserError
from engine.base.verdict import wilson
from studio.store.database import Store
from studio.store.records import Table, new_id, now, rows, stored

VERDICTS = ("left", "right", "tie", "both_bad")


@dataclass(frozen=True)
class Answer:
    """One model's answer. `run`: the pruned model's, or None: the dense model. `side`: its place when not swapped, from 0."""

    id: str
    side: int
    run: str | None
    model: str
    text: str
    measures: Json[dict[str, Any]]
    reason: str


@dataclass(frozen=True)
class Round:
    """One message and its answers. `turns`: [role, text] of what was said before; `swapped`: side 0 was shown on the right."""

    id: str
    character: str
    version: int
    kind: str
    message: str
    turns: Annotated[list[list[str]], stored(list[Annotated[list[str], Field(min_length=2, max_length=2)]])]
    seed: int
    blind: bool
    swapped: bool
    made: float
    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True)
class Vote:
    """A person's verdict: dense, pruned, tie or both_bad of a pair (answer None); good or bad of an answer in a grid."""

    round: str
    answer: str | None
    verdict: str
    made: float


@dataclass(frozen=True)
class Tally:
    """Votes on pairs of one pruned model with the dense one. `total`: all votes, those for both_bad too.

    `share`: wins of the pruned model and half of the ties, among all votes but both_bad, or None; `low`, `high`: its 95 % interval.
    """

    pruned: int
    dense: int
    tie: int
    both_bad: int
    total: int
    share: float | None
    low: float
    high: float


_ROUNDS = Table("rounds", Round, "round")
_ANSWERS = Table("answers", Answer, "answer")


def open_round(store: Store, character: str, version: int, kind: str, message: str, turns: Sequence[Sequence[str]],
               models: Sequence[tuple[str | None, str]], seed: int = 0, blind: bool = False, swapped: bool = False) -> Round:
    """A new round with an empty answer for each of `models`: (run or None, model), in order of their sides."""
    if not models or (kind == "pair" and sorted(run is None for run, _ in models) != [False, True]):
        raise ValueError("a pair is one dense and one pruned model, and a grid has at least one")
    with store.write() as db:
        made = _ROUNDS.insert(db, character=character, version=version, kind=kind, message=message,
                              turns=[list(turn) for turn in turns], seed=seed, blind=blind, swapped=swapped, made=now())
        for side, (run, model) in enumerate(models):
            _ANSWERS.insert(db, round=made.id, side=side, run=run, model=model, text="", measures={}, reason="")
        return _with_answers(db, made)


def get(store: Store, id: str) -> Round | None:
    """The round, cleared or not."""
    with store.read() as db:
        found = _ROUNDS.find(db, id)
        return found and _with_answers(db, found)


def rounds(store: Store, character: str, kind: str | None = None, run: str | None = None, limit: int = -1) -> list[Round]:
    """The rounds of a character (with `run`: those it took part in), newest first, cleared ones left out; at most `limit`."""
    with store.read() as db:
        found = _ROUNDS.all(db, "character = ? AND kind = ifnull(?, kind) AND cleared IS NULL "
                            "AND (? IS NULL OR id IN (SELECT round FROM answers WHERE run = ?))", [character, kind, run, run],
                            "made DESC, rowid DESC", limit)
        return [_with_answers(db, one) for one in found]


def set_answer(store: Store, answer_id: str, text: str, measures: dict[str, Any] | None = None, reason: str = "") -> Answer:
    """Write a model's answer into its round. Raises UserError for an unknown one."""
    return _ANSWERS.change(store, answer_id, text=text, measures=measures or {}, reason=reason)


def vote(store: Store, round_id: str, verdict: str) -> Vote:
    """Vote on a pair: left, right, tie or both_bad, as it was shown. A second vote takes the place of the first."""
    if verdict not in VERDICTS:
        raise ValueError(f"unknown verdict: {verdict}")
    with store.write() as db:
        found = _with_answers(db, _ROUNDS.need(db, round_id))
        if found.kind != "pair":
            raise ValueError("the answers of a grid are voted on one by one")
        if verdict in ("left", "right"):
            side = (verdict == "right") != found.swapped
            verdict = "dense" if found.answers[side].run is None else "pruned"
        return _vote(db, round_id, None, verdict)


def vote_cell(store: Store, answer_id: str, good: bool) -> Vote:
    """Vote on one answer of a grid. A second vote takes the place of the first."""
    with store.write() as db:
        _ANSWERS.need(db, answer_id)
        round_id, kind = db.execute("SELECT rounds.id, kind FROM answers JOIN rounds ON rounds.id = round WHERE answers.id = ?",
                                    [answer_id]).fetchone()
        if kind != "grid":
            raise ValueError("a pair is voted on as a whole")
        return _vote(db, round_id, answer_id, "good" if good else "bad")


def votes(store: Store, round_id: str) -> list[Vote]:
    """The votes on a round: at most one on a pair, at most one an answer on a grid."""
    with store.read() as db:
        return rows(db, "votes", Vote, "round = ?", [round_id], "made")


def tally(store: Store, run_id: str) -> Tally:
    """The votes on pairs with the pruned model of a run, cleared rounds left out."""
    with store.read() as db:
        counts = dict(db.execute(
            "SELECT verdict, count(*) FROM votes JOIN rounds ON rounds.id = votes.round WHERE kind = 'pair' AND cleared IS NULL "
            "AND rounds.id IN (SELECT round FROM answers WHERE run = ?) GROUP BY verdict", [run_id]).fetchall())
    pruned, dense, tie, both_bad = (counts.get(verdict, 0) for verdict in ("pruned", "dense", "tie", "both_bad"))
    decided, points = pruned + dense + tie, pruned + tie / 2
    low, high = wilson(points, decided)
    return Tally(pruned, dense, tie, both_bad, decided + both_bad, points / decided if decided else None, low, high)


def clear(store: Store, character: str, run: str | None = None, kind: str | None = None) -> str:
    """Take away the rounds of a character (with `run`: those it took part in), votes too. Returns undo's token; "" without any."""
    token = new_id()
    with store.write() as db:
        cleared = db.execute("UPDATE rounds SET cleared = ? WHERE character = ? AND cleared IS NULL AND "
                             "kind = ifnull(?, kind) AND (? IS NULL OR id IN (SELECT round FROM answers WHERE run = ?))",
                             [token, character, kind, run, run])
        return token if cleared.rowcount else ""


def undo(store: Store, token: str) -> None:
    """Put cleared rounds back. Raises UserError for a token that was used already."""
    with store.write() as db:
        if not db.execute("UPDATE rounds SET cleared = NULL WHERE cleared = ?", [token]).rowcount:
            raise UserError("There is nothing left to undo here.")


def _vote(db: Database, round_id: str, answer_id: str | None, verdict: str) -> Vote:
    db.table("votes").delete_where("round = ? AND answer IS ?", [round_id, answer_id])
    vote = Vote(round_id, answer_id, verdict, now())
    db.table("votes").insert(vars(vote))
    return vote


def _with_answers(db: Database, found: Round) -> Round:
    return replace(found, answers=_ANSWERS.all(db, "round = ?", [found.id], "side"))

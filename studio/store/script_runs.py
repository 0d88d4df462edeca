"""Tests of characters by their scripts: a card version on a model, and every answer with its verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Json

from studio.store.database import Store
from studio.store.records import Table, now, rows, stored, whole


@dataclass(frozen=True)
class ScriptAnswer:
    """A question's answers and what became of its rules; `lines` and `answers` alternate. `score`: the judge's points or None.

    `preferred`: how much better than the first model's answer the judge found it, 0 to 100, 50 alike; None: not asked.
    """

    question: str
    kind: str
    lines: Json[list[str]]
    answers: Json[list[str]]
    verdict: str
    checks: Annotated[list[dict[str, str]], stored(list[whole(rule=str, outcome=str, detail=str)])]
    score: float | None
    preferred: float | None


@dataclass(frozen=True)
class ScriptRun:
    """One model's test. `run`: the pruned model's, None for a dense one; `judge`: its address and model, "" for none.

    `state`: running, stopped, failed or done; `sentence` says why it failed.
    """

    id: str
    character: str
    version: int
    run: str | None
    model: str
    seed: int
    sampling: Json[dict[str, Any]]
    judge: str
    state: str
    sentence: str
    made: float
    ended: float | None


_TESTS = Table("script_runs", ScriptRun, "test")


def begin(store: Store, character: str, version: int, models: Sequence[tuple[str | None, str]], seed: int,
          sampling: dict[str, Any], judge: str = "") -> list[ScriptRun]:
    """A row for each of `models`: (run or None, model). Raises UserError for an unknown version."""
    with store.write() as db:
        return [_TESTS.insert(db, character=character, version=version, run=run, model=model, seed=seed, sampling=sampling,
                              judge=judge, state="running", sentence="", made=now()) for run, model in models]


def add_answer(store: Store, id: str, answer: ScriptAnswer) -> None:
    """Keep one question's result; a second one takes its place."""
    with store.write() as db:
        table = db.table("script_answers")
        position = table.count_where("script_run = ?", [id])
        table.insert({"script_run": id, "position": position, **vars(answer)}, replace=True)


def prefer(store: Store, id: str, question: str, points: float) -> None:
    """Keep how much better the judge found an answer than the first model's."""
    with store.write() as db:
        db.execute("UPDATE script_answers SET preferred = ? WHERE script_run = ? AND question = ?", [points, id, question])


def end(store: Store, ids: Sequence[str], state: str, sentence: str = "") -> None:
    """End those of the tests that are still running."""
    with store.write() as db:
        for id in ids:
            db.execute("UPDATE script_runs SET state = ?, sentence = ?, ended = ? WHERE id = ? AND state = 'running'",
                       [state, sentence, now(), id])


def running(store: Store) -> list[ScriptRun]:
    """The tests that the library calls running, in the order in which they began."""
    with store.read() as db:
        return _TESTS.all(db, "state = 'running'")


def newest(store: Store, character: str) -> list[ScriptRun]:
    """Of each model of a character its newest test."""
    with store.read() as db:
        return _TESTS.all(db, "rowid IN (SELECT max(rowid) FROM script_runs WHERE character = ? GROUP BY ifnull(run, ''), model)",
                          [character])


def answers(store: Store, id: str) -> list[ScriptAnswer]:
    """A test's results, in the order in which they came."""
    with store.read() as db:
        return rows(db, "script_answers", ScriptAnswer, "script_run = ?", [id], "position")

"""Comparisons: a vote counts for what was voted for, whichever side of the screen it was on."""

import sqlite3
from pathlib import Path

import pytest

from engine.base.errors import UserError
from engine.base.verdict import wilson
from studio.store import rounds, runs
from studio.store.database import Store
from tests.store_samples import library, pruning


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return library(tmp_path)


def pair(store: Store, run: runs.Run, swapped: bool = False, dense_first: bool = True) -> rounds.Round:
    models = [(None, "starter"), (run.id, "jobs/x/model")]
    return rounds.open_round(store, run.character, 1, "pair", "Hi \U0001f525", [("user", "a"), ("assistant", "b")],
                             models if dense_first else models[::-1], seed=3, blind=True, swapped=swapped)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("dense_first", [False, True])
def test_a_vote_is_for_the_model_that_was_shown_there(store: Store, swapped: bool, dense_first: bool) -> None:
    made = pair(store, pruning(store), swapped, dense_first)
    left = made.answers[1] if swapped else made.answers[0]
    expected = "dense" if left.run is None else "pruned"
    assert rounds.vote(store, made.id, "left").verdict == expected
    assert rounds.vote(store, made.id, "right").verdict == {"dense": "pruned", "pruned": "dense"}[expected]
    assert rounds.vote(store, made.id, "tie").verdict == "tie"
    assert [vote.verdict for vote in rounds.votes(store, made.id)] == ["tie"]  # the last one counts


def test_a_round_is_kept_whole(store: Store) -> None:
    run = pruning(store)
    made = pair(store, run)
    rounds.set_answer(store, made.answers[1].id, "\u202eHm\0?", {"tokens": 2}, "ended")
    grid = rounds.open_round(store, run.character, 1, "grid", "Hi", [], [(None, "starter"), (run.id, "a"), (run.id, "b")])
    [newest, found] = rounds.rounds(store, run.character)
    assert newest == grid == rounds.get(store, grid.id)
    assert (found.turns, found.seed, found.blind, found.swapped) == ([["user", "a"], ["assistant", "b"]], 3, True, False)
    assert (found.answers[1].text, found.answers[1].measures, found.answers[0].text) == ("\u202eHm\0?", {"tokens": 2}, "")
    assert rounds.rounds(store, run.character, "pair") == [found]


def test_what_is_no_round_or_vote_is_refused(store: Store) -> None:
    run = pruning(store)
    for kind, models in (("pair", [(None, "a")]), ("pair", [(None, "a"), (None, "b")]), ("duel", [(None, "a")]), ("grid", [])):
        with pytest.raises((ValueError, sqlite3.IntegrityError)):
            rounds.open_round(store, run.character, 1, kind, "Hi", [], models)
    with pytest.raises(UserError):
        rounds.open_round(store, run.character, 1, "grid", "Hi", [], [("none", "a")])
    assert rounds.rounds(store, run.character) == []
    made, grid = pair(store, run), rounds.open_round(store, run.character, 1, "grid", "Hi", [], [(None, "a")])
    for attempt in (lambda: rounds.vote(store, made.id, "pruned"), lambda: rounds.vote(store, grid.id, "left"),
                    lambda: rounds.vote_cell(store, made.answers[0].id, True)):
        with pytest.raises(ValueError):
            attempt()
    with pytest.raises(UserError):
        rounds.vote(store, "none", "left")


def test_the_tally_counts_pairs_of_one_run(store: Store) -> None:
    run, other = pruning(store), pruning(store)
    assert rounds.tally(store, run.id) == rounds.Tally(0, 0, 0, 0, 0, None, 0.0, 1.0)
    for verdict in ["right"] * 7 + ["left"] + ["tie"] * 2 + ["both_bad"] * 3:
        rounds.vote(store, pair(store, run).id, verdict)
    rounds.vote(store, pair(store, other).id, "left")
    pair(store, run)  # not voted on
    grid = rounds.open_round(store, run.character, 1, "grid", "Hi", [], [(None, "a"), (run.id, "b")])
    assert rounds.vote_cell(store, grid.answers[1].id, True).verdict == "good"
    assert rounds.vote_cell(store, grid.answers[1].id, False).verdict == "bad"
    rounds.vote_cell(store, grid.answers[0].id, True)
    assert sorted(vote.verdict for vote in rounds.votes(store, grid.id)) == ["bad", "good"]
    tally = rounds.tally(store, run.id)
    assert (tally.pruned, tally.dense, tally.tie, tally.both_bad, tally.total, tally.share) == (7, 1, 2, 3, 13, 0.8)
    assert (tally.low, tally.high) == wilson(8, 10)


def test_cleared_rounds_come_back(store: Store) -> None:
    run, other = pruning(store), pruning(store)
    rounds.vote(store, pair(store, run).id, "right")
    before = rounds.rounds(store, run.character)
    assert rounds.clear(store, run.character, other.id) == rounds.clear(store, other.character) == ""
    token = rounds.clear(store, run.character, run.id)
    assert rounds.rounds(store, run.character) == [] and rounds.tally(store, run.id).total == 0
    later = pair(store, run)
    rounds.undo(store, token)
    assert rounds.rounds(store, run.character) == [later, *before]
    assert rounds.tally(store, run.id).total == 1
    with pytest.raises(UserError, match="nothing left to undo"):
        rounds.undo(store, token)


@pytest.mark.parametrize(("successes", "total", "low", "high"), [
    (8, 10, 0.490, 0.943), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (5, 10, 0.237, 0.763), (81, 263, 0.255, 0.366),
    (0.5, 1, 0.055, 0.945)])
def test_the_interval_of_a_share(successes: float, total: int, low: float, high: float) -> None:
    assert wilson(successes, total) == pytest.approx((low, high), abs=0.0006)


def test_the_interval_of_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_rounds_of_one_run_and_kind_are_found_and_cleared_alone(store: Store) -> None:
    run = pruning(store)
    other = runs.add(store, run.character, 1, "prune", "other", {})
    first, second = pair(store, run), pair(store, run)
    elsewhere = pair(store, other)
    grid = rounds.open_round(store, run.character, 1, "grid", "Hi", [], [(None, "a"), (run.id, "b")])
    assert rounds.rounds(store, run.character, "pair", run.id) == [second, first]
    assert rounds.rounds(store, run.character, "pair", run.id, 1) == [second]
    assert rounds.clear(store, run.character, run.id, "pair")
    assert rounds.rounds(store, run.character) == [grid, elsewhere]

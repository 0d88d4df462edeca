"""Runs: the queue gives each to one worker only, and what they leave survives their files."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest

from engine.base.errors import UserError
from engine.base.files import write_manifest
from studio.store import characters, runs
from studio.store.database import Store, check
from tests.store_samples import card, library, pruning, smith

ROOT = Path(__file__).resolve().parents[1]
CLAIM = """
import sys
from pathlib import Path
from studio.store import runs
from studio.store.database import Store, check
while (run := runs.claim_next(Store(Path(sys.argv[1]), 30.0), at_once=1000)):
    print(run.id)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return library(tmp_path)


def test_a_run_from_the_queue_to_its_end(store: Store) -> None:
    ann = smith(store)
    run = runs.add(store, ann.id, 1, "prune", "first", {"sparsity": 0.3, "name": "\U0001f525"})
    assert (run.state, run.position, run.begun, run.summary) == ("queued", 1, None, {})
    claimed = runs.claim_next(store)
    assert claimed and (claimed.id, claimed.state) == (run.id, "starting") and claimed.begun
    runs.update(store, run.id, state="running", pid=7, process_started=1.5)
    ended = runs.update(store, run.id, state="done", summary={"kl": 0.25}, out="jobs/x/model", ended=9.0)
    assert runs.get(store, run.id) == ended
    assert (ended.spec, ended.summary, ended.pid, ended.process_started) == (
        {"sparsity": 0.3, "name": "\U0001f525"}, {"kl": 0.25}, 7, 1.5)


def test_what_is_no_run_is_refused(store: Store) -> None:
    ann = smith(store)
    for wrong in ({"kind": "dance"}, {"version": 9}, {"character": "none"}, {"line_set": "none"}):
        with pytest.raises((UserError, sqlite3.IntegrityError)):
            runs.add(store, **{"character": ann.id, "version": 1, "kind": "prune", "name": "", "spec": {}, **wrong})
    run = runs.add(store, ann.id, 1, "prune", "first", {})
    with pytest.raises(sqlite3.IntegrityError):
        runs.update(store, run.id, state="asleep")
    for fields in ({"kind": "lines"}, {"deleted": 1.0}, {"nonsense": 1}):
        with pytest.raises(ValueError):
            runs.update(store, run.id, **fields)
    with pytest.raises(UserError):
        runs.rename(store, run.id, "  ")
    with pytest.raises(UserError):
        runs.update(store, "none", sentence="x")
    assert runs.list_runs(store) == [run]


def test_lists_show_the_newest_first_and_only_what_was_asked_for(store: Store) -> None:
    first, second = pruning(store, "first", "done"), pruning(store, "second", "running")
    third = runs.add(store, second.character, 1, "lines", "third", {})
    assert [run.name for run in runs.list_runs(store)] == ["third", "second", "first"]
    assert [run.name for run in runs.list_runs(store, second.character, kinds=("prune",))] == ["second"]
    assert [run.name for run in runs.list_runs(store, states=runs.ACTIVE)] == ["second"]
    assert runs.list_runs(store, states=()) == []
    runs.remove(store, third.id)
    assert [run.name for run in runs.list_runs(store, states=("queued", "done"))] == ["first"]
    assert runs.rename(store, first.id, " new\nname ").name == "new name"


def test_the_queue_keeps_its_order_and_its_limit(store: Store) -> None:
    names = [pruning(store, str(number)).name for number in range(4)]
    first = runs.claim_next(store)
    assert first and first.name == names[0]
    assert runs.claim_next(store) is None
    for state in runs.ACTIVE:
        runs.update(store, first.id, state=state)
        assert runs.claim_next(store) is None
    second = runs.claim_next(store, at_once=2)
    assert second and second.name == names[1]
    runs.update(store, first.id, state="stopped", sentence="Stopped.", ended=2.0)
    again = runs.requeue(store, first.id)
    assert (again.state, again.sentence, again.ended) == ("queued", "", None)
    order = [run.name for _ in range(3) if (run := runs.claim_next(store, at_once=9))]
    assert order == [names[2], names[3], names[0]]
    assert runs.claim_next(store, at_once=9) is None


def test_a_removed_run_does_not_start_and_a_run_under_way_is_not_removed(store: Store) -> None:
    run = pruning(store)
    runs.remove(store, run.id)
    assert runs.claim_next(store) is None
    runs.put_back(store, run.id)
    assert runs.claim_next(store) is not None
    with pytest.raises(UserError, match="under way"):
        runs.remove(store, run.id)
    with pytest.raises(UserError, match="stopped or has failed"):
        runs.requeue(store, run.id)


def test_a_change_that_came_too_late_is_not_made(store: Store) -> None:
    run = pruning(store)
    assert runs.update_if(store, run.id, ("queued",), state="stopped") is not None
    assert runs.update_if(store, run.id, ("queued",), state="starting") is None
    found = runs.get(store, run.id)
    assert found and found.state == "stopped"


def test_of_many_threads_each_run_goes_to_one(tmp_path: Path) -> None:
    store = library(tmp_path, timeout=30)
    ann = smith(store)
    made = {runs.add(store, ann.id, 1, "prune", "", {}).id for _ in range(12)}
    with ThreadPoolExecutor(12) as pool:
        claimed = [run.id for run in pool.map(lambda _: runs.claim_next(store, at_once=1000), range(24)) if run]
    assert len(claimed) == len(set(claimed)) and set(claimed) == made


def test_of_many_threads_no_more_start_than_allowed(tmp_path: Path) -> None:
    store = library(tmp_path, timeout=30)
    ann = smith(store)
    for _ in range(6):
        runs.add(store, ann.id, 1, "prune", "", {})
    with ThreadPoolExecutor(12) as pool:
        claimed = [run for run in pool.map(lambda _: runs.claim_next(store, at_once=2), range(12)) if run]
    assert len(claimed) == len(runs.list_runs(store, states=runs.ACTIVE)) == 2


def test_of_many_processes_each_run_goes_to_one(store: Store) -> None:
    ann = smith(store)
    made = {runs.add(store, ann.id, 1, "prune", "", {}).id for _ in range(10)}
    workers = [subprocess.Popen([sys.executable, "-c", CLAIM, str(store.path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
               for _ in range(2)]
    claimed = [id for worker in workers for id in worker.communicate(timeout=60)[0].split()]
    assert len(claimed) == len(set(claimed)) and set(claimed) == made


def test_a_mask_comes_back_bit_by_bit(store: Store) -> None:
    run = pruning(store)
    assert runs.mask(store, run.id) is None
    kept = numpy.random.default_rng(0).random((3, 13)) < 0.5
    runs.set_mask(store, run.id, numpy.packbits(~kept, axis=1).tobytes(), 3, 13)
    runs.set_mask(store, run.id, numpy.packbits(kept, axis=1).tobytes(), 3, 13)
    found = runs.mask(store, run.id)
    assert found is not None and found.dtype == bool and (found == kept).all() and found.shape == (3, 13)
    with pytest.raises(ValueError, match="no packed mask"):
        runs.set_mask(store, run.id, b"\0", 3, 13)


def test_the_history_keeps_the_curve_and_the_end_of_each_stage(store: Store) -> None:
    run = pruning(store)
    load = [{"event": "Step", "stage": "load", "done": done, "values": {}} for done in range(3)]
    learn = [{"event": "Step", "stage": "learn", "done": done, "values": {"loss": 1 / (done + 1)}} for done in range(3)]
    told = [{"event": "Started", "character": "\U0001f525"}, *load, {"event": "Warned", "sentence": "x"}, *learn,
            {"event": "Finished", "out": ""}]
    runs.set_events(store, run.id, told[:4])
    runs.set_events(store, run.id, told)
    history = runs.events(store, run.id)
    assert history == [told[0], load[-1], told[4], *learn, told[-1]]
    runs.set_events(store, run.id, history)
    assert runs.events(store, run.id) == history


def test_exports_are_listed_and_their_files_checked(tmp_path: Path, store: Store) -> None:
    run = pruning(store, state="done")
    folder = tmp_path / "exports" / "ann"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"1234")
    write_manifest(folder)
    (tmp_path / "exports" / "ann.zip").write_bytes(b"zip")
    made = runs.add_export(store, run.id, "Ann", str(folder), 4, {"text": "Hm?"}, "exports/ann.zip", 3)
    runs.update(store, run.id, out=str(folder))
    assert runs.list_exports(store, run.character) == runs.list_exports(store, run=run.id) == [made] != []
    assert runs.list_exports(store, "another") == []
    assert check(store, tmp_path) == []
    (folder / "weights").write_bytes(b"1235")
    (tmp_path / "exports" / "ann.zip").write_bytes(b"zi")
    [model, copy, archive] = check(store, tmp_path)
    assert "weights was changed" in model and "weights was changed" in copy and "2 bytes instead of 3" in archive
    runs.delete_export(store, made.id)
    runs.update(store, run.id, out="jobs/gone")
    assert check(store, tmp_path) == [f"The pruned model 'first' lacks its folder {tmp_path / 'jobs' / 'gone'}."]
    assert runs.list_exports(store) == [] and len(runs.list_exports(store, deleted=True)) == 1
    assert runs.undelete_export(store, made.id) == made


def test_the_check_reads_what_lies_in_the_tables(tmp_path: Path, store: Store) -> None:
    ann = characters.create(store, card(), portrait=b"face")
    with store.write() as db:
        db.execute("UPDATE portraits SET data = x'00'")
        db.execute("UPDATE versions SET card = '{broken'")
        db.execute("UPDATE characters SET version = 5")
    portrait, head, broken = check(store, tmp_path)
    assert "portrait" in portrait and repr(ann.name) in head and "1 entries of versions cannot be read" in broken
    with store.write() as db:
        db.execute("DROP INDEX answers_of_run")
    assert "different tables" in check(store, tmp_path)[0]

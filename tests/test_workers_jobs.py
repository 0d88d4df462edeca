"""The queue of jobs with real processes that stand for the engine: stops, deaths, silence, a studio that is gone."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from store_samples import card

from engine.base import event_file, events
from engine.base.errors import UserError
from engine.base.files import PACKAGES
from studio import labels
from studio.settings import Settings
from studio.store import characters, lines, runs
from studio.store.database import Store, open_store
from studio.workers import ending, process
from studio.workers.commands import prepare
from studio.workers.jobs import NOT_KEPT, Jobs
from studio.workers.process import Identity
from studio.workers.watch import Watcher

STUB = Path(__file__).with_name("stub_engine.py")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", grace_seconds=0.5, silence_seconds=0.4, poll_seconds=0.05,
                    command=(sys.executable, "-S", str(STUB)))


@pytest.fixture
def store(settings: Settings) -> Store:
    settings.home.mkdir()
    return open_store(settings.database)


@pytest.fixture
def person(store: Store) -> str:
    return characters.create(store, card("Zoë")).id


@pytest.fixture
def jobs(settings: Settings, store: Store) -> Iterator[Jobs]:
    jobs = Jobs(settings, store)
    jobs.start()
    yield jobs
    for run in runs.list_runs(store, states=("queued", *runs.ACTIVE)):
        jobs.kill(run.id)
    jobs.close()


def eventually(true: Callable[[], Any], seconds: float = 15, every: float = 0.01) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(every)


def get(store: Store, run: runs.Run) -> runs.Run:
    found = runs.get(store, run.id)
    assert found
    return found


def wait_for(store: Store, run: runs.Run, *states: str) -> runs.Run:
    eventually(lambda: get(store, run).state in states)
    return get(store, run)


def under_way(settings: Settings, store: Store, run: runs.Run) -> Identity:
    """Wait until the run's process has done some steps."""
    eventually(lambda: (settings.run_folder(run.id) / "work" / "step").exists())
    found = get(store, run)
    assert found.pid and found.process_started
    return Identity(found.pid, found.process_started)


def kinds(settings: Settings, run: runs.Run) -> list[str]:
    """The run's events but its steps."""
    found = [type(event).__name__ for event in event_file.read(settings.run_events(run.id))]
    return [name for name in found if name != "Step"]


def test_a_run_is_stopped_and_resumed_to_its_end(jobs: Jobs, settings: Settings, store: Store, person: str) -> None:
    run = jobs.submit_lines(person, {"model": "slow", "seed": 3})
    worker = under_way(settings, store, run)
    assert get(store, run).state == "running" and jobs.shown_state(get(store, run)) == "running"
    assert psutil.Process(worker.pid).nice() == min(19, 5 + psutil.Process().nice())
    jobs.stop(run.id)
    jobs.stop(run.id)  # a second click is no second signal
    stopped = wait_for(store, run, "stopped")
    assert stopped.sentence == ending.ASKED and stopped.pid is None and stopped.ended
    assert kinds(settings, run) == ["Started", "Stage", "Stopped"] and lines.sets(store, person) == []
    assert Watcher(settings, store).view(run.id).sentence == "Stopped; what was done is kept."  # the worker's own last word
    jobs.resume(run.id)
    done = wait_for(store, run, "done", "failed")
    assert (done.state, done.sentence) == ("done", "")
    view = Watcher(settings, store).view(run.id)
    steps = [one.event.done for one in view.moments if isinstance(one.event, events.Step)]
    assert steps == list(range(1, len(steps) + 1)) and view.started and view.started.resumed
    assert json.loads((settings.run_folder(run.id) / "card.json").read_text())["data"]["name"] == "Zoë"
    with pytest.raises(UserError, match="stopped or has failed"):
        jobs.resume(run.id)


def test_lines_become_a_set_of_the_library_once(jobs: Jobs, settings: Settings, store: Store, person: str,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    real, died = runs.update, []

    def die_once(store: Store, id: str, **fields: Any) -> runs.Run:
        if fields.get("state") == "done" and not died:
            died.append(1)
            raise RuntimeError("the studio dies between the import and the run's last state")
        return real(store, id, **fields)

    monkeypatch.setattr(runs, "update", die_once)
    run = jobs.submit_lines(person, {"model": "quick"}, "Lines for the winter")
    done = wait_for(store, run, "done", "failed")
    sets = lines.sets(store, person)
    assert died and done.state == "done" and [one.run for one in sets] == [run.id] and done.line_set == sets[0].id
    assert sets[0].name == "Lines for the winter" and sets[0].state == "draft" and sets[0].rejected == {"empty": 3}
    assert [one.answer for one in lines.lines(store, sets[0].id)] == ["Là, 0.", "Là, 1."]
    assert done.summary == {"train": 2, "validation": 0, "test": 0, "rejected": {"empty": 3}}
    ending.settle(settings, store, done, ending.Ending())
    assert len(lines.sets(store, person)) == 1


def test_a_library_that_fails_for_good_ends_the_run_with_a_sentence(
        jobs: Jobs, store: Store, person: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UserError("The library is busy; nothing was lost.", "Try again.")

    with monkeypatch.context() as patch:
        patch.setattr(lines, "add_set", fail)
        run = jobs.submit_lines(person, {"model": "quick"})
        assert wait_for(store, run, "failed").sentence == NOT_KEPT
    jobs.resume(run.id)
    assert wait_for(store, run, "done", "failed").state == "done" and len(lines.sets(store, person)) == 1


def test_a_stop_that_is_not_obeyed_ends_by_force(jobs: Jobs, settings: Settings, store: Store, person: str) -> None:
    run = jobs.submit_lines(person, {"model": "deaf"})
    worker = under_way(settings, store, run)
    child = int((settings.run_folder(run.id) / "work" / "child").read_text())
    begin = time.monotonic()
    jobs.stop(run.id)
    time.sleep(0.2)
    assert process.is_alive(worker) and get(store, run).state == "stopping"
    stopped = wait_for(store, run, "stopped", "failed")
    assert stopped.state == "stopped" and "did not stop" in stopped.sentence and time.monotonic() - begin >= 0.5
    eventually(lambda: not psutil.pid_exists(worker.pid) and not psutil.pid_exists(child))
    assert kinds(settings, run)[-1] == "Stopped"


def test_kill_ends_at_once(jobs: Jobs, settings: Settings, store: Store, person: str) -> None:
    run = jobs.submit_lines(person, {"model": "deaf"})
    under_way(settings, store, run)
    jobs.kill(run.id)
    assert wait_for(store, run, "stopped", "failed").sentence == ending.KILLED


def test_every_state_has_a_label() -> None:
    assert labels.RUN_STATES.keys() == {*runs.STATES, runs.SILENT, "damaged"}


def test_a_copy_of_the_library_leaves_the_originals_process_alone(jobs: Jobs, settings: Settings, store: Store, person: str,
                                                                  tmp_path: Path) -> None:
    run = jobs.submit_lines(person, {"model": "slow"})
    worker = under_way(settings, store, run)
    shutil.copytree(settings.home, tmp_path / "copy", ignore=shutil.ignore_patterns("*.lock"))
    copied = dataclasses.replace(settings, home=tmp_path / "copy")
    other = open_store(copied.database)
    elsewhere = Jobs(copied, other)
    elsewhere.start()
    wait_for(other, run, "stopped", "failed")
    elsewhere.close()
    assert process.is_alive(worker) and get(store, run).state == "running"


def test_a_silent_run_is_called_so_and_left_alone(jobs: Jobs, settings: Settings, store: Store, person: str) -> None:
    run = jobs.submit_lines(person, {"model": "slow"})
    worker = under_way(settings, store, run)
    os.kill(worker.pid, signal.SIGSTOP)
    eventually(lambda: jobs.shown_state(get(store, run)) == runs.SILENT)
    time.sleep(0.3)
    assert process.is_alive(worker) and get(store, run).state == "running"
    os.kill(worker.pid, signal.SIGCONT)
    eventually(lambda: jobs.shown_state(get(store, run)) == "running")
    os.kill(worker.pid, signal.SIGSTOP)
    jobs.stop(run.id)  # a process that is held gets no signal but the last
    assert "did not stop" in wait_for(store, run, "stopped").sentence


def test_a_worker_that_the_system_kills(jobs: Jobs, settings: Settings, store: Store, person: str) -> None:
    run = jobs.submit_lines(person, {"model": "slow"})
    worker = under_way(settings, store, run)
    os.kill(worker.pid, signal.SIGKILL)
    failed = wait_for(store, run, "stopped", "failed")
    assert (failed.state, failed.sentence) == ("failed", ending.BY_SYSTEM)
    assert Watcher(settings, store).view(run.id).sentence == ending.BY_SYSTEM  # every tab says the same
    eventually(lambda: not psutil.pid_exists(worker.pid))
    jobs.resume(run.id)
    assert wait_for(store, run, "done", "stopped", "failed").state == "done"


@pytest.mark.parametrize(("behaviour", "sentence"), [
    ("refuses", "The card is empty. Write one."), ("dies", "Segmentation fault"),
    ("late", "The disk is full. Free some space, then press Resume.")])
def test_why_a_run_failed(behaviour: str, sentence: str, jobs: Jobs, settings: Settings, store: Store, person: str) -> None:
    run = jobs.submit_lines(person, {"model": behaviour})
    failed = wait_for(store, run, "done", "failed", "stopped")
    assert failed.state == "failed" and sentence in failed.sentence and "--" not in failed.sentence
    assert Watcher(settings, store).view(run.id).sentence
    assert runs.events(store, run.id)[-1]["event"] == "Failed"


def test_a_worker_that_cannot_be_started(settings: Settings, store: Store, person: str) -> None:
    jobs = Jobs(Settings(settings.home, poll_seconds=0.05, command=("/nowhere/python",)), store)
    jobs.start()
    run = jobs.submit_lines(person, {"model": "quick"})
    assert "could not be started" in wait_for(store, run, "failed").sentence
    jobs.close()


def test_one_at_a_time_from_any_thread(jobs: Jobs, settings: Settings, store: Store, person: str) -> None:
    made: list[runs.Run] = []
    most = [0]
    threads = [threading.Thread(target=lambda: made.append(jobs.submit_lines(person, {"model": "quick"}))) for _ in range(6)]
    for thread in threads:
        thread.start()

    def all_done() -> bool:
        most.append(len(runs.list_runs(store, states=runs.ACTIVE)))
        return len(made) == 6 and all(get(store, run).state == "done" for run in made)

    eventually(all_done)
    assert max(most) == 1
    spans = sorted((found[0].time, found[-1].time) for found in
                   (list(event_file.read(settings.run_events(run.id))) for run in made))
    assert all(one[1] < other[0] for one, other in itertools.pairwise(spans))


def test_a_run_that_waits_is_stopped_before_it_begins(jobs: Jobs, settings: Settings, store: Store, person: str) -> None:
    first = jobs.submit_lines(person, {"model": "slow"})
    second = jobs.submit_lines(person, {"model": "quick"})
    under_way(settings, store, first)
    assert jobs.shown_state(get(store, second)) == "queued"
    jobs.stop(second.id)
    assert get(store, second).state == "stopped" and not settings.run_folder(second.id).exists()
    jobs.resume(second.id)
    jobs.stop(first.id)
    assert wait_for(store, second, "done").state == "done"


def test_a_strange_process_with_the_same_number_is_never_touched(settings: Settings, store: Store, person: str) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        started = psutil.Process(stranger.pid).create_time()
        assert process.is_alive(Identity(stranger.pid, started))
        other = Identity(stranger.pid, started - 100)
        assert not process.is_alive(other) and not process.interrupt(other) and not process.kill(other)
        run = runs.add(store, person, 1, "lines", "old", {"model": "slow"})
        assert runs.claim_next(store)
        runs.update(store, run.id, state="running", pid=other.pid, process_started=other.started)
        jobs = Jobs(settings, store)
        jobs.start()
        found = get(store, run)
        assert (found.state, found.sentence) == ("stopped", ending.CLOSED)
        jobs.kill(run.id)
        jobs.close()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


STUDIO = """
import sys, time
from pathlib import Path
from studio.settings import Settings
from studio.store.database import open_store
from studio.workers.jobs import Jobs
settings = Settings(Path(sys.argv[1]), poll_seconds=0.05, command=(sys.executable, "-S", sys.argv[3]))
jobs = Jobs(settings, open_store(settings.database))
jobs.start()
jobs.submit_lines(sys.argv[2], {"model": "slow"})
time.sleep(60)
"""


def test_a_studio_that_is_killed_loses_nothing(settings: Settings, store: Store, person: str) -> None:
    studio = subprocess.Popen([sys.executable, "-c", STUDIO, str(settings.home), person, str(STUB)], cwd=PACKAGES)
    eventually(lambda: runs.list_runs(store, states=("running",)))
    run = runs.list_runs(store)[0]
    worker = under_way(settings, store, run)
    studio.kill()
    studio.wait()
    eventually(lambda: not process.is_alive(worker))
    assert kinds(settings, run) == ["Started", "Stage", "Stopped"]  # it saw the end of its leash, and saved
    assert get(store, run).state == "running"
    jobs = Jobs(settings, store)
    jobs.start()
    found = get(store, run)
    assert (found.state, found.sentence) == ("stopped", ending.CLOSED)
    jobs.resume(run.id)
    assert wait_for(store, run, "done", "failed").state == "done"
    jobs.close()


def test_what_ended_while_no_studio_looked_is_found(settings: Settings, store: Store, person: str) -> None:
    run = runs.add(store, person, 1, "lines", "old", {"model": "quick"})
    assert runs.claim_next(store)
    subprocess.run([sys.executable, "-S", str(STUB), *prepare(settings, store, run)], check=True, stdin=subprocess.DEVNULL)
    jobs = Jobs(settings, store)
    jobs.start()
    assert get(store, run).state == "done" and len(lines.sets(store, person)) == 1
    jobs.close()


def test_a_worker_that_was_never_written_down_is_found_and_awaited(settings: Settings, store: Store, person: str) -> None:
    run = runs.add(store, person, 1, "lines", "old", {"model": "slow"})
    assert runs.claim_next(store)
    work = settings.run_folder(run.id) / "work"
    worker = process.spawn(settings, prepare(settings, store, run), settings.run_folder(run.id) / "log.txt")
    eventually((work / "step").exists)
    jobs = Jobs(settings, store)
    jobs.start()
    assert get(store, run).state == "stopping"
    with pytest.raises(UserError):
        jobs.resume(run.id)  # two processes must not work in one folder
    worker.let_go()
    found = wait_for(store, run, "stopped", "failed")
    assert (found.state, found.sentence) == ("stopped", ending.CLOSED) and worker.process.wait(5) == 130
    jobs.close()


def test_closing_lets_runs_save(settings: Settings, store: Store, person: str) -> None:
    jobs = Jobs(settings, store)
    jobs.start()
    run = jobs.submit_lines(person, {"model": "slow"})
    worker = under_way(settings, store, run)
    jobs.close()
    found = get(store, run)
    assert (found.state, found.sentence) == ("stopped", ending.CLOSED) and not process.is_alive(worker)
    assert kinds(settings, run)[-1] == "Stopped"


@pytest.mark.parametrize("count", [2, 120])
def test_a_prune_follows_the_lines_where_they_are_enough(settings: Settings, store: Store, person: str, count: int) -> None:
    jobs = Jobs(settings, store)
    run = jobs.submit_lines(person, {"model": f"many/quick-{count}"})
    with pytest.raises(UserError, match="colour"):
        jobs.follow(run.id, {"colour": 1}, "Whole")
    jobs.follow(run.id, {"model": "quick", "sparsity": 0.5}, "Whole")
    assert jobs.follows(run.id)
    jobs.start()
    wait_for(store, run, "done")
    eventually(lambda: not jobs.follows(run.id))
    made = lines.sets(store, person)[0]
    following = lambda: runs.list_runs(store, person, kinds=["prune"])
    if count == 2:
        said = "The lines are there, but pruning did not begin. The set gives 2 usable lines"
        eventually(lambda: get(store, run).sentence.startswith(said))
        assert made.state != "approved" and following() == []
    else:
        eventually(lambda: following() and following()[0].state == "done")
        assert [(one.name, one.spec["sparsity"], one.line_set) for one in following()] == [("Whole", 0.5, made.id)]
        assert lines.sets(store, person)[0].name.endswith(", not read")
    jobs.close()


def test_what_cannot_be_begun_is_said_at_once(jobs: Jobs, settings: Settings, store: Store, person: str) -> None:
    draft = lines.add_set(store, person, 1, [{"question": "Who?", "answer": "I."}], {})
    with pytest.raises(UserError, match="not approved"):
        jobs.submit_prune(person, {"model": "quick"}, draft.id, "first")
    with pytest.raises(UserError, match="not in the library"):
        jobs.submit_prune(person, {"model": "quick"}, "nothing", "first")
    with pytest.raises(UserError, match="colour"):
        jobs.submit_lines(person, {"colour": 1})
    run = jobs.submit_lines(person, {"model": "quick"})
    with pytest.raises(UserError, match="finished pruned model"):
        jobs.submit_export(run.id, "Zoë", False)
    assert wait_for(store, run, "done")

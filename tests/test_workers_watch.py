"""Events as they grow: the tail of a file, the view of a run, and one reader for all tabs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.base import events
from engine.base.event_file import append, decode, encode, read
from engine.base.events import Failed, Finished, Saved, Stage, Started, Step, Stopped, Warned
from engine.base.pruning_events import Lines, MaskSnapshot, Measured
from studio.settings import Settings
from studio.store import characters, runs
from studio.store.database import Store, open_store
from studio.workers import watch
from studio.workers.view import LEARNING, RunView
from studio.workers.watch import Tail, Watcher

LOADING, MEASURING = ("load_model", ""), ("measure", "")
STAGES = [LOADING, ("write_answers", ""), LEARNING, MEASURING]


def step(done: int, loss: float = 1.0, time: float = 0.0, total: int = 10) -> Step:
    return Step(LEARNING[0], done, total, {"loss": loss}, time=time)


def losses(view: RunView) -> list[tuple[int, float]]:
    """Step and loss of what was learned."""
    return [(one.event.done, one.event.values["loss"]) for one in view.moments if isinstance(one.event, Step)]


def view_of(*given: events.Event) -> RunView:
    view = RunView()
    for event in given:
        view.add(event)
    return view


def test_a_torn_last_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "events.jsonl")
    assert tail.read_new() == []  # not there yet
    append(tail.path, Warned("Grüße", time=1))
    line = encode(Warned("second\u2028line", time=2)).encode()
    with tail.path.open("ab") as file:
        file.write(line[:20])
    assert tail.read_new() == [Warned("Grüße", time=1)] and tail.read_new() == []
    with tail.path.open("ab") as file:
        file.write(line[20:] + b"\n")
    assert tail.read_new() == [Warned("second\u2028line", time=2)]


def test_a_line_torn_by_a_kill_costs_only_itself(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "events.jsonl")
    torn = encode(Warned('"{"event": ', time=1)).encode()[:-5]
    tail.path.write_bytes(torn + encode(step(1)).encode() + b"\n\xff\n{}\n[1]\n\n")
    append(tail.path, step(2))
    assert tail.read_new() == [step(1), step(2)]


GOOD = {"event": "Step", "stage": LEARNING[0], "done": 2, "total": 10, "values": {"loss": 1.5}, "time": 5.0}
BAD = ["[" * 100_000, '{"event": ' + "[" * 100_000, "5", '"x"', "null", "[1]", "{}", '{"event": []}', '{"event": "Event"}',
       *(json.dumps({**GOOD, **change}) for change in (
           {"time": float("nan")}, {"time": float("inf")}, {"time": -1}, {"time": 1e15}, {"time": "now"}, {"time": None},
           {"done": 1.5}, {"done": True}, {"done": "2"}, {"total": 10**400}, {"values": []},
           {"values": {"loss": "low"}}, {"values": {"loss": [1]}}, {"values": {"\ud800": 1.0}}, {"stage": "\udfff"},
           {"stage": ["a"]}, {"stage": None}, {"stage": "of a later version"})),
       json.dumps({"event": "MaskSnapshot", "step": 1, "sparsity": 0.5, "kept": [[0.5], 3], "changed": [1]}),
       json.dumps({"event": "Started", "character": "a", "model": "b", "sparsity": 0.1, "stages": "load"})]


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_a_bad_line_is_passed_over_by_every_reader(line: str, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(f"{encode(step(1))}\n{line}\n{encode(step(3))}\n", encoding="utf-8")
    with pytest.raises(ValueError):
        decode(line)
    assert list(read(file)) == Tail(file).read_new() == [step(1), step(3)]
    assert decode(json.dumps({**GOOD, "more": 1})) == decode(json.dumps(GOOD)) == step(2, 1.5, 5.0)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_has_no_events(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "events.jsonl")
    assert Tail(tmp_path / "events.jsonl").read_new() == [] == list(read(tmp_path / "events.jsonl"))


def test_an_event_after_a_torn_line_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text('{"event": "Warned", "sen', encoding="utf-8")
    append(file, Saved("pruned_model", os.fsdecode(b"/home/\xff/out"), 5, time=1))
    assert list(read(file)) == [Saved("pruned_model", "/home/?/out", 5, time=1)] == Tail(file).read_new()


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "events.jsonl")
    append(tail.path, step(1))
    append(tail.path, step(2))
    assert len(tail.read_new()) == 2 and tail.generation == 0
    tail.path.write_bytes((encode(step(7)) + "\n").encode())
    assert tail.read_new() == [step(7)] and tail.generation == 1
    tail.path.unlink()
    assert tail.read_new() == []
    other = tmp_path / "other"
    for number in range(5):
        append(other, step(number))
    os.replace(other, tail.path)
    assert len(tail.read_new()) == 5 and tail.generation == 2


def test_a_run_as_its_page_shows_it() -> None:
    snapshot = MaskSnapshot(2, 0.25, [[1.0, 0.5]], [0], [1], time=14)
    view = view_of(
        Started("Zoë", "starter", 0.25, STAGES, time=1), Stage("load_model", time=2), Warned("It is slow.", time=3),
        Stage(LEARNING[0], 10, time=10), step(1, 3.0, 12), Measured("mask_step", "validation", 2.0, 0.5, 3.0, 16, 300, 0, time=13),
        step(2, 2.5, 14), snapshot, Lines("x", 40, 8, 8, {"too_long": 2}, time=14), Saved("pruned_model", "/x", 5, time=14))
    assert {name: stage.state for name, stage in view.stages.items()} == {
        LOADING: "done", ("write_answers", ""): "skipped", LEARNING: "running", MEASURING: "waiting"}
    stage = view.current_stage
    assert stage and (stage.key, stage.done, stage.total, stage.seconds, stage.eta) == (LEARNING, 2, 10, 4.0, 16.0)
    assert view.stages[LOADING].seconds == 8
    assert losses(view) == [(1, 3.0), (2, 2.5)]
    assert [(one.at, one.event) for one in view.moments if one.event == snapshot] == [(13, snapshot)]
    assert [(one.event.kl, one.stage) for one in view.moments if isinstance(one.event, Measured)] == [(2.0, LEARNING)]
    assert view.warnings == ["It is slow."] and view.revision == 10
    view.add(Measured("dense", "test", 0.0, 1.0, 2.0, 48, 900, time=20))
    view.add(Measured("before_tuning", "validation", 0.5, 0.7, 2.0, 16, 300, time=21))
    assert list(view.readings) == ["dense"] and view.readings["dense"].lines == 48
    view.add(Finished("/out", 30, time=31))
    assert view.stages[LEARNING].state == "done" and view.stages[MEASURING].state == "skipped" and view.sentence == ""


def test_a_resumed_run_goes_on_where_it_was_and_repeats_nothing() -> None:
    view = view_of(Started("Zoë", "starter", 0.25, STAGES, time=1), Stage("load_model", time=2), Stage(LEARNING[0], 10, time=4),
                   step(1, 3.0, 6), step(2, 2.0, 8), Stopped("Stopped.", time=9))
    assert view.stages[LEARNING].state == "stopped" and view.sentence == "Stopped." and view.stages[LEARNING].seconds == 4
    shown = view.moments
    for event in (Started("Zoë", "starter", 0.25, STAGES, True, time=1000), Stage("load_model", time=1001),
                  Stage(LEARNING[0], 10, time=1010), step(2, 2.1, 1014)):
        view.add(event)
    assert losses(view) == [(1, 3.0), (2, 2.1)]
    assert [one.event for one in shown] == [step(1, 3.0, 6), step(2, 2.0, 8)]  # what a tab still draws did not change
    assert [one.at for one in view.moments] == [5, 21]  # the time in between is not work: 8 s, and 14 of the second process
    assert view.sentence == "" and view.ending is None
    stage = view.stages[LEARNING]
    assert (stage.state, stage.done, stage.seconds, stage.eta) == ("running", 2, 8.0, 32.0)  # by the pace of this process
    view.add(Failed("The disk is full.", time=5000))  # said by the studio, long after the worker had died
    assert view.stages[LEARNING].state == "failed" and view.stages[LEARNING].seconds == 8.0
    assert view.sentence == "The disk is full."


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "studio.db")


@pytest.fixture
def run(store: Store) -> runs.Run:
    person = characters.create(store, {"spec": "chara_card_v3", "spec_version": "3.0", "data": {"name": "Zoë", "description": "x"}})
    return runs.add(store, person.id, 1, "prune", "first", {})


def write(settings: Settings, run: runs.Run, *given: events.Event) -> Path:
    path = settings.run_events(run.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write("".join(encode(event) + "\n" for event in given).encode())
    return path


def test_looking_costs_the_same_after_ten_and_after_ten_thousand_events(
        tmp_path: Path, store: Store, run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(tmp_path)
    monkeypatch.setattr(watch, "FRESH", 0.0)
    watcher = Watcher(settings, store)
    read = [0]
    real = Tail.read_new

    def counted(tail: Tail) -> list[events.Event]:
        before = tail.offset
        found = real(tail)
        read.append(tail.offset - before)
        return found

    monkeypatch.setattr(Tail, "read_new", counted)

    write(settings, run, Started("Zoë", "starter", 0.25, STAGES), Stage(LEARNING[0], 20_000),
          *(step(n, total=20_000) for n in range(1, 9)))
    watcher.view(run.id)
    write(settings, run, step(9, total=20_000))
    watcher.view(run.id)
    first_read = read[-1]
    write(settings, run, *(step(n, total=20_000) for n in range(10, 10_010)))
    view = watcher.view(run.id)
    assert len(view.moments) == 10_009
    write(settings, run, step(10_010, total=20_000))
    assert watcher.view(run.id) is view and len(view.moments) == 10_010
    assert 0 < read[-1] < first_read + 20  # bytes of one event, not of all
    revision = view.revision
    assert watcher.view(run.id).revision == revision and read[-1] == 0


def test_many_tabs_cost_one_reading(tmp_path: Path, store: Store, run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, opened = Settings(tmp_path), []
    write(settings, run, step(1))
    real = Tail.read_new
    monkeypatch.setattr(Tail, "read_new", lambda tail: opened.append(1) or real(tail))
    watcher = Watcher(settings, store)
    views = [watcher.view(run.id) for _ in range(50)]
    assert len(opened) == 1 and all(view is views[0] for view in views)


def test_the_library_has_the_history_when_the_files_are_gone(tmp_path: Path, store: Store, run: runs.Run,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FRESH", 0.0)
    settings = Settings(tmp_path)
    history: list[Any] = [Started("Zoë", "starter", 0.25, STAGES, time=1), Stage(LEARNING[0], 2, time=2), step(1, 3.0, 3, 2),
                          step(2, 2.0, 4, 2), Finished("", 4, time=5)]
    watcher = Watcher(settings, store)
    assert watcher.view(run.id).revision == 0  # nothing has come yet
    runs.set_events(store, run.id, [events_as_dict(event) for event in history])
    view = watcher.view(run.id)
    assert losses(view) == [(1, 3.0), (2, 2.0)] and isinstance(view.ending, Finished)
    assert watcher.view(run.id) is view
    seen = view.revision
    write(settings, run, *history[:3])  # the files are there after all
    view = watcher.view(run.id)
    assert losses(view) == [(1, 3.0)] and view.ending is None and view.revision > seen
    assert Watcher(settings, store).view("unknown").revision == 0


def events_as_dict(event: events.Event) -> dict[str, Any]:
    import json

    return dict(json.loads(encode(event)))

"""How long a run still takes: from an earlier run like it, at today's pace, and only with the stages that it has."""

from typing import Any

import pytest
from store_samples import card

from engine.base import events
from engine.base.ids import StageId
from studio.store import characters, runs
from studio.store.database import open_store
from studio.tabs.prune import runs_view
from studio.workers.pace import like, seconds_left, took, typical
from studio.workers.view import RunView

STAGES = [(StageId.LOAD, ""), (StageId.DENSE, ""), (StageId.TUNE, ""), (StageId.EXPORT, "")]


def run_of(*seconds: float, total: int = 0, done: int = 0) -> RunView:
    """A run whose stages took so long; with `total`, the last of them is under way and has done some of its steps."""
    view, now = RunView(), 1000.0
    view.add(events.Started("Zoë", "starter", 0.25, STAGES, time=now))
    for number, ((stage, _), lasted) in enumerate(zip(STAGES, seconds, strict=False)):
        under_way = total and number == len(seconds) - 1
        view.add(events.Stage(stage, total if under_way else 0, time=now))
        now += lasted
        if under_way:
            view.add(events.Step(stage, done, total, {}, time=now))
    if not total:
        view.add(events.Finished("", 1.0, time=now))
    return view


def test_the_rest_takes_as_long_as_it_took_at_todays_pace() -> None:
    earlier = took(run_of(10, 40, 100, 20))
    assert seconds_left(RunView(), earlier) is None
    # Half as fast as then: 100 s for what took 50, and a quarter of the tuning is done after 50 s.
    assert seconds_left(run_of(20, 80, 50, total=4, done=1), earlier) == pytest.approx(150 + 40)
    # Before any stage has ended, the pace is that of then.
    assert seconds_left(run_of(5, total=2, done=1), earlier) == pytest.approx(5 + 160)
    assert seconds_left(run_of(5, total=2, done=1), earlier, by_pace=True) is None
    assert seconds_left(run_of(20, 80, 50, total=4, done=1), {}) is None


def test_a_first_run_is_measured_by_its_preset_once_its_pace_is_known(tmp_path: Any) -> None:
    store = open_store(tmp_path / "studio.db")
    who = characters.create(store, card("Zoë")).id

    def expected(**spec: Any) -> dict[Any, float]:
        return typical(runs.add(store, who, 1, "prune", "new", {"model": "small", "preset": "quick", "sparsity": 0.25, **spec}))

    usual = expected()
    slow = [3 * usual[stage, ""] for stage in (StageId.LOAD, StageId.DENSE)]
    export = 3 * usual[StageId.EXPORT, ""]
    tuning = lambda **steps: seconds_left(run_of(*slow, 10, **steps), usual, by_pace=True)
    expected_of_it = 3 * usual[StageId.TUNE, ""] - 10
    # The tenth step of forty took 10 s, so thirty take 300: that counts a quarter, and the usual time three.
    assert tuning(total=40, done=10) == pytest.approx(300 / 4 + expected_of_it * 3 / 4 + export)
    assert tuning(total=40, done=40) == pytest.approx(export)
    assert (StageId.ANSWERS, "") not in usual  # its lines are there
    assert expected(load_in="16bit") == usual  # as the page asks for it
    assert expected(sparsity=0.5) == expected(load_in="4bit") == expected(recover=True) == expected(preset="standard") == {}


@pytest.mark.parametrize(("spec", "is_like"), [({}, True), ({"sparsity": 0.1}, True), ({"sparsity": 0.5}, False),
                                               ({"model": "small"}, False), ({"bake": True}, False), ({"preset": "try"}, False)])
def test_only_a_run_with_the_same_steps_on_the_same_model_is_like_another(tmp_path: Any, spec: dict[str, Any],
                                                                         is_like: bool) -> None:
    store = open_store(tmp_path / "studio.db")
    who = characters.create(store, card("Zoë")).id
    base = {"model": "starter", "preset": "quick", "sparsity": 0.25}
    done = runs.update(store, runs.add(store, who, 1, "prune", "old", {**base, **spec}).id, state="done")
    run = runs.add(store, who, 1, "prune", "new", {**base, "bake": False, "seed": 3})
    assert like(run, [run, done]) == (done if is_like else None)


def test_stages_that_a_run_cannot_have_are_not_on_the_page(tmp_path: Any) -> None:
    store = open_store(tmp_path / "studio.db")
    who = characters.create(store, card("Zoë")).id
    view = RunView()
    view.add(events.Started("Zoë", "starter", 0.25, [(one, "") for one in (
        StageId.LOAD, StageId.ANSWERS, StageId.LEARN_MASK, StageId.BAKE, StageId.RECOVER, StageId.TUNE)]))
    shown = {}
    for sparsity, bake in ((0.25, False), (0.5, True)):
        run = runs.add(store, who, 1, "prune", "x", {"model": "starter", "preset": "quick", "sparsity": sparsity, "bake": bake})
        shown[bake] = runs_view.stages_html(run, view)
    assert [text.count("<li") for text in shown.values()] == [2, 4]
    assert "Bake" not in shown[False] and "Bake" in shown[True] and "Write the answers" not in shown[True]

"""The pictures of a run: what the engine says for them, and that none of them is ever without something to see."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from small_job import make_job, run_job, work_of
from tiny import find, make_tiny, random_examples

from engine.base.event_file import encode
from engine.base.events import Event, Step
from engine.base.pruning_events import Answered, ChannelUse, LayerTuned, MaskSnapshot, Measured
from engine.models.loading import load_model
from engine.models.packing import pack
from engine.pipeline import prune
from engine.pruning.cutting import kept_indices
from engine.pruning.importance import by_importance, log_ratio, random_scores, read_activations, top_channels
from engine.pruning.reconstruction import Refit, refit_propagated
from engine.stages import picture
from studio.figures import theme
from studio.store.runs import Run
from studio.tabs.prune.pictures import figures_of
from studio.workers.view import RunView

pytestmark = pytest.mark.usefixtures("quick_proof")
SMALL: dict[str, Any] = {"calling": "Zoë! ", "extra_samples": 0, "resampled_copies": 0}
RUN = cast(Run, SimpleNamespace(summary={}, spec={}))


@pytest.fixture(scope="module")
def start_wins(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """The events of a job that learns no mask."""
    return run_job(llama, tmp_path_factory.mktemp("pictures") / "out", mask_from=0.4, tuning_epochs=0.5, **SMALL)


def of(seen: list[Event], kind: type) -> list[Any]:
    return [event for event in seen if isinstance(event, kind)]


def test_a_run_says_what_its_pictures_need(start_wins: list[Event]) -> None:
    uses, cuts, answers = (of(start_wins, kind) for kind in (ChannelUse, MaskSnapshot, Answered))
    assert 0 < len(uses) <= picture.SHOWN and uses[-1].done == uses[-1].total and uses[-1].others[0] == picture.ASSISTANT
    assert uses[-1].tokens > uses[0].tokens > 0 and uses[-1].other_tokens > 100
    (cut,) = cuts
    assert cut.step == 0 and sum(cut.otherwise) > 0 and np.allclose(np.mean(cut.kept, axis=1), 0.75)
    assert [one.what for one in answers] == ["dense", "start_before_reconstruction", "start_after_reconstruction", "after_tuning"]
    assert len({one.question for one in answers}) == 1
    layers = [(one.stage, one.layer) for one in of(start_wins, LayerTuned)]
    assert layers == [(stage, layer) for stage in ("reconstruct_start", "tune_layers") for layer in (0, 1)]
    assert all(one.after < one.before for one in of(start_wins, LayerTuned) if one.stage == "reconstruct_start")
    first = start_wins.index(uses[0])
    assert first < start_wins.index(cut) < start_wins.index(of(start_wins, LayerTuned)[0])
    assert max(len(encode(event)) for event in start_wins) < 4_000


def test_no_picture_is_ever_without_something_to_see(start_wins: list[Event]) -> None:
    """The figure of the mask was once a plain rectangle where the start wins: there every layer keeps the same share."""
    view, drawn = RunView(), {}
    for event in start_wins:
        view.add(event)
        for name, key, draw in figures_of(RUN, view, view.moments):
            if drawn.get(name) == key:
                continue
            figure, drawn[name] = draw(), key
            assert figure.data and (name == "ladder" or len(theme.says_of(figure)) > 40), name
            if figure.data[0].type == "heatmap":
                grid = np.nan_to_num(np.concatenate([np.asarray(trace.z, float) for trace in figure.data], axis=1))
                assert len(np.unique(grid.round(2))) > 1 and (grid[0] != grid[1]).any(), name
    assert set(drawn) == {"used", "cut", "errors", "course", "ladder"}
    held = [one.event.kl for one in view.moments if isinstance(one.event, Measured)]
    assert len(held) >= 4 and held[-1] < held[0]


def test_a_run_of_an_earlier_version_lacks_the_pictures_and_opens(start_wins: list[Event]) -> None:
    view = RunView()
    for event in start_wins:
        if isinstance(event, MaskSnapshot):
            event = MaskSnapshot(event.step, event.sparsity, event.kept, event.changed, time=event.time)
        if not isinstance(event, ChannelUse | Answered):
            view.add(event)
    assert [name for name, *_ in figures_of(RUN, view, view.moments)] == ["errors", "course", "ladder"]


def test_a_mask_that_learns_shows_where_it_changes(llama: Path, tmp_path: Path) -> None:
    view = RunView()
    for event in run_job(llama, tmp_path / "out", tuning_epochs=0, **SMALL):
        view.add(event)
    assert [name for name, *_ in figures_of(RUN, view, view.moments)] == ["used", "cut", "errors", "course", "changes", "ladder"]
    assert len([one for one in view.moments if isinstance(one.event, Step)]) == 4


def test_what_is_shown_survives_a_stop_and_costs_no_second_reading(llama: Path, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    job, view = make_job(llama, tmp_path / "out", mask_from=0.4, tuning_epochs=0, **SMALL), RunView()
    stream = prune(job, work_of(job.out))
    for event in stream:
        view.add(event)
        if isinstance(event, Answered) and event.what == "start_before_reconstruction":
            break
    stream.close()  # type: ignore[attr-defined]
    before = figures_of(RUN, view, view.moments)
    monkeypatch.setattr(picture, "read_activations", None)
    for event in prune(job, work_of(job.out), resume=True):
        view.add(event)
    after = figures_of(RUN, view, view.moments)
    assert [name for name, *_ in before] == ["used", "cut", "course"]
    assert [name for name, *_ in after] == ["used", "cut", "errors", "course", "ladder"]
    assert before[0][2]().to_json() == after[0][2]().to_json()
    keys = [one.event.what for one in view.moments if isinstance(one.event, Answered)]
    assert sorted(keys) == sorted(set(keys))


def test_the_ratio_is_of_root_mean_squares_and_ignores_what_is_next_to_nothing() -> None:
    own, others = torch.tensor([[4.0, 1.0, 1e-9, 0.0]]), torch.tensor([[1.0, 4.0, 1e-12, 0.0]])
    assert np.allclose(log_ratio(own, others), [[1.0, -1.0, 0.0, 0.0]], atol=2e-3)
    halves = torch.tensor([[8.0] * 64 + [0.0] * 64]), torch.tensor([[2.0] * 128])
    assert np.allclose(np.array(log_ratio(*halves))[0, :32], 1.0) and len(log_ratio(*halves)[0]) == 64
    assert by_importance(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.0, 3.0, 1.0, 2.0]]), 2) == [[3.0, 2.0]]


def test_a_characters_own_use_is_read_where_it_speaks(llama: Path) -> None:
    model: Any = load_model(find(str(llama)), torch.float32)
    examples = random_examples([5, 9, 4])
    *_, together = read_activations(model, pack(examples, 90))
    *_, alone = read_activations(model, pack(examples, 1))  # each in a row of its own, with the prefix again
    assert torch.allclose(together.spoken, alone.spoken, rtol=1e-3)
    assert not torch.allclose(together.norms, alone.norms, rtol=1e-2)


def test_a_layers_error_is_that_of_what_it_puts_out_on_rows_it_was_not_fitted_on(tmp_path: Path) -> None:
    model: Any = load_model(find(str(make_tiny(tmp_path / "tiny"))), torch.float32)
    examples = random_examples([12] * 60)
    rows, held_out = pack(examples[:50], 90), pack(examples[50:], 90)
    mask = top_channels(random_scores(2, 64, 1), 32)
    found = [one for one in refit_propagated(model, rows, kept_indices(mask), 0.03, 0.0, held_out) if one is not None]
    plain = [one for one in refit_propagated(model, rows, kept_indices(mask), 0.03, 0.0) if one is not None]
    assert all(torch.equal(one.columns, other.columns) for one, other in zip(found, plain, strict=True))
    assert {(one.before, one.after) for one in plain} == {(None, None)}
    assert all(0 < one.after < one.before for one in cast(list[Any], found))
    whole = [one for one in refit_propagated(model, rows, kept_indices(torch.ones(2, 64)), 0.03, 1.0, held_out) if one is not None]
    assert all(one.before == pytest.approx(0, abs=1e-6) for one in cast(list[Refit], whole))

"""Layer tuning: closer to the dense stream than its least squares, what the cut model computes, and going on after a stop."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import find, make_tiny, random_examples

from engine.base.families import FAMILIES
from engine.models.ffn import feed_forwards
from engine.models.loading import load_model
from engine.models.packing import pack, run_row
from engine.pruning import layer_tuning
from engine.pruning.cutting import as_if_cut, cut, kept_indices
from engine.pruning.importance import random_scores, top_channels
from engine.pruning.layer_tuning import LOSSES, Fitting, LayerResult, RowRead, TunedLayer, Tuning, plain_layers, tune_layers
from engine.pruning.reconstruction import begin, can_propagate, refit_propagated

TUNING = Tuning(epochs=60, rate=0.05, seed=0, ridge=0.03, share=0.7)
ROWS = pack(random_examples([12] * 20), 90)
EXAMPLES = random_examples([12] * 220)  # enough that what is learned from most of them holds on the rest
MANY, HELD_OUT = pack(EXAMPLES[:200], 900, 7), pack(EXAMPLES[200:], 900, 7)


@pytest.fixture(scope="module", params=sorted(set(FAMILIES) - {"gemma2", "gemma3_text", "olmo2"}))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    changes = {"mlp_bias": True} if request.param == "llama" else {}
    model = load_model(find(make_tiny(tmp_path_factory.mktemp(request.param), request.param, **changes)), torch.float32).cpu()
    for name, weights in model.named_parameters():
        if name.endswith("bias"):
            weights.data += torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)) * 0.1
    assert can_propagate(model)
    return model


def mask_of(model: Any) -> torch.Tensor:
    return top_channels(random_scores(2, 64, 1), 32)


def tuned(model: Any, tuning: Tuning, known: list[LayerResult] | None = None) -> list[TunedLayer]:
    return [one.layer for one in results(model, tuning, known or [])]


def results(model: Any, tuning: Tuning, known: Sequence[LayerResult] = (),
            starts: list[TunedLayer] | None = None) -> list[LayerResult]:
    """On few rows, which decide as well: what is fitted is seen on these."""
    found = tune_layers(model, ROWS, ROWS, kept_indices(mask_of(model)), tuning, known, starts)
    return [one for one in found if isinstance(one, LayerResult)]


@torch.no_grad()
def test_a_long_layer_can_be_stopped_every_so_many_tokens(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_tuning, "BATCH", 16)
    monkeypatch.setattr(layer_tuning, "BETWEEN", 64)
    places = []
    for epochs in (0, 10):
        tuning = dataclasses.replace(TUNING, epochs=epochs)
        places.append(sum(not isinstance(found, LayerResult)
                          for found in tune_layers(model, ROWS, ROWS, kept_indices(mask_of(model)), tuning)))
    tokens = sum(stream.dense.shape[1] for stream in begin(model, ROWS))
    assert places[1] - places[0] == 2 * (10 * tokens // 16 * 16 // 64)  # two layers


@torch.no_grad()
def error(model: Any, states: list[torch.Tensor]) -> float:
    """How far the model's final states lie from `states`."""
    return sum(float((run_row(model, row) - other).square().sum()) for row, other in zip(ROWS, states, strict=True))


@torch.no_grad()
def test_tuned_layers_come_closer_than_least_squares(model: Any) -> None:
    mask = mask_of(model)
    before = [parameter.clone() for parameter in model.parameters()]
    states = [run_row(model, row) for row in ROWS]
    columns = [one.columns for one in refit_propagated(model, ROWS, kept_indices(mask), 0.03, 0.7) if one is not None]
    layers = tuned(model, TUNING)
    with as_if_cut(model, mask, columns):
        plain = error(model, states)
    with as_if_cut(model, mask, [layer.down for layer in layers], [(layer.gate, layer.up) for layer in layers]):
        assert error(model, states) < 0.8 * plain
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@torch.no_grad()
def test_a_model_in_bf16_is_tuned_in_bf16_and_as_well(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [run_row(model, row) for row in ROWS]
    seen: list[torch.dtype] = []
    activation = layer_tuning._activation

    def recorded(ffn: Any) -> Any:
        return lambda gate: seen.append(gate.dtype) or activation(ffn)(gate)

    monkeypatch.setattr(layer_tuning, "_activation", recorded)
    errors = {}
    for dtype in (torch.float32, torch.bfloat16):
        seen.clear()
        narrow = copy.deepcopy(model).to(dtype)
        layers = [TunedLayer(*(part.float() for part in vars(layer).values())) for layer in tuned(narrow, TUNING)]
        assert set(seen) == {dtype}
        with as_if_cut(model, mask_of(model), [layer.down for layer in layers], [(layer.gate, layer.up) for layer in layers]):
            errors[dtype] = error(model, whole)
    assert errors[torch.bfloat16] < 1.1 * errors[torch.float32]


@torch.no_grad()
def test_without_steps_it_is_least_squares(model: Any) -> None:
    layers = tuned(model, Tuning(1e-9, 0.0, 0, 0.03, 0.7, torch.float32))
    kept = kept_indices(mask_of(model))
    columns = [one.columns for one in refit_propagated(model, ROWS, kept, 0.03, 0.7) if one is not None]
    for layer, column, ffn, index in zip(layers, columns, feed_forwards(model), kept, strict=True):
        torch.testing.assert_close(layer.down, column, rtol=1e-3, atol=1e-4)
        assert torch.equal(layer.gate, ffn.gate_and_up()[0][index])


@torch.no_grad()
def test_the_cut_model_computes_what_was_measured(model: Any) -> None:
    mask, layers = mask_of(model), tuned(model, Tuning(2, 0.01, 0, 0.03, 0.7))
    columns, gates = [layer.down for layer in layers], [(layer.gate, layer.up) for layer in layers]
    with as_if_cut(model, mask, columns, gates):
        states = [run_row(model, row) for row in ROWS]
    assert error(cut(copy.deepcopy(model), kept_indices(mask), columns, gates), states) < 1e-5 * len(ROWS)


@torch.no_grad()
def test_it_may_begin_with_other_weights(model: Any) -> None:
    first = tuned(model, dataclasses.replace(TUNING, epochs=5))
    resting = dataclasses.replace(TUNING, rate=0.0, rounding=torch.float32)
    again = [one.layer for one in results(model, resting, (), first)]
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("gate", "up", "down"))
    further = results(model, TUNING, (), first)
    on = [one.layer for one in further]
    resumed = [one.layer for one in results(model, TUNING, further[:1], first)]
    assert not torch.equal(on[1].gate, first[1].gate) and torch.equal(on[1].gate, resumed[1].gate)
    states = [run_row(model, row) for row in ROWS]
    errors = []
    for layers in (first, on):
        with as_if_cut(model, mask_of(model), [layer.down for layer in layers], [(layer.gate, layer.up) for layer in layers]):
            errors.append(error(model, states))
    assert errors[1] < errors[0]


@torch.no_grad()
def test_plain_layers_are_what_is_cut(model: Any) -> None:
    kept = kept_indices(mask_of(model))
    columns = [ffn.down.weight[:, index] for ffn, index in zip(feed_forwards(model), kept, strict=True)]
    for layer, ffn, index in zip(plain_layers(model, kept, columns, None), feed_forwards(model), kept, strict=True):
        assert torch.equal(layer.gate, ffn.gate_and_up()[0][index]) and torch.equal(layer.up, ffn.gate_and_up()[1][index])
    gates = [(column.T, column.T) for column in columns]
    assert all(layer.gate is gate for layer, (gate, _) in zip(plain_layers(model, kept, columns, gates), gates, strict=True))


def test_it_goes_on_with_the_same_bits(model: Any) -> None:
    whole = results(model, TUNING)
    again = results(model, TUNING, whole[:1])
    assert [(one.before, one.after) for one in whole] == [(one.before, one.after) for one in again]
    for first, second in zip(whole, again, strict=True):
        assert all(torch.equal(getattr(first.layer, name), getattr(second.layer, name)) for name in ("gate", "up", "down"))


def deep(folder: Path, **changes: Any) -> Any:
    return load_model(find(make_tiny(folder, "qwen2", **{"num_hidden_layers": 6, **changes})), torch.float32).cpu()


@torch.no_grad()
def test_a_layer_that_got_worse_keeps_its_least_squares_and_three_in_a_row_end_it(tmp_path: Path) -> None:
    model, ruinous = deep(tmp_path), dataclasses.replace(TUNING, rate=30.0, epochs=2, rounding=torch.float32)
    mask = top_channels(random_scores(6, 64, 1), 32)
    found = [one for one in tune_layers(model, MANY, HELD_OUT, kept_indices(mask), ruinous) if isinstance(one, LayerResult)]
    tried = [one for one in found if one.after is not None]
    assert tried == found[:LOSSES] and all(one.after > one.before for one in tried)  # type: ignore[operator]
    columns = [one.columns for one in refit_propagated(model, MANY, kept_indices(mask), 0.03, 0.7) if one is not None]
    for result, column in zip(found, columns, strict=True):
        assert not result.better
        torch.testing.assert_close(result.layer.down, column, rtol=1e-3, atol=1e-4)
    resumed = tune_layers(model, MANY, HELD_OUT, kept_indices(mask), ruinous, found[:2])
    assert [one.after for one in resumed if isinstance(one, LayerResult)] == [one.after for one in found]  # the losses before count


@torch.no_grad()
def test_the_size_of_the_weights_does_not_matter(tmp_path: Path) -> None:
    """A model whose W_up is a tenth and whose W_down is ten times as large computes the same, and is tuned alike."""
    errors = []
    for factor in (1.0, 0.1):
        model = deep(tmp_path / str(factor), num_hidden_layers=2)
        for ffn in feed_forwards(model):
            ffn.gate_and_up()[1].mul_(factor)
            ffn.down.weight.div_(factor)
        errors.append([(one.before, one.after) for one in results(model, dataclasses.replace(TUNING, rounding=torch.float32))])
    for (before, after), (other_before, other_after) in zip(*errors, strict=True):
        assert after is not None and after < 0.9 * before
        assert other_before == pytest.approx(before, rel=0.01) and other_after == pytest.approx(after, rel=0.05)


def plant_sink(model: Any) -> None:
    """Make the prefix's first token a sink: three channels of the first layer fire for it alone, a thousand times as much."""
    ffn, layer = feed_forwards(model)[0], model.model.layers[0]
    token = ROWS[0].tokens[:, :1]
    seen: list[torch.Tensor] = []
    handle = layer.mlp.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model(token)
    handle.remove()
    direction = seen[0][0, 0] / seen[0][0, 0].norm()
    gate, up = ffn.gate_and_up()
    for number, channel in enumerate(kept_indices(mask_of(model))[0][:3].tolist()):
        gate[channel] = up[channel] = 3 * direction
        ffn.down.weight[:, channel] = 0
        ffn.down.weight[number, channel] = 30.0


@torch.no_grad()
def test_a_token_with_massive_activations_does_not_rule(tmp_path: Path) -> None:
    """The other tokens come as close as in a model without such a token."""
    gains = {}
    for planted in (False, True):
        model = deep(tmp_path / str(planted), num_hidden_layers=2)
        if planted:
            plant_sink(model)
        found = tune_layers(model, MANY, HELD_OUT, kept_indices(mask_of(model)), dataclasses.replace(TUNING, epochs=10, rate=0.02))
        gains[planted] = [one.after / one.before for one in found if isinstance(one, LayerResult) and one.after is not None]
    assert all(gain < 0.9 for gain in (*gains[False], *gains[True])), gains


@torch.no_grad()
def test_a_layer_that_is_tuned_says_how_far_it_is(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_tuning, "BATCH", 16)
    monkeypatch.setattr(layer_tuning, "BETWEEN", 64)
    long = dataclasses.replace(TUNING, epochs=10)
    said = list(tune_layers(model, ROWS, ROWS, kept_indices(mask_of(model)), long))
    first = said[: next(place for place, one in enumerate(said) if isinstance(one, LayerResult))]
    read = [one.share for one in first if isinstance(one, RowRead)]
    assert read == sorted(set(read)) and read[-1] == 1 and len(read) > 1
    fitted = [one for one in first if isinstance(one, Fitting)]
    shares = [one.share for one in fitted]
    assert shares == sorted(set(shares)) and 0 < shares[0] < 0.1 and 0.9 < shares[-1] <= 1
    assert 0 < fitted[-1].error < fitted[0].error  # it learns

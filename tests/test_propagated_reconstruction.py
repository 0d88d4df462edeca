"""Least squares of all layers against the slow way: propagated, on what a really pruned model computes below; else each apart."""

from typing import Any

import pytest
import torch
from tiny import find, make_tiny
from torch import Tensor

from engine.base.families import FAMILIES
from engine.models.ffn import decoder, feed_forwards, masked
from engine.models.loading import load_model
from engine.models.packing import Example, Row, pack, run_row
from engine.pruning.cutting import kept_indices, with_columns
from engine.pruning.importance import random_scores, top_channels
from engine.pruning.reconstruction import can_propagate, refit_apart, refit_propagated

NORM_BEHIND = {"gemma2", "gemma3_text", "olmo2"}
RIDGE = 0.05


def model_of(folder: Any, family: str) -> Any:
    return load_model(find(make_tiny(folder, family)), torch.float32).cpu()


def rows_of(seed: int = 3) -> list[Row]:
    draw = torch.randint(1, 300, (24, 20), generator=torch.Generator().manual_seed(seed)).tolist()
    rows = pack([Example((1, 2, 3, *tokens[:8]), tuple(tokens[8:])) for tokens in draw], 120)
    assert len(rows) > 2
    return rows


def read(model: Any, row: Row, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """The stream behind a layer, W_down's input and output there, each (T, n)."""
    seen: dict[str, Tensor] = {}
    ffn = feed_forwards(model)[layer]
    handles = [ffn.down.register_forward_hook(lambda _m, given, out: seen.update(a=given[0], out=out)),
               decoder(model).layers[layer].register_forward_hook(lambda _m, _given, out: seen.update(h=out))]
    run_row(model, row)
    for handle in handles:
        handle.remove()
    return seen["h"][0], seen["a"][0], seen["out"][0]


@torch.inference_mode()
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NORM_BEHIND))
@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_each_layer_fits_what_the_pruned_layers_below_leave(tmp_path: Any, family: str, share: float) -> None:
    model, rows = model_of(tmp_path, family), rows_of()
    assert can_propagate(model)
    ffns = feed_forwards(model)
    factor = getattr(model.config, "residual_multiplier", 1.0)
    mask = top_channels(random_scores(len(ffns), ffns[0].size, 1), ffns[0].size // 2)
    kept = kept_indices(mask)
    before = [parameter.clone() for parameter in model.parameters()]
    columns = [one.columns for one in refit_propagated(model, rows, kept, RIDGE, share) if one is not None]
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    for layer, ffn in enumerate(ffns):
        own = ffn.down.weight[:, kept[layer]]
        below = [*columns[:layer], *(f.down.weight[:, index] for f, index in zip(ffns[layer:], kept[layer:], strict=True))]
        inputs, targets = [], []
        for row in rows:
            h, _, out = read(model, row, layer)
            with masked(model, mask), with_columns(model, kept, below):
                pruned, activation, pruned_out = read(model, row, layer)
            stream = pruned - factor * pruned_out
            inputs.append(activation[:, kept[layer]])
            targets.append(share * (h - stream) / factor + (1 - share) * out)
        a, target = torch.cat(inputs).double(), torch.cat(targets).double()
        root = (RIDGE * a.square().sum(0).mean()).sqrt()
        wide = torch.cat([a, root * torch.eye(a.shape[1], dtype=a.dtype)])
        wanted = torch.linalg.lstsq(wide, torch.cat([target, root * own.T.double()])).solution.T
        assert torch.allclose(columns[layer].double(), wanted, atol=2e-4 * float(wanted.abs().max()))


@torch.inference_mode()
def test_nothing_removed_changes_nothing(tmp_path: Any) -> None:
    model = model_of(tmp_path, "llama")
    ffns = feed_forwards(model)
    everything = [torch.arange(ffns[0].size)] * len(ffns)
    found = [one.columns for one in refit_propagated(model, rows_of(), everything, RIDGE, 1.0) if one is not None]
    for ffn, columns in zip(ffns, found, strict=True):
        assert torch.allclose(columns, ffn.down.weight, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("family", sorted(NORM_BEHIND))
def test_behind_a_norm_each_layer_is_fitted_apart_and_says_its_error(tmp_path: Any, family: str) -> None:
    model, rows, held_out = model_of(tmp_path, family), rows_of(), rows_of(4)
    assert not can_propagate(model)
    kept = kept_indices(top_channels(random_scores(2, 64, 1), 32))
    seen = list(refit_apart(model, rows, kept, RIDGE, held_out))
    assert seen.count(None) == len(rows) + len(held_out)
    plain = [one for one in refit_apart(model, rows, kept, RIDGE) if one is not None]
    for layer, found in enumerate(one for one in seen if one is not None):
        own = torch.cat([row.segments > 0 for row in held_out])
        a, out = (torch.cat([read(model, row, layer)[place] for row in held_out])[own] for place in (1, 2))
        size = out.square().sum(-1)
        sliced = feed_forwards(model)[layer].down.weight[:, kept[layer]]
        for columns, said in ((sliced, found.before), (found.columns, found.after)):
            missed = out - a[:, kept[layer]] @ columns.T
            assert said == pytest.approx(float((missed.square().sum(-1) / size).mean()), rel=1e-4)
        assert found.before and found.after and found.after < found.before
        assert torch.equal(found.columns, plain[layer].columns) and plain[layer].before is plain[layer].after is None

"""Depth pruning: influence by hand, what is dropped, parameters against a real cut, layers passed over and put back."""

import copy
import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from tiny import find, make_tiny
from torch import Tensor

from benchmarks.methods.depth import (
    block_influence,
    blocks_for,
    blocks_to_drop,
    parameters_in_blocks,
    parameters_in_channels,
    skipped,
)
from engine.base.families import FAMILIES
from engine.models.ffn import feed_forwards, masked
from engine.models.loading import load_model
from engine.models.memory_saving import recomputed
from engine.models.packing import Example, pack, run_row
from engine.pruning.cutting import cut

ModelOf = Callable[..., Any]
EVERY_FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))
DRAW = torch.randint(1, 300, (6, 12), generator=torch.Generator().manual_seed(8)).tolist()
ROWS = pack([Example((1, 2, 3, *tokens[:4]), tuple(tokens[4: 6 + number])) for number, tokens in enumerate(DRAW)], 30)


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> ModelOf:
    """A tiny model of a family with three layers, made once; tests leave it as it is."""
    return functools.cache(lambda family, **changes: load_model(find(make_tiny(
        tmp_path_factory.mktemp(family), family, num_hidden_layers=3,
        **({"layer_types": ["full_attention"] * 3} if family == "gemma3_text" else {}), **changes)), torch.float32).cpu())


@torch.inference_mode()
def states(model: Any) -> Tensor:
    return torch.cat([run_row(model, row) for row in ROWS])


def parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def without(model: Any, index: int) -> Any:
    """A copy from which a layer is really gone."""
    shorter = copy.deepcopy(model)
    del shorter.model.layers[index]
    shorter.config.num_hidden_layers -= 1
    return shorter


@EVERY_FAMILY
def test_influence_is_the_mean_over_all_tokens(model_of: ModelOf, family: str) -> None:
    model = model_of(family)
    pairs: list[list[tuple[Tensor, Tensor]]] = [[], [], []]
    handles = [layer.register_forward_hook(lambda _layer, given, output, seen=seen: seen.append((given[0][0], output[0])))
               for layer, seen in zip(model.model.layers, pairs, strict=True)]
    states(model)
    for handle in handles:
        handle.remove()
    cosines = torch.stack([torch.cat([functional.cosine_similarity(*pair, dim=-1) for pair in seen]) for seen in pairs])
    found = block_influence(model, ROWS)
    assert (found.dtype, found.shape, len(ROWS) > 1) == (torch.float32, (3,), True)
    torch.testing.assert_close(found, 1 - cosines.mean(dim=1), atol=1e-5, rtol=1e-4)
    assert not any(layer._forward_hooks for layer in model.model.layers)


@EVERY_FAMILY
def test_a_block_that_does_nothing_has_no_influence_and_can_be_skipped(model_of: ModelOf, family: str) -> None:
    model = copy.deepcopy(model_of(family))
    for weight in (model.model.layers[1].self_attn.o_proj.weight, model.model.layers[1].mlp.down_proj.weight):
        weight.data.zero_()
    influence = block_influence(model, ROWS)
    assert float(influence[1]) == 0 and float(influence[[0, 2]].min()) > 0.01
    assert blocks_to_drop(influence, 1) == [1]
    before = states(model)
    with skipped(model, [1]):
        assert torch.equal(states(model), before)


@pytest.mark.parametrize("index", [0, 1, 2])
@EVERY_FAMILY
def test_skipping_is_the_model_without_the_layer(model_of: ModelOf, family: str, index: int) -> None:
    model = model_of(family)
    before, layers = states(model), list(model.model.layers)
    with skipped(model, [index]):
        assert len(feed_forwards(model)) == 3
        inside = states(model)
    torch.testing.assert_close(inside, states(without(model, index)))
    assert float((inside - before).abs().max()) > 0.05
    assert torch.equal(states(model), before)
    assert all(one is other for one, other in zip(model.model.layers, layers, strict=True))


@pytest.mark.parametrize("recomputed_first", [False, True])
def test_gradients_pass_a_skipped_layer(model_of: ModelOf, recomputed_first: bool) -> None:
    model, expected = model_of("llama"), torch.ones(2, 64, requires_grad=True)
    with masked(shorter := without(model, 1), expected):
        run_row(shorter, ROWS[0]).square().sum().backward()
    mask, layers = torch.ones(3, 64, requires_grad=True), list(model.model.layers)
    for _ in range(2):  # the second time shows whether the first left anything behind
        mask.grad = None
        with ExitStack() as stack:
            order = [lambda: recomputed(model), lambda: skipped(model, [1])]
            for manager in order if recomputed_first else order[::-1]:
                stack.enter_context(manager())
            stack.enter_context(masked(model, mask))
            run_row(model, ROWS[0]).square().sum().backward()
        assert mask.grad is not None
        torch.testing.assert_close(mask.grad[[0, 2]], expected.grad)
        assert not mask.grad[1].any()
        assert list(model.model.layers) == layers
        assert not any("forward" in vars(layer) for layer in layers)


def test_layers_come_back_after_an_error(model_of: ModelOf) -> None:
    model = model_of("llama")
    layers = list(model.model.layers)
    with pytest.raises(KeyError), skipped(model, [0, 2]):
        assert [one is other for one, other in zip(model.model.layers, layers, strict=True)] == [False, True, False]
        raise KeyError
    assert list(model.model.layers) == layers
    with pytest.raises(IndexError), skipped(model, [1, 3]):
        pass
    assert list(model.model.layers) == layers


@pytest.mark.parametrize(("family", "changes"), [*((family, {}) for family in sorted(FAMILIES)),
                                                 ("granite", {"mlp_bias": True})])
def test_parameters_are_those_that_cutting_removes(model_of: ModelOf, family: str, changes: dict[str, Any]) -> None:
    model = model_of(family, **changes)
    small = cut(copy.deepcopy(model), [torch.arange(40)] * 3)
    assert parameters_in_channels(model, 24) == parameters(model) - parameters(small)
    assert parameters_in_blocks(model, 1) == parameters(model) - parameters(without(model, 1))
    assert parameters_in_blocks(model, 2) == 2 * parameters_in_blocks(model, 1)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_blocks_come_nearest_to_the_cut(model_of: ModelOf, family: str) -> None:
    model = model_of(family)
    block = parameters(model) - parameters(without(model, 0))
    counts = {}
    for k in range(1, 65):
        blocks = counts[k] = blocks_for(model, k)
        wanted = parameters_in_channels(model, 64 - k)
        assert all(abs(blocks * block - wanted) <= abs(other * block - wanted) for other in range(3))
    assert (counts[64], counts[1], set(counts.values())) == (0, 2, {0, 1, 2})
    for k in (0, 65):
        with pytest.raises(ValueError, match="k must be"):
            blocks_for(model, k)


def test_the_least_influential_blocks_go() -> None:
    influence = torch.tensor([0.5, 0.1, 0.3, 0.1, 0.9])
    assert [blocks_to_drop(influence, blocks) for blocks in range(5)] == [[], [1], [1, 3], [1, 2, 3], [0, 1, 2, 3]]
    for blocks in (-1, 5):
        with pytest.raises(ValueError, match="can be dropped"):
            blocks_to_drop(influence, blocks)
    with pytest.raises(ValueError, match="no rows"):
        block_influence(torch.nn.Module(), [])

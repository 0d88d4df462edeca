"""Least-squares W_down: optimal, exact where it can be, and put into the model for a while only."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import find, make_tiny
from torch import Tensor

from engine.base.families import FAMILIES
from engine.models.ffn import feed_forwards, masked
from engine.models.loading import load_model
from engine.models.packing import Example, pack, run_row
from engine.pruning import reconstruction
from engine.pruning.cutting import kept_indices, with_columns
from engine.pruning.importance import random_scores, top_channels
from engine.pruning.reconstruction import gram_matrices, layer_groups, refit

ModelOf = Callable[[str], Any]


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> ModelOf:
    """The tiny model of a family, made once."""
    return functools.cache(lambda family: load_model(find(make_tiny(tmp_path_factory.mktemp(family), family)),
                                                     torch.float32).cpu())


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Seeded normal numbers in fp64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def penalised_error(candidate: Tensor, down: Tensor, activations: Tensor, kept: Tensor, ridge: float) -> float:
    """Summed squared error of the outputs, plus the ridge's pull towards the channels' own columns."""
    error = (activations @ down.T - activations[:, kept] @ candidate.double().T).square().sum()
    weight = ridge * activations[:, kept].square().sum(dim=0).mean()
    return float(error + weight * (candidate.double() - down[:, kept]).square().sum())


@pytest.mark.parametrize("ridge", [1e-6, 0.01, 1.0])
@pytest.mark.parametrize("tokens", [200, 7])
def test_no_perturbation_of_the_refit_is_better(ridge: float, tokens: int) -> None:
    down, activations, kept = noise(5, 12), noise(tokens, 12, seed=1), torch.tensor([0, 2, 3, 7, 8, 11])
    best = refit(down.float(), (activations.T @ activations).float(), kept, ridge)
    lowest = penalised_error(best, down, activations, kept, ridge)
    assert lowest < penalised_error(down[:, kept], down, activations, kept, ridge)
    for seed in range(60):
        for size in (1.0, 0.1, 0.01):
            other = best + size * noise(5, 6, seed=seed + 2)
            assert penalised_error(other, down, activations, kept, ridge) > lowest


def test_a_strong_ridge_keeps_the_own_columns() -> None:
    down, activations, kept = noise(5, 12).float(), noise(50, 12, seed=1).float(), torch.tensor([1, 4, 9])
    refitted = refit(down, activations.T @ activations, kept, 1e7)
    torch.testing.assert_close(refitted, down[:, kept], atol=1e-4, rtol=0)


def test_channels_that_depend_on_the_kept_ones_are_replaced_exactly() -> None:
    down, kept = noise(6, 10), torch.tensor([1, 2, 5, 8])
    activations = noise(80, 4, seed=1) @ noise(4, 10, seed=2)  # rank 4: any four channels span the rest
    refitted = refit(down.float(), activations.T @ activations, kept, 1e-10)
    expected = activations @ down.T
    found = activations[:, kept] @ refitted.double().T
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert float((activations[:, kept] @ down[:, kept].T - expected).abs().max()) > 1


def test_channels_that_never_fire_do_no_harm() -> None:
    down, kept = noise(3, 6).float(), torch.tensor([0, 1, 4])
    refitted = refit(down, torch.zeros(6, 6), kept, 1e-3)
    torch.testing.assert_close(refitted, down[:, kept], atol=1e-6, rtol=0)


def make_rows() -> list[Any]:
    """Packed rows of random tokens."""
    draw = torch.randint(1, 300, (8, 14), generator=torch.Generator().manual_seed(5)).tolist()
    examples = [Example((1, 2, 3, *tokens[:8]), tuple(tokens[8:])) for tokens in draw]
    rows = pack(examples, 60)
    assert len(rows) > 1
    return rows


def gram_by_hand(model: Any, layer: int) -> Tensor:
    """Sum over all tokens of a a^T, with a computed from the FFN's input by the formula of the architecture."""
    ffn, inputs = feed_forwards(model)[layer], []
    handle = ffn.module.register_forward_pre_hook(lambda _module, given: inputs.append(given[0][0]))
    for row in make_rows():
        run_row(model, row)
    handle.remove()
    x = torch.cat(inputs).double()
    gate, up = (weights.double() for weights in ffn.gate_and_up())
    act = getattr(ffn.module, "act_fn", None) or ffn.module.activation_fn
    a = act(x @ gate.T) * (x @ up.T)
    return a.T @ a


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.inference_mode()
def test_gram_matrices_sum_over_all_rows(model_of: ModelOf, family: str) -> None:
    model = model_of(family)
    *_, grams = gram_matrices(model, make_rows(), range(2))
    assert sorted(grams) == [0, 1]
    for layer, gram in grams.items():
        torch.testing.assert_close(gram.double(), gram_by_hand(model, layer), atol=1e-3, rtol=1e-4)
    *_, second = gram_matrices(model, make_rows(), range(1, 2))
    assert sorted(second) == [1]
    assert torch.equal(second[1], grams[1])


def test_the_refit_serves_the_model(model_of: ModelOf) -> None:
    model = model_of("llama")
    *_, grams = gram_matrices(model, make_rows(), range(2))
    mask = top_channels(random_scores(2, 64, 0), 40)
    kept = kept_indices(mask)
    columns = [refit(ffn.down.weight, grams[ffn.index], kept[ffn.index], 1e-3) for ffn in feed_forwards(model)]
    with torch.inference_mode():
        dense = torch.cat([run_row(model, row) for row in make_rows()])
        with masked(model, mask):
            sliced = torch.cat([run_row(model, row) for row in make_rows()])
            with with_columns(model, kept, columns):
                fitted = torch.cat([run_row(model, row) for row in make_rows()])
    assert float((fitted - dense).square().sum()) < 0.8 * float((sliced - dense).square().sum())


@pytest.mark.parametrize("fails", [False, True])
def test_swapped_columns_are_put_back(model_of: ModelOf, fails: bool) -> None:
    model = model_of("llama")
    before = [ffn.down.weight.clone() for ffn in feed_forwards(model)]
    kept = kept_indices(top_channels(random_scores(2, 64, 1), 10))
    columns = [noise(32, 10, seed=seed).float() for seed in (1, 2)]
    try:
        with with_columns(model, kept, columns):
            for ffn, old in zip(feed_forwards(model), before, strict=True):
                expected = old.clone()
                expected[:, kept[ffn.index]] = columns[ffn.index]
                assert torch.equal(ffn.down.weight, expected)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert all(torch.equal(ffn.down.weight, old) for ffn, old in zip(feed_forwards(model), before, strict=True))


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 100_000))
@settings(max_examples=120)
def test_layer_groups_cover_every_layer_once_within_the_memory(layers: int, channels: int, memory: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruction, "GRAM_BYTES", memory)
        found = layer_groups(layers, channels)
    assert [layer for group in found for layer in group] == list(range(layers))
    assert all(len(group) == 1 or len(group) * 4 * channels**2 <= memory for group in found)


def test_kept_indices_rise() -> None:
    assert [index.tolist() for index in kept_indices(torch.tensor([[0.0, 1, 1], [1, 0, 1]]))] == [[1, 2], [0, 2]]

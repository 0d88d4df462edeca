"""The baselines that score channels: FLAP, Taylor once and in rounds, greedy brain surgeon; each against a slower way."""

import copy
import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from tiny import find, make_tiny
from torch import Tensor

from benchmarks.methods import taylor
from benchmarks.methods.brain_surgeon import remove_greedily
from benchmarks.methods.flap import flap_scores, read_variances
from engine.base import ids
from engine.base.families import FAMILIES
from engine.models.ffn import feed_forwards, hooked, masked
from engine.models.loading import load_model
from engine.models.memory_saving import narrowed
from engine.models.packing import Example, Row, pack, run_row
from engine.pruning.cutting import kept_indices
from engine.pruning.importance import BASELINES, random_scores, top_channels
from engine.pruning.masks import backward_in_chunks
from engine.pruning.reconstruction import refit

ModelOf = Callable[..., Any]
EVERY_FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))


def test_the_page_knows_every_baseline_that_is_measured() -> None:
    assert tuple(BASELINES) == ids.BASELINES


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> ModelOf:
    """The tiny model of a family, made once; tests leave it as it is."""
    return functools.cache(lambda family, **changes: load_model(
        find(make_tiny(tmp_path_factory.mktemp(family), family, **changes)), torch.float32).cpu())


def make_examples() -> list[Example]:
    """Six examples of random tokens behind one prefix."""
    draw = torch.randint(1, 300, (6, 16), generator=torch.Generator().manual_seed(5)).tolist()
    return [Example((1, 2, 3, *tokens[:5]), tuple(tokens[5: 9 + number])) for number, tokens in enumerate(draw)]


def make_rows() -> list[Row]:
    rows = pack(make_examples(), 40)
    assert len(rows) > 1
    return rows


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.inference_mode()
@EVERY_FAMILY
@pytest.mark.parametrize("offset", [0.0, 1e4])  # a mean this large swallows the variance, if squares are summed in fp32
def test_flap_scores_variance_times_output_weight(model_of: ModelOf, family: str, offset: float) -> None:
    model, seen = model_of(family), {0: [], 1: []}
    with hooked(model, lambda _index, activation: activation / activation.std(dim=(0, 1)) + offset):
        with hooked(model, lambda index, activation: seen[index].append(activation[0])):
            for row in make_rows():
                run_row(model, row)
        *_, variances = read_variances(model, make_rows())
    expected = torch.stack([torch.var(torch.cat(seen[index]).double(), dim=0) for index in (0, 1)])
    torch.testing.assert_close(variances.double(), expected, rtol=1e-4, atol=0)
    for ffn, scores in zip(feed_forwards(model), flap_scores(model, variances), strict=True):
        by_hand = [float(expected[ffn.index, j] * sum(ffn.down.weight[:, j] ** 2)) for j in range(64)]
        assert scores.tolist() == pytest.approx(by_hand, rel=1e-3)


def brute_taylor(model: Any, mask: Tensor) -> Tensor:
    """sum |w * g| channel by channel, the mean loss computed example by example and backward in one piece."""
    model, losses = copy.deepcopy(model).requires_grad_(True), []
    for example in make_examples():
        with masked(model, mask):
            logits = model(input_ids=torch.tensor([example.prompt + example.answer]), use_cache=False).logits[0]
        losses.append(functional.cross_entropy(logits[len(example.prompt) - 1: -1], torch.tensor(example.answer),
                                               reduction="none"))
    torch.cat(losses).mean().backward()
    scores = torch.zeros(2, 64)
    for ffn in feed_forwards(model):
        for j in range(64):
            slices = [(ffn.down.weight, (slice(None), j))]
            slices += [(projection.weight, row) for projection in ffn.row_projections()
                       for row in range(j, projection.out_features, 64)]
            assert len(slices) == 3
            scores[ffn.index, j] = sum((weight[part] * weight.grad[part]).abs().sum() for weight, part in slices)
    return scores.detach()


@EVERY_FAMILY
def test_taylor_is_brute_force_dense_and_masked(model_of: ModelOf, family: str) -> None:
    model, mask = model_of(family), top_channels(random_scores(2, 64, 3), 40)
    dense = taylor.taylor_scores(model, make_rows())
    torch.testing.assert_close(dense, brute_taylor(model, torch.ones(2, 64)), rtol=1e-3, atol=1e-6)
    with masked(model, mask):
        scores = taylor.taylor_scores(model, make_rows())
    torch.testing.assert_close(scores, brute_taylor(model, mask), rtol=1e-3, atol=1e-6)
    assert torch.equal(scores > 0, mask > 0)
    narrow = taylor.taylor_scores(copy.deepcopy(model).bfloat16(), make_rows())
    assert narrow.dtype == torch.float32
    assert float((narrow - dense).norm() / dense.norm()) < 0.2


@pytest.mark.parametrize("fails", [False, True])
def test_taylor_leaves_the_model_as_found(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    model = copy.deepcopy(model_of("llama"))
    down, norm = feed_forwards(model)[0].down.weight, model.model.norm.weight
    for weight in (down, norm):
        weight.requires_grad_(True)
        weight.grad = torch.full_like(weight, 3.0)
    before = {name: (weight.requires_grad, weight.grad, weight.clone()) for name, weight in model.named_parameters()}

    def fail(*arguments: Any) -> float:
        backward_in_chunks(*arguments)
        raise KeyError

    if fails:
        monkeypatch.setattr(taylor, "backward_in_chunks", fail)
    with pytest.raises(KeyError) if fails else nullcontext():
        taylor.taylor_scores(model, make_rows())
    for name, weight in model.named_parameters():
        wanted, gradient, value = before[name]
        assert (weight.requires_grad, weight.grad is gradient) == (wanted, True)
        assert torch.equal(weight, value)
    assert all(bool((weight.grad == 3).all()) for weight in (down, norm))
    assert not down._post_accumulate_grad_hooks
    assert "forward" not in vars(model.model.layers[0])


def test_taylor_refuses_what_has_no_gradient(model_of: ModelOf) -> None:
    model = copy.deepcopy(model_of("llama")).bfloat16().float()
    with pytest.raises(ValueError, match="no answer tokens"):
        taylor.taylor_scores(model, pack([Example((1, 2, 3))], 40))
    with narrowed(model, torch.bfloat16), pytest.raises(ValueError, match="no gradient"):
        taylor.taylor_scores(model, make_rows())


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_rounds_of_taylor_are_nested_and_score_what_is_left(model_of: ModelOf, family: str) -> None:
    model = model_of(family)
    found = list(taylor.iterative_taylor_masks(model, make_rows(), 31, 3))
    assert [mask.sum(dim=1).tolist() for mask in found] == [[53, 53], [42, 42], [31, 31]]
    assert set(torch.cat(found).flatten().tolist()) == {0.0, 1.0}
    previous = torch.ones(2, 64)
    for mask in found:
        assert bool((mask <= previous).all())
        scores = brute_taylor(model, previous)
        assert all(scores[layer][mask[layer] > 0].min() >= scores[layer][(mask < previous)[layer]].max() for layer in (0, 1))
        previous = mask
    (once,) = taylor.iterative_taylor_masks(model, make_rows(), 31, 1)
    assert torch.equal(once, top_channels(taylor.taylor_scores(model, make_rows()), 31))
    assert not torch.equal(once, found[-1])
    for k, rounds in ((0, 2), (65, 2), (9, 0)):
        with pytest.raises(ValueError, match="must be"):
            next(taylor.iterative_taylor_masks(model, make_rows(), k, rounds))


def test_channels_without_a_score_stay_removed(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    first = torch.arange(128.0).view(2, 64)
    scores = iter([first, torch.zeros(2, 64)])
    monkeypatch.setattr(taylor, "taylor_scores", lambda *_: next(scores))
    before, after = taylor.iterative_taylor_masks(model_of("llama"), [], 20, 2)
    assert bool((after <= before).all()) and after.sum(dim=1).tolist() == [20, 20]


def correlated(tokens: int, channels: int, seed: int) -> Tensor:
    """Activations (tokens, channels) that share a few causes, at unlike scales."""
    shared = noise(tokens, channels // 3, seed=seed) @ noise(channels // 3, channels, seed=seed + 1)
    return (shared + noise(tokens, channels, seed=seed + 2)) * (0.2 + noise(channels, seed=seed + 3).abs())


@pytest.mark.parametrize("ridge", [1e-4, 0.05, 2.0])
@pytest.mark.parametrize("block", [1, 5, 100])
def test_the_surgeons_columns_are_the_refit(ridge: float, block: int) -> None:
    down, activations = noise(7, 30), correlated(200, 30, 1)
    gram = activations.T @ activations
    kept, columns = remove_greedily(down, gram, 18, ridge, block)
    assert kept.tolist() == sorted(set(kept.tolist())) and len(kept) == 18
    of_kept = ridge * gram.diagonal().mean() / gram.diagonal()[kept].mean()  # the same lambda
    torch.testing.assert_close(columns, refit(down, gram, kept, float(of_kept)), atol=1e-5, rtol=1e-5)
    assert float((columns - down[:, kept]).abs().max()) > 0.05


@pytest.mark.parametrize("seed", range(12))
def test_every_removal_is_the_cheapest(seed: int) -> None:
    """All removals tried by least squares: the penalty is one more row of data a channel."""
    down, activations, ridge = noise(3, 6, seed=seed), correlated(20, 6, seed), 0.01
    gram = activations.T @ activations
    data = torch.cat([activations, (ridge * gram.diagonal().mean()).sqrt() * torch.eye(6)])

    def loss(kept: list[int]) -> float:
        wanted = data @ down.T
        return float((wanted - data[:, kept] @ torch.linalg.lstsq(data[:, kept], wanted).solution).square().sum())

    left = list(range(6))
    while len(left) > 1:
        left = min(([other for other in left if other != gone] for gone in left), key=loss)
        assert remove_greedily(down, gram, len(left), ridge)[0].tolist() == left


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("k", [36, 24])
def test_the_surgeon_is_not_worse_than_wanda_with_refit(seed: int, k: int) -> None:
    down, activations = noise(16, 48, seed=seed + 50), correlated(400, 48, seed)
    gram = activations.T @ activations
    wanda = (down.abs().mean(dim=0) * activations.norm(dim=0))[None]
    chosen = kept_indices(top_channels(wanda, k))[0]
    lost = lambda kept, columns: float((activations @ down.T - activations[:, kept] @ columns.double().T).square().sum())
    reference = lost(chosen, refit(down, gram, chosen, 1e-3))
    for block in (1, 4):
        assert lost(*remove_greedily(down, gram, k, 1e-3, block)) < reference


def test_the_surgeons_edges() -> None:
    down, gram = noise(3, 5).float(), torch.zeros(5, 5)
    kept, columns = remove_greedily(down, gram, 5, 1e-3)
    assert kept.tolist() == [0, 1, 2, 3, 4] and torch.equal(columns, down)
    kept, columns = remove_greedily(down, gram, 2, 1e-3)  # channels that never fire: the weights alone decide
    assert kept.tolist() == sorted(down.norm(dim=0).topk(2).indices.tolist())
    torch.testing.assert_close(columns, down[:, kept])
    for k, block in ((0, 1), (6, 1), (3, 0)):
        with pytest.raises(ValueError, match="must be"):
            remove_greedily(down, gram, k, 1e-3, block)

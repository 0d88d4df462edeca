"""Mask learning: exactly k channels, true gradients behind the straight-through step, exact losses, exact resuming."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import find, make_tiny
from torch import Tensor

from engine.models import memory_saving
from engine.models.ffn import masked
from engine.models.loading import load_model
from engine.models.packing import Example, Row, pack, states_that_predict
from engine.pruning import masks
from engine.pruning.importance import by_importance, random_scores, rank_normalised, top_channels
from engine.pruning.masks import Target, dense_target, kl_to_target, learn_step, order_of_lines

CHANNELS, KEPT = 24, 13


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny llama of 24 channels a layer."""
    folder = make_tiny(tmp_path_factory.mktemp("masks"), "llama", intermediate_size=CHANNELS)
    return load_model(find(folder), torch.float32).cpu()


def make_examples(longer: int = 0) -> list[Example]:
    """Six examples of random tokens behind one prefix; `longer`: tokens added to each answer of 4 to 7."""
    draw = torch.Generator().manual_seed(21)
    ids = lambda size: tuple(torch.randint(1, 300, (size,), generator=draw).tolist())
    prefix = ids(6)
    return [Example(prefix + ids(3 + index % 3), ids(4 + index % 4 + longer)) for index in range(6)]


def make_rows(model: Any, longer: int = 0) -> tuple[list[Row], list[Target]]:
    """The examples in several rows, and the dense model's whole distribution as the target of each."""
    rows = pack(make_examples(longer), 40 + 3 * longer)
    assert len(rows) > 1
    with torch.no_grad():
        return rows, [dense_target(model, states_that_predict(model, row), 1000) for row in rows]


def start(seed: int = 0) -> masks.Learning:
    """A learning state before the first step, from random ranks."""
    return masks.Learning(rank_normalised(random_scores(2, CHANNELS, seed)))


def naive_loss(model: Any, mask: Tensor, dense: Any = None, longer: int = 0) -> Tensor:
    """Mean loss a token, each example alone, whole vocabulary: KL from `dense`, or cross entropy; for any real mask."""
    total, tokens = torch.zeros((), dtype=model.dtype), 0
    for example in make_examples(longer):
        ids, begin = torch.tensor([example.prompt + example.answer]), len(example.prompt) - 1
        with masked(model, mask):
            own = model(input_ids=ids, use_cache=False).logits[0, begin:-1].log_softmax(-1)
        if dense is None:
            total = total - own.gather(1, torch.tensor(example.answer)[:, None]).sum()
        else:
            with torch.no_grad():
                wanted = dense(input_ids=ids, use_cache=False).logits[0, begin:-1].log_softmax(-1)
            total = total + (wanted.exp() * (wanted - own)).sum()
        tokens += len(example.answer)
    return total / tokens


def in_fp64(model: Any) -> Any:
    """A copy of a model that rounds nothing to fp32 below its head (transformers' own norms do)."""
    exact = copy.deepcopy(model).double()
    for module in exact.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = lambda x, norm=module: functional.rms_norm(x, x.shape[-1:], norm.weight,
                                                                        norm.variance_epsilon)
    return exact


@pytest.mark.parametrize("longer", [0, 100])  # within one chunk of logits, and over several
@pytest.mark.parametrize("kind", ["ce", "kl"])
def test_the_loss_of_a_step_is_the_plain_loss(model: Any, kind: str, longer: int) -> None:
    rows, targets = make_rows(model, longer)
    state = start()
    mask = top_channels(state.scores, KEPT)
    loss = learn_step(model, state, rows, targets if kind == "kl" else None, KEPT, 0.05, False)
    assert loss == pytest.approx(float(naive_loss(model, mask, model if kind == "kl" else None, longer)), rel=1e-4)
    assert (state.step, state.tokens) == (1, sum(row.size for row in rows))


@pytest.mark.parametrize("kind", ["ce", "kl"])
def test_the_gradient_is_that_of_a_relaxed_mask_and_of_finite_differences(model: Any, kind: str) -> None:
    exact = in_fp64(model)
    dense = exact if kind == "kl" else None
    rows, targets = make_rows(exact)
    state = start()
    mask = top_channels(state.scores, KEPT).double()
    learn_step(exact, state, rows, targets if dense else None, KEPT, 0.05, False)
    assert state.scores.grad is not None
    gradient = state.scores.grad.double()
    relaxed = mask.clone().requires_grad_(True)
    naive_loss(exact, relaxed, dense).backward()
    torch.testing.assert_close(gradient, relaxed.grad, atol=1e-5, rtol=1e-3)
    assert float(gradient[mask == 0].abs().min()) > 0  # removed channels learn as well
    entries = [(0, 0), (0, 7), (1, 3), (1, 23), (0, 15), (1, 11)]
    assert {float(mask[entry]) for entry in entries} == {0.0, 1.0}
    for layer, channel in entries:
        step = torch.zeros_like(mask)
        step[layer, channel] = 1e-5
        with torch.no_grad():
            slope = (naive_loss(exact, mask + step, dense) - naive_loss(exact, mask - step, dense)) / 2e-5
        assert float(relaxed.grad[layer, channel]) == pytest.approx(float(slope), rel=1e-4, abs=1e-7)


def test_checkpointing_changes_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_saving, "free_bytes", lambda _model: 0)
    rows, targets = make_rows(model)
    plain, checkpointed = start(), start()
    for _ in range(3):
        one = learn_step(model, plain, rows, targets, KEPT, 0.05, False)
        other = learn_step(model, checkpointed, rows, targets, KEPT, 0.05, True)
        assert one == pytest.approx(other, abs=1e-6)
    torch.testing.assert_close(plain.scores.data, checkpointed.scores.data, atol=1e-6, rtol=0)
    assert "forward" not in vars(model.model.layers[0])  # the layers are as they were


@pytest.mark.parametrize("kind", ["ce", "kl"])
def test_learning_lowers_the_loss_on_its_own_lines(model: Any, kind: str) -> None:
    rows, targets = make_rows(model)
    state = start()
    losses = [learn_step(model, state, rows, targets if kind == "kl" else None, KEPT, 0.05, False) for _ in range(21)]
    assert max(losses[-3:]) < 0.97 * losses[0]


def test_going_on_from_a_checkpoint_is_bit_identical(model: Any) -> None:
    rows, targets = make_rows(model)
    state = start()
    for _ in range(3):
        learn_step(model, state, rows, targets, KEPT, 0.05, True)
    resumed = masks.Learning.from_tensors({name: tensor.clone() for name, tensor in state.to_tensors().items()})
    for _ in range(3):
        assert (learn_step(model, state, rows, targets, KEPT, 0.05, True)
                == learn_step(model, resumed, rows, targets, KEPT, 0.05, True))
    both = state.to_tensors(), resumed.to_tensors()
    assert both[0].keys() == both[1].keys() and all(torch.equal(both[0][name], both[1][name]) for name in both[0])


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
@settings(max_examples=60)
def test_every_line_once_an_epoch_without_memory(lines: int, step_lines: int, seed: int) -> None:
    size = min(step_lines, lines)
    order = [order_of_lines(lines, step_lines, step, seed) for step in range(3 * lines // size + 1)]
    assert {len(chosen) for chosen in order} == {size}
    flat = [index for chosen in order for index in chosen]
    for epoch in range(3):
        assert sorted(flat[epoch * lines: (epoch + 1) * lines]) == list(range(lines))
    again = [order_of_lines(lines, step_lines, step, seed) for step in reversed(range(len(order)))]
    assert again[::-1] == order


def test_another_seed_and_another_epoch_order_differently() -> None:
    assert order_of_lines(30, 30, 0, 1) not in (order_of_lines(30, 30, 0, 2), order_of_lines(30, 30, 1, 1))


@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 60), st.floats(0, 1))
@settings(max_examples=150)
def test_the_schedule_falls_to_k_and_never_rises(steps: int, k: int, more: int, ramp: float) -> None:
    counts = [masks.channels_at(step, steps, k, k + more, ramp) for step in range(steps)]
    assert counts == sorted(counts, reverse=True)
    assert all(k <= count <= k + more for count in counts)
    assert counts[-1] == k
    assert set(counts[math.ceil(ramp * steps):]) <= {k}


def test_the_schedule_is_cubic() -> None:  # 10 + 64 * (3/4, 2/4, 1/4, 0)^3
    assert [masks.channels_at(step, 8, 10, 74, 0.5) for step in range(5)] == [37, 18, 11, 10, 10]


def test_the_cached_kl_is_a_lower_bound_and_exact_with_the_whole_vocabulary(model: Any) -> None:
    with torch.no_grad():
        hidden = states_that_predict(model, make_rows(model)[0][0])
        other = model.lm_head(hidden + torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)))
        dense = model.lm_head(hidden).log_softmax(-1)
        full = float((dense.exp() * (dense - other.log_softmax(-1))).sum())
        cached = [float(kl_to_target(other, dense_target(model, hidden, top))) for top in (1, 4, 16, 64, 300, 5000)]
    assert full > 1
    assert cached == sorted(cached)
    assert 0 < cached[0] < cached[3] < full
    assert cached[-1] == pytest.approx(full, rel=1e-4)
    best = dense.topk(4).indices
    merged = lambda log: torch.cat([log.exp().gather(1, best), 1 - log.exp().gather(1, best).sum(1, True)], 1).log()
    by_hand = merged(dense).exp() * (merged(dense) - merged(other.log_softmax(-1)))
    assert cached[1] == pytest.approx(float(by_hand.sum()), rel=1e-3)


@pytest.mark.parametrize("k", [1, 2, CHANNELS - 1, CHANNELS])
@pytest.mark.parametrize("ties", [False, True])
def test_exactly_k_in_every_layer(model: Any, k: int, ties: bool) -> None:
    scores = torch.zeros(2, CHANNELS) if ties else random_scores(2, CHANNELS, 4)
    state = masks.Learning(scores)
    learn_step(model, state, *make_rows(model), k, 0.05, False)
    assert torch.isfinite(state.scores).all()
    assert top_channels(state.scores, k).sum(dim=1).tolist() == [k, k]


def test_what_entered_the_mask_is_counted() -> None:
    before, after = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0]]), torch.tensor([[1.0, 0, 1, 0], [1, 0, 1, 0]])
    assert masks.changes(before, after) == [1, 0]
    assert by_importance(after, torch.tensor([[1.0, 4, 2, 3], [4, 3, 2, 1]]), 2) == [[0.0, 1.0], [0.5, 0.5]]


table = st.integers(1, 12).flatmap(lambda width: st.lists(
    st.lists(st.integers(-4, 4), min_size=width, max_size=width), min_size=1, max_size=3))


@given(table, st.data())
@settings(max_examples=120)
def test_top_channels_keeps_the_best_and_ties_go_to_the_lower_index(scores: list[list[int]],
                                                                        data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores[0])))
    mask = top_channels(torch.tensor(scores).float(), k)
    for row, kept in zip(scores, mask.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda index: (-row[index], index))[:k]
        assert [index for index, value in enumerate(kept) if value] == sorted(best)
    assert torch.equal(top_channels(rank_normalised(torch.tensor(scores).float()), k), mask)


@given(st.permutations(range(9)), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=80)
def test_ranks_and_masks_follow_a_permutation(order: list[int], k: int, seed: int) -> None:
    scores = random_scores(2, 9, seed)
    ranks = rank_normalised(scores)
    assert torch.equal(rank_normalised(scores[:, order]), ranks[:, order])
    assert torch.equal(top_channels(scores[:, order], k), top_channels(scores, k)[:, order])
    assert torch.equal(ranks.argsort(dim=1), scores.argsort(dim=1))
    torch.testing.assert_close(ranks.sort(dim=1).values, torch.linspace(-1, 1, 9).expand(2, 9))

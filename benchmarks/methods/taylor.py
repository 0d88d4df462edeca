"""First-order scores: what the answers' cross entropy would lose with a channel, by the gradient of its weights.

With g the gradient of the loss, |w * g| estimates how much the loss changes when
the weight w becomes 0. A channel's score adds this up over row j of W_gate, row
j of W_up and column j of W_down (their biases do not count). One pass forward
and backward over the rows; weights are neither changed nor learned.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from benchmarks.cells import Cell
from benchmarks.meter import watched
from benchmarks.methods import Found, one_shot
from engine.base.events import Event
from engine.base.process import return_freed_memory
from engine.models.ffn import FeedForward, compute_dtype, feed_forwards, masked
from engine.models.memory_saving import recomputed_where_tight
from engine.models.packing import Row, states_that_predict
from engine.pruning.importance import top_channels
from engine.pruning.masks import backward_in_chunks

ROUNDS = 4  # of iterative Taylor; each reads all train lines forward and backward


def taylor_scores(model: nn.Module, rows: Sequence[Row]) -> Tensor:
    """sum |w * g| over a channel's three slices, (L, d_ff) in fp32 on the CPU; higher is more important.

    LLM-Pruner's element-wise first-order importance (Ma et al. 2023, arXiv 2305.11627). g is the gradient of the mean
    cross entropy, in nats, over all answer tokens of the rows; absolute values are taken after the sum over rows.
    Under `masked` a removed channel scores 0. Needs fp32 memory for one gradient of all FFN weights. Raises ValueError
    where the rows hold no answer tokens, or where weights are quantised or narrowed and thus have no gradient.
    """
    total = sum(len(row.labels) for row in rows)
    if not total:
        raise ValueError("the rows hold no answer tokens")
    ffns = feed_forwards(model)
    weights = [_weights(ffn) for ffn in ffns]
    if any(weight.dtype != compute_dtype(model) for group in weights for weight in group):
        raise ValueError("the FFN's weights are not in the dtype that the model computes in: they have no gradient")
    with torch.enable_grad(), _summed_gradients(model, [weight for group in weights for weight in group]) as sums:
        for row in rows:
            with recomputed_where_tight(model, row.size):
                # Summed here and divided at the end: in fp16 the gradients of a mean would vanish.
                backward_in_chunks(model, states_that_predict(model, row), row.labels, None, 1.0)
            return_freed_memory()
        found = iter(sums)
        return torch.stack([_channel_scores(ffn, [next(found) for _ in group], total)
                            for ffn, group in zip(ffns, weights, strict=True)])


def iterative_taylor_masks(model: nn.Module, rows: Sequence[Row], k: int, rounds: int) -> Iterator[Tensor]:
    """Yields the mask (L, d_ff) after each round; the last keeps exactly k channels a layer.

    GISP's schedule (Wang et al. 2025, arXiv 2510.18030) on `taylor_scores`: the number of kept channels falls on a
    straight line from d_ff to k, each round scores the model as masked so far, and what is removed stays removed.
    Unlike GISP, all layers keep equally many. On its first step raises ValueError where k is not among 1, ..., d_ff or
    rounds is below 1, later what `taylor_scores` raises.
    """
    ffns = feed_forwards(model)
    channels = ffns[0].size
    if not 1 <= k <= channels or rounds < 1:
        raise ValueError(f"k must be among 1, ..., {channels}, and rounds at least 1")
    mask = torch.ones(len(ffns), channels)
    for number in range(1, rounds + 1):
        with masked(model, mask):
            scores = taylor_scores(model, rows)
        kept = channels - round((channels - k) * number / rounds)
        # A kept channel may score 0, as every removed one does.
        mask = top_channels(scores.masked_fill(mask == 0, -torch.inf), kept)
        yield mask


def _weights(ffn: FeedForward) -> list[Tensor]:
    return [*(projection.weight for projection in ffn.row_projections()), ffn.down.weight]


@contextmanager
def _summed_gradients(model: nn.Module, weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """While the block runs, gradients of `weights` alone are computed, and summed up in fp32 tensors like them.

    requires_grad and grad of all parameters are afterwards as they were.
    """
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    sums = [torch.zeros_like(weight, dtype=torch.float32, requires_grad=False) for weight in weights]
    handles = []

    def collect(weight: Tensor, into: Tensor) -> None:
        assert weight.grad is not None
        into += weight.grad
        weight.grad = None

    try:
        model.requires_grad_(False)
        for weight, into in zip(weights, sums, strict=True):
            weight.grad = None
            weight.requires_grad_(True)
            handles.append(weight.register_post_accumulate_grad_hook(lambda own, into=into: collect(own, into)))
        yield sums
    finally:
        for handle in handles:
            handle.remove()
        for parameter, wanted, gradient in before:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient


@torch.no_grad()
def _channel_scores(ffn: FeedForward, sums: Sequence[Tensor], total: int) -> Tensor:
    """The scores (d_ff,) of a layer from the gradients, summed over `total` tokens, of its weights."""
    *rows, columns = [(weight.float() * gradient).abs() / total
                      for weight, gradient in zip(_weights(ffn), sums, strict=True)]
    # A fused layer holds gate's rows first, then up's.
    by_row = torch.cat([product.sum(dim=1) for product in rows]).view(2, ffn.size)
    return (by_row.sum(dim=0) + columns.sum(dim=0)).cpu()


@one_shot("taylor", "Taylor")
def taylor(cell: Cell) -> Found:
    """LLM-Pruner's first-order score."""
    rows, size = cell.subject.train, sum(row.size for row in cell.subject.train)

    def read() -> Generator[Event, None, dict[str, Tensor]]:
        return {"scores": (yield from watched("taylor", size, cell.counter, lambda: taylor_scores(cell.model, rows)))}

    found, spent = yield from cell.keep(cell.subject.folder, "taylor", read())
    return top_channels(found["scores"], cell.kept), spent


@one_shot("iterative-taylor", "Iterative Taylor")
def iterative_taylor(cell: Cell) -> Found:
    """GISP's rounds of the same score."""
    rows, size = cell.subject.train, sum(row.size for row in cell.subject.train)

    def read() -> Generator[Event, None, dict[str, Tensor]]:
        mask = torch.zeros(0)
        rounds = iterative_taylor_masks(cell.model, rows, cell.kept, ROUNDS)
        for number in range(ROUNDS):
            mask = yield from watched(f"iterative-taylor {number + 1}/{ROUNDS}", size, cell.counter, lambda: next(rounds))
        return {"mask": mask}

    found, spent = yield from cell.keep(cell.folder, "iterative-taylor", read())
    return found["mask"], spent

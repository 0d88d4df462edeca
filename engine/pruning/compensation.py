"""Least-squares W_down: the kept channels take over what the removed ones did.

With activations a of the dense model, kept channels K and C = E[a a^T],
D' = (D C_:K + lambda D_K) (C_KK + lambda I)^-1 minimises
E||D a - D' a_K||^2 + lambda ||D' - D_K||^2 (GRAIL, FASP, SlimGPT; these
pull to zero). On few tokens it over-fits; hence lambda. Each layer is fitted as
if all others were whole; propagation.py does better where it can.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from engine.models.ffn import feed_forwards, hooked, masked
from engine.models.packing import Row, run_row

Gates = Sequence[tuple[Tensor, Tensor]]  # W_gate and W_up of a layer's kept channels, (k, d) each
GRAM_BYTES = 1_500_000_000  # of Gram matrices held at once; more layers take more passes over the rows


def layer_groups(layers: int, channels: int) -> list[range]:
    """Layers whose Gram matrices (d_ff x d_ff, fp32) are collected in one pass."""
    size = max(1, GRAM_BYTES // (4 * channels * channels))
    return [range(begin, min(begin + size, layers)) for begin in range(0, layers, size)]


@torch.inference_mode()
def gram_matrices(model: nn.Module, rows: Sequence[Row], layers: range) -> Iterator[dict[int, Tensor]]:
    """Yields after each row the sums over tokens of a a^T, (d_ff, d_ff) a layer; the last one is the result."""
    grams: dict[int, Tensor] = {}

    def add(index: int, activation: Tensor) -> None:
        if index in layers:
            flat = activation.flatten(0, -2).float()
            if index not in grams:
                grams[index] = torch.zeros(flat.shape[1], flat.shape[1], device=flat.device)
            grams[index].addmm_(flat.T, flat)

    for row in rows:
        with hooked(model, add):
            run_row(model, row)
        yield grams


@torch.inference_mode()
def refit(down: Tensor, gram: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """The least-squares W_down (d, k) of one layer, in fp32.

    `down`: (d, d_ff); `gram`: (d_ff, d_ff); `kept`: (k,) channel indices; `ridge`: lambda as a share of the mean
    diagonal of C_KK.
    """
    gram = gram.double()
    return solve(down.double()[:, kept], gram[kept][:, kept], down.double() @ gram[:, kept], ridge).float()


def solve(own: Tensor, inner: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """(cross + lambda own) (inner + lambda I)^-1, (d, k) in fp64: the penalty pulls towards the channel's own column.

    `own`: W_down's columns (d, k); `inner`: E[a a^T] (k, k); `cross`: E[target a^T] (d, k), all three in fp64; `ridge`:
    lambda as a share of the mean diagonal of `inner`.
    """
    penalty = ridge * inner.diagonal().mean().clamp_min(1e-12)
    shifted = inner + penalty * torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
    return torch.linalg.solve(shifted, (cross + penalty * own).T).T


def kept_indices(mask: Tensor) -> list[Tensor]:
    """The kept channels of each layer, ascending, (k,) each."""
    return [row.nonzero()[:, 0] for row in mask]


@contextmanager
def repaired(model: nn.Module, mask: Tensor, columns: Sequence[Tensor] | None, gates: Gates | None = None) -> Iterator[None]:
    """While the block runs, the dense model computes as if cut to `mask` (L, d_ff), with `columns` (d, k) and `gates`, W_gate
    and W_up of the kept channels (k, d), a layer each, where they are given."""
    kept = kept_indices(mask)
    with ExitStack() as stack:
        stack.enter_context(masked(model, mask))
        if columns is not None:
            stack.enter_context(swapped_down(model, kept, columns))
        if gates is not None:
            stack.enter_context(_swapped_gates(model, kept, gates))
        yield


@contextmanager
def _swapped_gates(model: nn.Module, kept: Sequence[Tensor], gates: Gates) -> Iterator[None]:
    """While the block runs, the dense model's rows `kept` of W_gate and W_up are others."""
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        for ffn, index, pair in zip(feed_forwards(model), kept, gates, strict=True):
            own = ffn.gate_and_up()
            saved.append((own[0].data[index].clone(), own[1].data[index].clone()))
            for weight, rows in zip(own, pair, strict=True):
                weight.data[index] = rows.to(weight)
        yield
    finally:
        for ffn, index, pair in zip(feed_forwards(model), kept, saved, strict=False):
            for weight, rows in zip(ffn.gate_and_up(), pair, strict=True):
                weight.data[index] = rows


class swapped_down:
    """While the block runs, the dense model's W_down columns `kept` hold `columns` (d, k), a layer each."""

    def __init__(self, model: nn.Module, kept: Sequence[Tensor], columns: Sequence[Tensor]) -> None:
        self.model, self.kept, self.columns = model, kept, columns

    def __enter__(self) -> None:
        self.saved = []
        for ffn, index, column in zip(feed_forwards(self.model), self.kept, self.columns, strict=True):
            self.saved.append(ffn.down.weight.data[:, index].clone())
            ffn.down.weight.data[:, index] = column.to(ffn.down.weight)

    def __exit__(self, *_: object) -> None:
        for ffn, index, saved in zip(feed_forwards(self.model), self.kept, self.saved, strict=True):
            ffn.down.weight.data[:, index] = saved

"""Cutting: a masked model becomes a smaller one that every stock engine loads; or computes, for a while, as if it were cut.

Channel j goes with row j of W_gate and W_up (and their biases) and column j of W_down. All layers keep equally many
channels, so `config.intermediate_size` stays one number.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from engine.models.ffn import feed_forwards, masked

Gates = Sequence[tuple[Tensor, Tensor]]  # W_gate and W_up of a layer's kept channels, (k, d) each


def kept_indices(mask: Tensor) -> list[Tensor]:
    """The kept channels of each layer, ascending, (k,) each."""
    return [row.nonzero()[:, 0] for row in mask]


@torch.no_grad()
def cut(model: nn.Module, kept: Sequence[Tensor], columns: Sequence[Tensor] | None = None,
        gates: Gates | None = None) -> nn.Module:
    """Cut `model` in place and return it.

    `kept`: ascending channel indices, (k,) a layer, the same k in all; `columns`: W_down (d, k) a layer, and `gates`: W_gate
    and W_up (k, d) a layer, to put in place of the sliced ones. Weights keep their dtype. Raises ValueError where the
    layers' counts differ.
    """
    ffns = feed_forwards(model)
    if len(kept) != len(ffns) or len({len(index) for index in kept}) != 1:
        raise ValueError("every layer must keep the same number of channels")
    for ffn, index in zip(ffns, kept, strict=True):
        index = index.to(ffn.down.weight.device)
        rows = torch.cat([index, index + ffn.size]) if ffn.fused else index  # a fused layer has gate's rows first, then up's
        for projection in ffn.row_projections():
            projection.weight = nn.Parameter(projection.weight.data[rows].clone(), requires_grad=False)
            if projection.bias is not None:
                projection.bias = nn.Parameter(projection.bias.data[rows].clone(), requires_grad=False)
            projection.out_features = len(rows)
        if hasattr(ffn.module, "intermediate_size"):
            ffn.module.intermediate_size = len(index)  # type: ignore[assignment]
        weight = ffn.down.weight.data[:, index] if columns is None else columns[ffn.index].to(ffn.down.weight)
        ffn.down.weight = nn.Parameter(weight.contiguous().clone(), requires_grad=False)
        ffn.down.in_features = len(index)
        if gates is not None:
            for part, rows in zip(ffn.gate_and_up(), gates[ffn.index], strict=True):
                part.data.copy_(rows)
    model.config.intermediate_size = len(kept[0])  # type: ignore[union-attr]
    return model


@contextmanager
def as_if_cut(model: nn.Module, mask: Tensor, columns: Sequence[Tensor] | None, gates: Gates | None = None) -> Iterator[None]:
    """While the block runs, the dense model computes as if cut to `mask` (L, d_ff), with `columns` (d, k) and `gates`, W_gate
    and W_up of the kept channels (k, d), a layer each, where they are given."""
    kept = kept_indices(mask)
    with masked(model, mask), nullcontext() if columns is None else with_columns(model, kept, columns):
        saved = []
        try:
            for ffn, index, pair in zip(feed_forwards(model), kept, gates or (), strict=gates is not None):
                for weight, rows in zip(ffn.gate_and_up(), pair, strict=True):
                    saved.append((weight, index, weight.data[index].clone()))
                    weight.data[index] = rows.to(weight)
            yield
        finally:
            for weight, index, rows in saved:
                weight.data[index] = rows


@contextmanager
def with_columns(model: nn.Module, kept: Sequence[Tensor], columns: Sequence[Tensor]) -> Iterator[None]:
    """While the block runs, the dense model's W_down columns `kept` hold `columns` (d, k), a layer each."""
    saved = []
    try:
        for ffn, index, column in zip(feed_forwards(model), kept, columns, strict=True):
            weight = ffn.down.weight
            saved.append((weight, index, weight.data[:, index].clone()))
            weight.data[:, index] = column.to(weight)
        yield
    finally:
        for weight, index, column in saved:
            weight.data[:, index] = column

"""Cutting: a masked model becomes a smaller one that every stock engine loads.

Channel j goes with row j of W_gate and W_up (and their biases) and column j of
W_down. All layers keep equally many channels, so `config.intermediate_size`
stays one number. This module changes a model in memory; it writes nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.models.ffn import FeedForward, feed_forwards
from engine.pruning.compensation import Gates


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
        _keep_rows(ffn, index)
        replacement = None if columns is None else columns[ffn.index]
        weight = ffn.down.weight.data[:, index] if replacement is None else replacement.to(ffn.down.weight)
        ffn.down.weight = nn.Parameter(weight.contiguous().clone(), requires_grad=False)
        ffn.down.in_features = len(index)
        if gates is not None:
            for part, rows in zip(ffn.gate_and_up(), gates[ffn.index], strict=True):
                part.data.copy_(rows)
    model.config.intermediate_size = len(kept[0])  # type: ignore[union-attr]
    return model


def _keep_rows(ffn: FeedForward, index: Tensor) -> None:
    # A fused layer holds gate's rows first, then up's.
    rows = torch.cat([index, index + ffn.size]) if ffn.fused else index
    for projection in ffn.row_projections():
        projection.weight = nn.Parameter(projection.weight.data[rows].clone(), requires_grad=False)
        if projection.bias is not None:
            projection.bias = nn.Parameter(projection.bias.data[rows].clone(), requires_grad=False)
        projection.out_features = len(rows)
    for name in ("intermediate_size",):
        if hasattr(ffn.module, name):
            setattr(ffn.module, name, len(index))

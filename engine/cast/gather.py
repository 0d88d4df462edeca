"""Gather on load: one pass slices one character out of the dense model in memory.

The result shares every tensor with the dense model but those of its FFNs, which
are the kept rows of gate and up and the kept columns of W_down, scaled and
corrected: those of a standalone pruned model.
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from engine.cast.delta import Delta
from engine.models.ffn import FeedForward, feed_forwards


def gathered_weights(ffn: FeedForward, delta: Delta, columns: Tensor | None = None) -> list[Tensor]:
    """Copies of a layer's kept weights: the rows of each of its row projections, their biases if any, and W_down last.

    `columns`: W_down's kept ones, where they were selected before; they are written over.
    """
    index = delta.indices(ffn.index).to(ffn.down.weight.device)
    rows = torch.cat([index, index + ffn.size]) if ffn.fused else index
    found = []
    for projection in ffn.row_projections():
        found.append(projection.weight.data.index_select(0, rows))
        if projection.bias is not None:
            found.append(projection.bias.data.index_select(0, rows))
    return [*found, _corrected(ffn, _columns(ffn, delta) if columns is None else columns, delta)]


def _columns(ffn: FeedForward, delta: Delta) -> Tensor:
    """W_down's kept columns (d, k), as they are."""
    weight = ffn.down.weight.data
    return weight.index_select(1, delta.indices(ffn.index).to(weight.device))


def _corrected(ffn: FeedForward, weight: Tensor, delta: Delta) -> Tensor:
    """W_down (d, k), scaled and corrected, in the weights' dtype; `weight`, its columns, is written over."""
    layer, device = ffn.index, weight.device
    weight = weight.mul_(delta.scales_of(layer).to(weight)) if weight.dtype == torch.float32 else (
        weight.float() * delta.scales_of(layer).to(device))
    if delta.rank:
        left = (delta.left[layer].float() * delta.factor_step[layer, :, None]).to(device)
        weight.addmm_(left.T, delta.right[layer].float().to(device))
    return weight.to(ffn.down.weight.dtype)


@torch.no_grad()
def gather(model: nn.Module, delta: Delta) -> Any:
    """The cut model of a character (L layers, k channels). `model` stays as it is, and must stay in memory anyway."""
    shell, ffns = _shell(model), feed_forwards(model)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # torch selects columns on one core only
        waiting = [pool.submit(_columns, ffn, delta) for ffn in ffns]
        for own, ffn, columns in zip(feed_forwards(shell), ffns, waiting, strict=True):
            _put(own, gathered_weights(ffn, delta, columns.result()), delta.kept)
    shell.config.intermediate_size = delta.kept
    return shell


def _shell(model: nn.Module) -> Any:
    """A model of its own whose tensors are those of `model`."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, memo)


def _put(ffn: FeedForward, weights: list[Tensor], kept: int) -> None:
    waiting = iter(weights)
    projections = ffn.row_projections()
    for projection in projections:
        projection.weight = nn.Parameter(next(waiting), requires_grad=False)
        if projection.bias is not None:
            projection.bias = nn.Parameter(next(waiting), requires_grad=False)
        projection.out_features = len(projection.weight)
    ffn.down.weight = nn.Parameter(next(waiting), requires_grad=False)
    ffn.down.in_features = kept
    if hasattr(ffn.module, "intermediate_size"):
        ffn.module.intermediate_size = kept  # type: ignore[assignment]

"""Attention over a prefix that all rows of a batch share, and over each row's own keys.

The persona prompt's keys and values are kept once, (heads, P, head size), not
once a row; every row's queries meet them in one matrix product. Scores of prefix
and own keys are joined before the softmax, so the result is the attention of the
whole sequence, up to rounding. Registered with transformers as an attention
implementation of its own; works for every family that goes through that
interface. This module knows tensors only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from engine.models.attention_parts import join, weighed
from engine.models.steps import Attend

NAME = "shared_prefix"


@dataclass(frozen=True)
class Prefix:
    """Keys and values, (key heads, P, head size) a layer, and the length of the sliding window, if any."""

    keys: list[Tensor]
    values: list[Tensor]

    @property
    def length(self) -> int:
        """P, in tokens."""
        return self.keys[0].shape[-2]


@dataclass
class _Active:
    prefix: Prefix
    masks: dict[bool, Tensor | None]  # by "slides": what queries see of the prefix, additive (B, 1, T, P)


_active: list[_Active] = []


@contextmanager
def shared_prefix(model: nn.Module, prefix: Prefix) -> Iterator[None]:
    """While the block runs, the model attends to `prefix` besides the keys of its cache."""
    before = model.config._attn_implementation  # type: ignore[union-attr]
    model.config._attn_implementation = NAME  # type: ignore[union-attr]
    _active.append(_Active(prefix, {False: None, True: None}))
    try:
        yield
    finally:
        _active.pop()
        model.config._attn_implementation = before  # type: ignore[union-attr]


def see_prefix(positions: Tensor, window: int | None, dtype: torch.dtype) -> None:
    """Set what the next forward pass sees of the prefix: all of it, or, where layers slide, the last `window` positions.

    `positions`: (B, T) of the queries.
    """
    active = _active[-1]
    length = active.prefix.length
    active.masks[True] = None
    if window and int(positions.max()) >= window:
        distance = positions[:, None, :, None] - torch.arange(length, device=positions.device)
        active.masks[True] = torch.zeros(distance.shape, dtype=dtype, device=positions.device).masked_fill_(
            distance >= window, torch.finfo(dtype).min)


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
           scaling: float | None = None, softcap: float | None = None, sliding_window: int | None = None,
           **_: Any) -> tuple[Tensor, None]:
    """Attention output (B, T, heads, head size). query (B, heads, T, head size); key, value (B, key heads, S, ...)."""
    active = _active[-1]
    layer: int = module.layer_idx  # type: ignore[assignment]
    batch, heads, length, size = query.shape
    shared = key.shape[1]
    scaling = size**-0.5 if scaling is None else scaling
    grouped = query.reshape(batch, shared, heads // shared * length, size)
    across = grouped.transpose(0, 1).reshape(shared, -1, size)  # all rows' queries of a key head
    prefix_scores = (across @ active.prefix.keys[layer].transpose(-1, -2)).view(shared, batch, -1, active.prefix.length)
    own_scores = grouped @ key.transpose(-1, -2)
    scores = torch.cat([prefix_scores.transpose(0, 1), own_scores], dim=-1)
    scores = scores.view(batch, heads, length, -1) * scaling
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    seen = active.masks[bool(sliding_window)]
    if seen is not None:
        scores[..., : active.prefix.length] += seen
    if attention_mask is not None:
        scores[..., active.prefix.length:] += attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype).view(batch, shared, -1, scores.shape[-1])
    of_prefix = weights[..., : active.prefix.length].transpose(0, 1).reshape(shared, -1, active.prefix.length)
    output = (of_prefix @ active.prefix.values[layer]).view(shared, batch, -1, size).transpose(0, 1)
    output = output + weights[..., active.prefix.length:] @ value
    return output.reshape(batch, heads, length, size).transpose(1, 2), None


def attend_once(prefix: Prefix, cache: Any, mask: Tensor) -> Attend:
    """The same for one new token a row (engine/models/steps.py): attention over the prefix and over the row's own keys,
    each with its log-sum-exp, put together by their weights.

    mask: additive (B, 1, 1, S), what each row sees of its own keys, the new one included. CPU; no soft cap, no window.
    """
    def attend(index: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        batch, shared, size = keys.shape
        grown = cache.layers[index].update(keys[:, :, None], values[:, :, None])
        grouped = queries.reshape(batch, shared, -1, size)
        own, own_weight = weighed(grouped, *grown, attn_mask=mask)
        across = grouped.transpose(0, 1).reshape(1, shared, -1, size)  # all rows' queries of a key head
        common, common_weight = weighed(across, prefix.keys[index][None], prefix.values[index][None])
        common = common.view(shared, batch, -1, size).transpose(0, 1)
        common_weight = common_weight.view(shared, batch, -1).transpose(0, 1)
        return join(own, own_weight, common, common_weight).reshape(batch, -1)

    return attend


AttentionInterface.register(NAME, attend)

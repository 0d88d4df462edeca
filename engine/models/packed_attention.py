"""Attention of a packed row, computed only where something is seen.

A row of packing.py is a prefix and many short segments that see the prefix and themselves. Under one mask over the whole
row most products are thrown away: on a row of 1,500 tokens three quarters. Here the prefix attends to itself, all
segments meet the prefix in one go, and each meets itself in a batch; the two are put together by their log-sum-exp,
which is the attention of the whole row up to rounding. For reading only: no gradient passes through, and on a CPU,
without a sliding window or a soft cap; `can_divide` says where. Keys and values of a prefix can be kept and lent to rows
that come without it. This module knows tensors only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from engine.models.attention_parts import join, weighed

NAME = "packed"


@dataclass
class Layout:
    """How a row is divided: P prefix tokens (0: they are lent), then segments, padded to M tokens each.

    places: (segments, M) indices of own tokens, counted behind the prefix; real: whether a place holds one; seen: additive
    (segments, 1, M, M). `keys`, `values`: (1, key heads, P, D) a layer, of the prefix: kept from this row, or lent to it.
    """

    prefix: int
    places: Tensor
    real: Tensor
    seen: Tensor
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


def can_divide(model: Any) -> bool:
    """Whether a row of this model may be computed in parts."""
    config = model.config
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    capped = getattr(config, "attn_logit_softcapping", None)
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    switchable = getattr(config, "_attn_implementation", None) is not None  # a model of transformers
    return switchable and not (windowed or capped or torch.is_grad_enabled()) and on_cpu and not hasattr(model, "hf_quantizer")


def lay_out(segments: Tensor, dtype: torch.dtype) -> Layout:
    """The layout of a row with `segments` (T,): 0 for the prefix, if it is there, then ascending numbers."""
    prefix = int((segments == 0).sum())
    _, lengths = segments[prefix:].unique_consecutive(return_counts=True)
    longest = int(lengths.max()) if len(lengths) else 0
    offsets = torch.arange(longest)
    places = (lengths.cumsum(0) - lengths)[:, None] + offsets
    real = offsets < lengths[:, None]
    hidden = torch.finfo(dtype).min
    causal = torch.zeros(longest, longest, dtype=dtype).masked_fill_(offsets[None, :] > offsets[:, None], hidden)
    seen = causal.repeat(len(lengths), 1, 1).masked_fill_(~real[:, None, :], hidden)
    seen[..., :1] = 0  # what pads a segment sees its first token, so that no row is empty; it is not read
    return Layout(prefix, places.where(real, places[:, :1]), real, seen[:, None])


_active: list[Layout] = []


@contextmanager
def divided(model: Any, layout: Layout) -> Iterator[Tensor]:
    """While the block runs, the model's attention is that of one row so laid out. Gives what to pass as attention mask:
    a mask of one number, which nobody reads, but with which transformers makes none of its own."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    _active.append(layout)
    try:
        yield torch.zeros(1, 1, 1, 1, dtype=layout.seen.dtype)
    finally:
        _active.pop()
        model.config._attn_implementation = before


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Any, scaling: float | None = None,
           **_: Any) -> tuple[Tensor, None]:
    """Attention output (1, T, heads, D); query (1, heads, T, D); key, value (1, key heads, T, D)."""
    layout = _active[-1]
    layer: int = module.layer_idx  # type: ignore[assignment]
    prefix = layout.prefix
    parts = []
    if prefix:
        layout.keys[layer], layout.values[layer] = key[:, :, :prefix], value[:, :, :prefix]
        parts.append(nn.functional.scaled_dot_product_attention(
            query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], is_causal=True, scale=scaling,
            enable_gqa=True).transpose(1, 2))
    if query.shape[2] > prefix:
        query, key, value = (part[0, :, prefix:] for part in (query, key, value))
        parts.append(_of_segments(layout, layer, query, key, value, scaling)[None])
    return torch.cat(parts, dim=1), None


def _of_segments(layout: Layout, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Output (N, heads, D) of the own tokens' queries (heads, N, D), with keys and values (key heads, N, D)."""
    heads, size, width = query.shape
    shared = key.shape[0]
    segments, longest = layout.places.shape
    common, common_weight = weighed(query.reshape(1, shared, -1, width), layout.keys[layer], layout.values[layer],
                                    scale=scaling)  # a key head's queries, of all its heads, as one column
    common, common_weight = common.reshape(heads, size, width), common_weight.reshape(heads, size)
    blocks = [part[:, layout.places].transpose(0, 1) for part in (query, key, value)]  # (segments, heads, M, D)
    grouped = blocks[0].reshape(segments, shared, -1, width)
    seen = layout.seen.repeat(1, 1, heads // shared, 1)
    own, own_weight = weighed(grouped, blocks[1], blocks[2], attn_mask=seen, scale=scaling)
    own = own.reshape(segments, heads, longest, width).transpose(1, 2)[layout.real]  # (N, heads, D)
    own_weight = own_weight.reshape(segments, heads, longest).transpose(1, 2)[layout.real]
    return join(own, own_weight, common.transpose(0, 1), common_weight.T)


AttentionInterface.register(NAME, attend)

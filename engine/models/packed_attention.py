"""Attention of a packed row, computed only where something is seen.

A row of packing.py is a prefix and many short segments that see the prefix and themselves. Under one mask over the whole
row most products are thrown away: on a row of 1,500 tokens three quarters. Here the prefix attends to itself, all
segments meet the prefix in one go, and each meets itself in a batch; the two are put together by their log-sum-exp,
which is the attention of the whole row up to rounding. Gradients pass through in the same two parts. On a CPU only,
without a sliding window or a soft cap; `can_divide` says where. Keys and values of a prefix can be kept and lent to rows
that come without it. This module knows tensors only.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from engine.models.attention_parts import gradients, join, weighed

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
    return switchable and not (windowed or capped) and on_cpu and not hasattr(model, "hf_quantizer")


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
        of_prefix = key[:, :, :prefix], value[:, :, :prefix]
        # Without their graph: the backward pass knows the layout, and would never be freed with it.
        layout.keys[layer], layout.values[layer] = (part.detach() for part in of_prefix)
        parts.append(nn.functional.scaled_dot_product_attention(
            query[:, :, :prefix], *of_prefix, is_causal=True, scale=scaling, enable_gqa=True).transpose(1, 2))
    else:
        of_prefix = layout.keys[layer], layout.values[layer]
    if query.shape[2] > prefix:
        own = (part[0, :, prefix:] for part in (query, key, value))
        parts.append(_Segments.apply(*own, *of_prefix, layout, scaling).transpose(0, 1)[None])
    return torch.cat(parts, dim=1), None


class _Segments(torch.autograd.Function):
    """Segments on the prefix and on themselves: output (heads, N, D) of the own tokens' queries (heads, N, D), with their keys
    and values (key heads, N, D) and the prefix's (1, key heads, P, D); and its gradient.

    Backward, each part has its own gradient, from the output and the log-sum-exp of both together: a softmax's gradient
    needs of the other keys only what these two say of them (as in ring attention, arXiv 2310.01889).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor,
                layout: Layout, scale: float | None) -> Tensor:
        heads, size, _ = query.shape
        common, common_weight = weighed(_by_key_head(query, len(key)), prefix_key, prefix_value, scale=scale)
        common, common_weight = common.reshape(query.shape), common_weight.reshape(heads, size)
        blocks = _blocks(layout, len(key), query, key, value)
        own, own_weight = (_rows(layout, part, heads) for part in weighed(
            *blocks, attn_mask=_seen(layout, heads, len(key)), scale=scale))
        output = join(own, own_weight, common, common_weight)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, output, torch.logaddexp(own_weight, common_weight))
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prefix_key, prefix_value, output, weight = ctx.saved_tensors
        layout, shared, heads = ctx.layout, len(key), len(query)
        column = (1, shared, -1)
        of_query, of_prefix_key, of_prefix_value = gradients(
            *(_by_key_head(part, shared) for part in (gradient, query)), prefix_key, prefix_value,
            _by_key_head(output, shared), weight.reshape(column), 0.0, False, scale=ctx.scale)
        padding = ~layout.real.repeat(1, heads // shared)[:, None]  # (segments, 1, heads of a key head * M)
        blocks = _blocks(layout, shared, query, key, value)
        over, outputs, weights = (_blocks(layout, shared, part)[0] for part in (gradient, output, weight[..., None]))
        wide = torch.promote_types(query.dtype, torch.float32)  # in bf16 the kernel takes four times as long on short segments
        own = gradients(over.masked_fill(padding[..., None], 0).to(wide), *(block.to(wide) for block in blocks), outputs.to(wide),
                        weights[..., 0].masked_fill(padding, torch.inf), 0.0, False,
                        attn_mask=_seen(layout, heads, shared).to(wide), scale=ctx.scale)
        of_query = of_query.reshape(query.shape) + _rows(layout, own[0], heads).to(query.dtype)
        of_own = (_rows(layout, part, shared).to(query.dtype) for part in own[1:])
        return of_query, *of_own, of_prefix_key, of_prefix_value, None, None


def _by_key_head(part: Tensor, shared: int) -> Tensor:
    """Rows (heads, N, D) of all the heads that share a key head as one column: (1, key heads, N * heads of a key head, D)."""
    return part.reshape(1, shared, -1, part.shape[-1])


def _blocks(layout: Layout, shared: int, *parts: Tensor) -> list[Tensor]:
    """Each part (heads, N, D) by segment and key head: (segments, key heads, heads of a key head * M, D)."""
    return [part[:, layout.places].transpose(0, 1).reshape(len(layout.places), shared, -1, part.shape[-1]) for part in parts]


def _rows(layout: Layout, block: Tensor, heads: int) -> Tensor:
    """The way back: (heads, N, ...) of the real places of a block (segments, key heads, heads of a key head * M, ...)."""
    apart = block.reshape(len(block), heads, layout.real.shape[1], *block.shape[3:])
    return apart.transpose(1, 2)[layout.real].transpose(0, 1)


def _seen(layout: Layout, heads: int, shared: int) -> Tensor:
    return layout.seen.repeat(1, 1, heads // shared, 1)


def again(model: Any) -> AbstractContextManager[Any]:
    """What to be in when the layer under way is computed once more, to have the attention that it has now."""
    return divided(model, _active[-1]) if _active else nullcontext()


AttentionInterface.register(NAME, attend)

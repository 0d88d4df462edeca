"""Attention over a shared prefix and over own keys: for packed rows, and for a batch of answers to one prompt.

What a query sees of the prefix and what it sees of its own keys are computed apart. The softmax over both is the mean of
the two outputs, weighted by the sums of their exponentials, so the result is that of the whole sequence up to rounding.
Both variants are registered with transformers as attention implementations.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from engine.models.steps import Attend

_weighed = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # attention (..., T, D) with its log-sum-exp (..., T)
_gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # of query, key and value


def _join(first: Tensor, first_weight: Tensor, second: Tensor, second_weight: Tensor) -> Tensor:
    """The output over both sets of keys, of outputs (..., D) and their log-sum-exps (...)."""
    return torch.lerp(first, second, torch.sigmoid(second_weight - first_weight)[..., None].to(first.dtype))


@contextmanager
def _attending(model: Any, name: str, states: list[Any], state: Any) -> Iterator[None]:
    """While the block runs, the model attends by the implementation `name`, with `state` on top of its `states`."""
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    states.append(state)
    try:
        yield
    finally:
        states.pop()
        model.config._attn_implementation = before


# A packed row (packing.py): the prefix attends to itself, all segments meet the prefix in one product, and each segment
# meets itself in a batch. Under one mask over the whole row three quarters of the products would be thrown away.


@dataclass
class Layout:
    """How a row is divided: P prefix tokens (0: they are lent), then segments, padded to M tokens each.

    places: (segments, M) indices of own tokens, counted after the prefix; real: whether a place holds one; seen: additive
    (segments, 1, M, M). `keys`, `values`: (1, key heads, P, D) a layer, of the prefix: kept from this row, or lent to it.
    """

    prefix: int
    places: Tensor
    real: Tensor
    seen: Tensor
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


_layouts: list[Layout] = []


def can_divide(model: Any) -> bool:
    """Whether rows of this model may be computed in parts: on a CPU, without a sliding window or a soft cap."""
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
    seen[..., :1] = 0  # padding sees its segment's first token, to avoid NaN; its output is not read
    return Layout(prefix, places.where(real, places[:, :1]), real, seen[:, None])


@contextmanager
def divided(model: Any, layout: Layout) -> Iterator[Tensor]:
    """While the block runs, the model's attention is that of one row with this layout. Yields what to pass as attention
    mask: a single number, which is not read, but keeps transformers from making a mask of its own."""
    with _attending(model, "packed", _layouts, layout):
        yield torch.zeros(1, 1, 1, 1, dtype=layout.seen.dtype)


def same_layout(model: Any) -> AbstractContextManager[Any]:
    """A context in which a layer that is computed again has the attention that it has now."""
    return divided(model, _layouts[-1]) if _layouts else nullcontext()


def _attend_packed(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Any, scaling: float | None = None,
                   **_: Any) -> tuple[Tensor, None]:
    """Attention output (1, T, heads, D); query (1, heads, T, D); key, value (1, key heads, T, D)."""
    layout = _layouts[-1]
    layer: int = module.layer_idx  # type: ignore[assignment]
    prefix = layout.prefix
    parts = []
    if prefix:
        of_prefix = key[:, :, :prefix], value[:, :, :prefix]
        # Without their graph: the backward pass holds the layout, and would never be freed with it.
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

    In the backward pass each part has its own gradient, from the output and the log-sum-exp of both together: a softmax's
    gradient depends on the other keys only through these two (as in ring attention, arXiv 2310.01889).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor,
                layout: Layout, scale: float | None) -> Tensor:
        heads, size, _ = query.shape
        common, common_weight = _weighed(_by_key_head(query, len(key)), prefix_key, prefix_value, scale=scale)
        common, common_weight = common.reshape(query.shape), common_weight.reshape(heads, size)
        blocks = _blocks(layout, len(key), query, key, value)
        own, own_weight = (_rows(layout, part, heads) for part in _weighed(
            *blocks, attn_mask=_seen(layout, heads, len(key)), scale=scale))
        output = _join(own, own_weight, common, common_weight)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, output, torch.logaddexp(own_weight, common_weight))
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prefix_key, prefix_value, output, weight = ctx.saved_tensors
        layout, shared, heads = ctx.layout, len(key), len(query)
        column = (1, shared, -1)
        of_query, of_prefix_key, of_prefix_value = _gradients(
            *(_by_key_head(part, shared) for part in (gradient, query)), prefix_key, prefix_value,
            _by_key_head(output, shared), weight.reshape(column), 0.0, False, scale=ctx.scale)
        padding = ~layout.real.repeat(1, heads // shared)[:, None]  # (segments, 1, heads of a key head * M)
        blocks = _blocks(layout, shared, query, key, value)
        over, outputs, weights = (_blocks(layout, shared, part)[0] for part in (gradient, output, weight[..., None]))
        wide = torch.promote_types(query.dtype, torch.float32)  # in bf16 the kernel takes four times as long on short segments
        own = _gradients(over.masked_fill(padding[..., None], 0).to(wide), *(block.to(wide) for block in blocks),
                         outputs.to(wide), weights[..., 0].masked_fill(padding, torch.inf), 0.0, False,
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
    """The inverse: (heads, N, ...) of the real places of a block (segments, key heads, heads of a key head * M, ...)."""
    apart = block.reshape(len(block), heads, layout.real.shape[1], *block.shape[3:])
    return apart.transpose(1, 2)[layout.real].transpose(0, 1)


def _seen(layout: Layout, heads: int, shared: int) -> Tensor:
    return layout.seen.repeat(1, 1, heads // shared, 1)


# A batch after one prompt (sampling.py): the prompt's keys and values are kept once, not once a row, and the queries of all
# rows meet them in one product.


@dataclass
class Prefix:
    """Keys and values (key heads, P, D) a layer; mask: what layers that slide see of them, additive (B, 1, T, P); None: all."""

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor | None = None

    @property
    def length(self) -> int:
        """P, in tokens."""
        return self.keys[0].shape[-2]

    def see(self, positions: Tensor, window: int | None, dtype: torch.dtype) -> None:
        """Set what queries at `positions` (B, T) see of it: all, or in layers that slide the last `window` positions."""
        self.mask = None
        if window and int(positions.max()) >= window:
            distance = positions[:, None, :, None] - torch.arange(self.length, device=positions.device)
            self.mask = torch.zeros(distance.shape, dtype=dtype, device=positions.device).masked_fill_(
                distance >= window, torch.finfo(dtype).min)


_prefixes: list[Prefix] = []


def after_prefix(model: Any, prefix: Prefix) -> AbstractContextManager[None]:
    """While the block runs, the model attends to `prefix` besides the keys of its cache."""
    return _attending(model, "shared_prefix", _prefixes, prefix)


def _attend_after(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                   scaling: float | None = None, softcap: float | None = None, sliding_window: int | None = None,
                   **_: Any) -> tuple[Tensor, None]:
    """Attention output (B, T, heads, D). query (B, heads, T, D); key, value (B, key heads, S, D)."""
    prefix = _prefixes[-1]
    layer: int = module.layer_idx  # type: ignore[assignment]
    batch, heads, length, size = query.shape
    shared = key.shape[1]
    scaling = size**-0.5 if scaling is None else scaling
    grouped = query.reshape(batch, shared, heads // shared * length, size)
    across = grouped.transpose(0, 1).reshape(shared, -1, size)  # all rows' queries of a key head
    prefix_scores = (across @ prefix.keys[layer].transpose(-1, -2)).view(shared, batch, -1, prefix.length)
    own_scores = grouped @ key.transpose(-1, -2)
    scores = torch.cat([prefix_scores.transpose(0, 1), own_scores], dim=-1)
    scores = scores.view(batch, heads, length, -1) * scaling
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    if sliding_window and prefix.mask is not None:
        scores[..., : prefix.length] += prefix.mask
    if attention_mask is not None:
        scores[..., prefix.length:] += attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype).view(batch, shared, -1, scores.shape[-1])
    of_prefix = weights[..., : prefix.length].transpose(0, 1).reshape(shared, -1, prefix.length)
    output = (of_prefix @ prefix.values[layer]).view(shared, batch, -1, size).transpose(0, 1)
    output = output + weights[..., prefix.length:] @ value
    return output.reshape(batch, heads, length, size).transpose(1, 2), None


def attend_once(prefix: Prefix, cache: Any, mask: Tensor) -> Attend:
    """The same for one new token a row (steps.py). mask: additive (B, 1, 1, S), what each row sees of its own keys, the
    new one included. On a CPU, without soft cap or window."""
    def attend(index: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        batch, shared, size = keys.shape
        grown = cache.layers[index].update(keys[:, :, None], values[:, :, None])
        grouped = queries.reshape(batch, shared, -1, size)
        own, own_weight = _weighed(grouped, *grown, attn_mask=mask)
        across = grouped.transpose(0, 1).reshape(1, shared, -1, size)  # all rows' queries of a key head
        common, common_weight = _weighed(across, prefix.keys[index][None], prefix.values[index][None])
        common = common.view(shared, batch, -1, size).transpose(0, 1)
        common_weight = common_weight.view(shared, batch, -1).transpose(0, 1)
        return _join(own, own_weight, common, common_weight).reshape(batch, -1)

    return attend


AttentionInterface.register("packed", _attend_packed)
AttentionInterface.register("shared_prefix", _attend_after)

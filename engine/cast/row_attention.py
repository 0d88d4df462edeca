"""Attention of a batch whose rows stand one behind the other, each with keys and values of its own.

The tokens of all rows are one sequence for the linear layers; here each row's
tokens meet the keys of their own row alone. Rows may have any lengths, come and
go at any step, and nothing is padded or copied for that. Registered with
transformers as an attention implementation of its own. Knows tensors only.

transformers' continuous batching lays rows out likewise, and could carry a mask a
token; but its blocks of keys are shared by their tokens' hash, though under
another mask the same tokens have other keys, and on a CPU each token meets the
keys of all rows, and half of the machine's memory is taken for blocks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import AttentionInterface

from engine.cast.key_values import KeyValues

NAME = "rows_apart"


@dataclass(frozen=True)
class Segment:
    """The tokens of one row in a step: places begin to end of the sequence.

    `slot` of `store` holds what the row said before, `length` tokens.
    """

    store: KeyValues
    slot: int
    length: int
    begin: int
    end: int


_active: list[Sequence[Segment]] = []


@contextmanager
def rows_apart(model: nn.Module, segments: Sequence[Segment]) -> Iterator[None]:
    """While the block runs, the model attends within rows, and puts the new keys into the rows' slots."""
    before = model.config._attn_implementation  # type: ignore[union-attr]
    model.config._attn_implementation = NAME  # type: ignore[union-attr]
    _active.append(segments)
    try:
        yield
    finally:
        _active.pop()
        model.config._attn_implementation = before  # type: ignore[union-attr]


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
           scaling: float | None = None, softcap: float | None = None, sliding_window: int | None = None,
           **_: Any) -> tuple[Tensor, None]:
    """Attention output (1, N, heads, head size). query (1, heads, N, head size); key, value (1, key heads, N, head size)."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    scaling = query.shape[-1]**-0.5 if scaling is None else scaling
    output = torch.empty_like(query)
    for segment in _active[-1]:
        part = slice(segment.begin, segment.end)
        keys, values = segment.store.write(layer, segment.slot, segment.length, key[:, :, part], value[:, :, part])
        output[:, :, part] = _attend_row(query[:, :, part], keys, values, scaling, softcap, sliding_window)
    return output.transpose(1, 2), None


def _attend_row(query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None, window: int | None) -> Tensor:
    """The last T tokens' output (1, heads, T, head size) of a row with S keys (1, key heads, S, head size)."""
    _, heads, length, size = query.shape
    shared = keys.shape[1]
    if window and keys.shape[2] > window + length - 1:  # no token sees further back
        keys, values = keys[:, :, -(window + length - 1):], values[:, :, -(window + length - 1):]
    # Heads that share a key head are further queries of it, so that keys are not repeated.
    grouped = query.reshape(1, shared, heads // shared * length, size)
    seen = None if length == 1 else _seen(length, keys.shape[2], window, query.device).repeat(heads // shared, 1)
    if softcap is None:
        found = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=seen, scale=scaling)
        return found.view(1, heads, length, size)
    scores = torch.tanh(grouped @ keys.transpose(-1, -2) * scaling / softcap) * softcap
    if seen is not None:
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    return (scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ values).view(1, heads, length, size)


def _seen(length: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Which of S keys each of the last T tokens sees, (T, S)."""
    distance = torch.arange(keys - length, keys, device=device)[:, None] - torch.arange(keys, device=device)
    return (distance >= 0) & (distance < window) if window else distance >= 0


AttentionInterface.register(NAME, attend)

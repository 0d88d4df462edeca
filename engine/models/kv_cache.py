"""Key-value caches: one that grows in place, and one that reuses a prompt's beginning without changing an answer's bits.

transformers' DynamicCache copies all keys and values at every token (torch.cat). Here a layer keeps a buffer with spare
places, a token is written into it, and attention reads a view. All layers keep all positions: a sliding window is left to
the attention mask.
"""

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from engine.models.ffn import decoder, project_logits
from engine.models.steps import TokenSteps, attend_cached, can_step

SPARE = 64  # places added beyond need when a buffer is full
PIECE = 64  # tokens: reading 512 takes a tenth longer than in pieces of 128, and other requests wait half as long


class GrowingLayer(DynamicLayer):
    """Keys and values (B, heads, length, head size) of one layer, views into larger buffers."""

    keys: Any
    values: Any

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append (B, heads, T, head size) and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.length = 0
            self._reserve(key_states, value_states)
        fresh = key_states.shape[-2]
        if self.length + fresh > self.key_buffer.shape[-2]:
            self._reserve(key_states, value_states)
        self.key_buffer.narrow(2, self.length, fresh).copy_(key_states)
        self.value_buffer.narrow(2, self.length, fresh).copy_(value_states)
        self._show(self.length + fresh)
        return self.keys, self.values

    def _reserve(self, key_states: Tensor, value_states: Tensor) -> None:
        size = self.length + key_states.shape[-2] + SPARE
        buffers = []
        for states, old in ((key_states, self.keys), (value_states, self.values)):
            buffer = states.new_empty(*states.shape[:2], size, states.shape[-1])
            if self.length:
                buffer[:, :, : self.length] = old
            buffers.append(buffer)
        self.key_buffer, self.value_buffer = buffers

    def _show(self, length: int) -> None:
        self.length = length
        self.keys, self.values = self.key_buffer.narrow(2, 0, length), self.value_buffer.narrow(2, 0, length)

    def truncate(self, length: int) -> None:
        """Drop all positions from `length` on."""
        if self.is_initialized and length < self.length:
            self._show(length)

    def keep_rows(self, index: Tensor) -> None:
        """Keep some rows of the batch only."""
        self.key_buffer, self.value_buffer = self.key_buffer[index], self.value_buffer[index]
        self._show(self.length)


def growing_cache() -> DynamicCache:
    """An empty cache whose layers grow in place."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = GrowingLayer
    return cache


class CachedPrompt:
    """A model's cache over one prompt and the answer that grows after it.

    The last bits of a token's state depend on how many tokens were computed at once. A prompt is therefore read in whole
    pieces of PIECE tokens, counted from its first token, and a rest; only whole pieces are reused, or all of it when the same
    prompt comes again. What is reused thus changes how long an answer takes, and never the answer.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.steps = TokenSteps(model) if can_step(model) else None
        self.clear()

    def clear(self) -> None:
        """Drop everything, and free the memory."""
        self.cache: Any = growing_cache()
        self.tokens: list[int] = []  # what the cache holds, the answer included
        self.whole = 0  # this many leading tokens were read in whole pieces
        self.prompt: list[int] = []  # the last prompt that was read to its end, and what it predicts
        self.predicted: Tensor | None = None

    def reusable(self, tokens: Sequence[int]) -> int:
        """How many leading tokens of a prompt need not be computed again."""
        if self.predicted is not None and list(tokens) == self.prompt:
            return len(tokens)
        limit = min(self.whole, (len(tokens) - 1) // PIECE * PIECE)
        shared = 0
        while shared < limit and self.tokens[shared] == tokens[shared]:
            shared += 1
        return shared // PIECE * PIECE

    def read(self, tokens: Sequence[int]) -> Generator[None, None, Tensor]:
        """Read a prompt piece by piece, a yield after each; the value is the logits (1, vocabulary) that follow it."""
        known = self.reusable(tokens)
        self._keep(known)
        if known == len(tokens):
            assert self.predicted is not None
            return self.predicted
        while True:
            logits = self._compute(tokens[len(self.tokens): len(self.tokens) + PIECE])
            if len(self.tokens) == len(tokens):
                self.prompt, self.predicted = list(tokens), logits
                return logits
            yield

    def advance(self, token: int) -> Tensor:
        """Logits (1, vocabulary) after one more token of the answer."""
        return self._compute([token])

    def copy(self, length: int) -> "CachedPrompt":
        """A cache of its own that begins with the first `length` tokens, whole pieces, of this one."""
        assert length % PIECE == 0 and length <= self.whole
        other = CachedPrompt(self.model)
        for index, layer in enumerate(self.cache.layers if length else []):
            other.cache.update(layer.keys[:, :, :length], layer.values[:, :, :length], index)
        other.tokens, other.whole = self.tokens[:length], length
        return other

    def _keep(self, length: int) -> None:
        """Drop everything after the first `length` tokens."""
        self.tokens = self.tokens[:length]
        self.whole = min(self.whole, length)
        if length < len(self.prompt):
            self.prompt, self.predicted = [], None
        for layer in self.cache.layers:
            layer.truncate(length)

    @torch.inference_mode()
    def _compute(self, fresh: Sequence[int]) -> Tensor:
        start = len(self.tokens)
        for layer in self.cache.layers:
            layer.truncate(start)  # an earlier call may have failed half-way
        ids = torch.tensor([list(fresh)], device=next(self.model.parameters()).device)
        positions = torch.arange(start, start + len(fresh), device=ids.device)[None]
        if self.steps and len(fresh) == 1 and start:
            hidden = self.steps.step(ids[0], positions[0], attend_cached(self.cache))
        else:
            output = decoder(self.model)(input_ids=ids, position_ids=positions, past_key_values=self.cache, use_cache=True)
            hidden = output.last_hidden_state[0, -1:]
        logits = project_logits(self.model, hidden)
        self.tokens += fresh
        if len(fresh) == PIECE and self.whole == start:
            self.whole = len(self.tokens)
        return logits

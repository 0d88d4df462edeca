"""A key-value cache that grows in place, for the answers of calibration.

transformers' DynamicCache copies all keys and values at every token (torch.cat). Here a layer keeps a buffer with spare
places, a token is written into it, and attention reads a view. All layers keep all positions: a sliding window is left to
the attention mask.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

SPARE = 64  # places added beyond need when a buffer is full


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

    def keep_rows(self, index: Tensor) -> None:
        """Keep some rows of the batch only."""
        self.key_buffer, self.value_buffer = self.key_buffer[index], self.value_buffer[index]
        self._show(self.length)


def growing_cache() -> DynamicCache:
    """An empty cache whose layers grow in place."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = GrowingLayer
    return cache

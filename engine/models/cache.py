"""A key-value cache that grows in place.

transformers' DynamicCache copies all keys and values at every token (torch.cat);
here a layer keeps a buffer with room to spare, a token is written into it, and
what attention reads is a view. All layers keep all positions: a sliding window
is the attention mask's business.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 64  # positions added beyond need when a buffer is full


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
        used = self.length + key_states.shape[-2]
        if used > self.key_room.shape[-2]:
            self._reserve(key_states, value_states)
        fresh = key_states.shape[-2]
        self.key_room.narrow(2, self.length, fresh).copy_(key_states)
        self.value_room.narrow(2, self.length, fresh).copy_(value_states)
        self._show(used)
        return self.keys, self.values

    def _reserve(self, key_states: Tensor, value_states: Tensor) -> None:
        size = self.length + key_states.shape[-2] + ROOM
        rooms = []
        for states, old in ((key_states, self.keys), (value_states, self.values)):
            room = states.new_empty(*states.shape[:2], size, states.shape[-1])
            if self.length:
                room[:, :, : self.length] = old
            rooms.append(room)
        self.key_room, self.value_room = rooms

    def _show(self, length: int) -> None:
        self.length = length
        self.keys, self.values = self.key_room.narrow(2, 0, length), self.value_room.narrow(2, 0, length)

    def truncate(self, length: int) -> None:
        """Forget all positions from `length` on."""
        if self.is_initialized and length < self.length:
            self._show(length)

    def keep_rows(self, index: Tensor) -> None:
        """Keep some rows of the batch only."""
        self.key_room, self.value_room = self.key_room[index], self.value_room[index]
        self._show(self.length)


def growing_cache() -> DynamicCache:
    """An empty cache whose layers grow in place."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = GrowingLayer
    return cache



"""Keys and values of all rows of a batch, side by side: a tensor a layer and kind, a slot a row.

So one step attends for all rows in one product, and rows come and go without anything being copied, unless room has to be
added. How long a row is, its owner knows and says: what stands behind that is not read. Knows tensors only.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor

from engine.models.cache import ROOM


class KeyValues:
    """Slots for rows, and for each layer keys and values (slots, key heads, room, head size), made as layers are written."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.taken: set[int] = set()
        self.slots, self.room = 1, ROOM

    def take(self) -> int:
        """The lowest free slot."""
        slot = min(set(range(len(self.taken) + 1)) - self.taken)
        self.taken.add(slot)
        self.reserve(slot + 1, 0)
        return slot

    def give(self, slot: int) -> None:
        """Let another row have the slot."""
        self.taken.discard(slot)

    def reserve(self, slots: int, room: int) -> None:
        """See to it that there are so many slots, each with room for so many positions; memory is taken when it is written."""
        if slots > self.slots:
            self.slots = max(slots, self.slots + self.slots // 2)
        if room > self.room:
            self.room = max(room, self.room + ROOM)

    def write(self, layer: int, slot: int, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put (1, key heads, T, head size) into a slot from position `start` on; returns all of the slot up to their end."""
        end = start + keys.shape[2]
        self.reserve(0, end)
        rooms = self._rooms(layer, keys)
        for room, states in zip(rooms, (keys, values), strict=True):
            room[slot, :, start:end] = states[0]
        first, second = (room[slot: slot + 1, :, :end] for room in rooms)
        return first, second

    def read(self, layer: int, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """A copy of a slot's first positions, (key heads, length, head size) each."""
        keys, values = (room[slot, :, :length].clone() for room in self.layers[layer])
        return keys, values

    def attend(self, slots: Tensor, places: Tensor) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
        """Attention (steps.Attend) of one new token in each of some slots, which takes its place behind all that it sees.

        slots, places: (B,). All slots up to the highest are read; those that are not among `slots` for nothing.
        """
        count, length = int(slots.max()) + 1, int(places.max()) + 1
        self.reserve(0, length)
        last = places.new_zeros(count).index_copy_(0, slots, places)  # a slot of nobody sees one key: none would be no number
        unseen = torch.arange(length, device=places.device) > last[:, None]
        in_order = torch.equal(slots, torch.arange(count, device=slots.device))
        masks: list[Tensor] = []

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            rooms = self._rooms(layer, keys[:, :, None])
            for room, states in zip(rooms, (keys, values), strict=True):
                room[slots, :, places] = states
            if not masks:
                masks.append(queries.new_zeros(count, 1, 1, length).masked_fill_(unseen[:, None, None], float("-inf")))
            grouped = queries.reshape(len(queries), keys.shape[1], -1, queries.shape[-1])  # a key head's queries as its rows
            if not in_order:
                grouped = grouped.new_zeros(count, *grouped.shape[1:]).index_copy_(0, slots, grouped)
            seen_keys, seen_values = (room[:count, :, :length] for room in rooms)
            found = functional.scaled_dot_product_attention(grouped, seen_keys, seen_values, masks[0])
            return (found if in_order else found[slots]).reshape(len(queries), -1)

        return attend

    def _rooms(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's keys and values, as large as reserved. like: (..., key heads, T, head size)."""
        if layer == len(self.layers):
            shape = (self.slots, like.shape[1], self.room, like.shape[3])
            self.layers.append((like.new_zeros(shape), like.new_zeros(shape)))  # what was never written is multiplied by 0
        elif len(self.layers[layer][0]) < self.slots or self.layers[layer][0].shape[2] < self.room:
            keys, values = (self._grown(old) for old in self.layers[layer])
            self.layers[layer] = keys, values
        return self.layers[layer]

    def _grown(self, old: Tensor) -> Tensor:
        room = old.new_zeros(self.slots, old.shape[1], self.room, old.shape[3])
        room[: len(old), :, : old.shape[2]] = old
        return room

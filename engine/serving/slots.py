"""Which of llama.cpp's slots answers as which character of a cast.

A slot keeps the keys and values of what it read last, and they belong to the adapter under which they were read: llama.cpp clears
them when the next request has another. So a character gets a slot that was its own, the one that knows most of the prompt; else
one that was nobody's yet, else the one that has rested longest.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

PROMPT_CACHE = 512  # MB for conversations that no slot has any more, of all models in memory together
ANY = -1  # llama.cpp chooses, once one is free


class Slots:
    """The slots of one model in memory. `count` of them."""

    def __init__(self, count: int) -> None:
        self._rested = list(range(count))  # the one that was used last at the end; those in use are not here
        self._read: dict[int, tuple[str, Sequence[int]]] = {}

    @contextmanager
    def of(self, adapter: str, prompt: Sequence[int]) -> Iterator[int]:
        """A slot for a prompt while the block runs; ANY where all are taken."""
        if not self._rested:
            yield ANY
            return
        slot = self._choose(adapter, prompt)
        self._rested.remove(slot)
        self._read[slot] = (adapter, list(prompt))
        try:
            yield slot
        finally:
            self._rested.append(slot)

    def _choose(self, adapter: str, prompt: Sequence[int]) -> int:
        own = [slot for slot in self._rested if slot in self._read and self._read[slot][0] == adapter]
        if own:
            return max(own, key=lambda slot: _shared(prompt, self._read[slot][1]))
        return next((slot for slot in self._rested if slot not in self._read), self._rested[0])


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    return next((at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), min(len(one), len(other)))

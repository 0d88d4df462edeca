"""Conversations that the server keeps for its clients, so that a game sends only what the player says now.

A session belongs to a player, a character and a name that the client chose. A turn is kept once its reply is whole: one that was
broken off was never said.
"""

from collections import OrderedDict

from engine.server.conversation import Turns
from engine.server.errors import ApiError

Key = tuple[str, str, str]  # player, character, session
MOST_BYTES = 64_000_000  # of texts in the process's memory; the sessions used last stay
LONGEST = 400  # turns of a session that are kept


class Sessions:
    """Sessions in the memory of the process, up to a size."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._kept: OrderedDict[Key, Turns] = OrderedDict()

    def turns(self, key: Key) -> Turns:
        """The turns of a session so far."""
        return self._kept.get(key, ())

    def append(self, key: Key, *turns: tuple[str, str]) -> None:
        """Add turns; the oldest ones of a very long session, and the sessions used longest ago, are forgotten."""
        before = self._kept.pop(key, ())
        after = (*before, *turns)[-LONGEST:]
        self._kept[key] = after
        self.bytes += _size(key, after) - (_size(key, before) if before else 0)
        while self.bytes > self.most_bytes and len(self._kept) > 1:
            self.forget(next(iter(self._kept)))

    def forget(self, key: Key) -> bool:
        """Forget a session; whether there was one."""
        turns = self._kept.pop(key, None)
        if turns is not None:
            self.bytes -= _size(key, turns)
        return turns is not None

    def forget_player(self, player: str, character: str = "") -> None:
        """Forget the sessions of a player; `character`: with this one alone."""
        for key in [key for key in self._kept if key[0] == player and character in ("", key[1])]:
            self.forget(key)

    def __len__(self) -> int:
        return len(self._kept)


def _size(key: Key, turns: Turns) -> int:
    return sum(len(part) for part in key) + sum(len(text) + 100 for _, text in turns)


class Busy:
    """Which sessions are being answered: two answers at once would not know of each other."""

    def __init__(self) -> None:
        self._keys: set[Key] = set()

    def claim(self, key: Key) -> None:
        """Begin. Raises ApiError (409) where an answer is under way."""
        if key in self._keys:
            raise ApiError(409, f"The session {key[2]!r} is being answered. Send the next message when the reply is complete.",
                           "session_busy", "persona.session")
        self._keys.add(key)

    def release(self, key: Key) -> None:
        """End."""
        self._keys.discard(key)

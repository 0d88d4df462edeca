"""Who computes when. One model computes at a time: two that share the cores of a machine take longer than one after the other,
and neither's speed could be measured. Requests to one model go side by side, as many as its memory of tokens holds."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Turns in the order in which they were asked for. All of one process share it."""

    def __init__(self) -> None:
        self._holder: object = None
        self._held: list[int] = []  # tokens of each turn under way
        self._waiting: deque[tuple[object, int, int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def of(self, who: object, tokens: int, most: int) -> AsyncIterator[None]:
        """A turn of `who` with this many tokens; all its turns together may have `most`."""
        entry = (who, min(tokens, most), most, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._admit()
        try:
            await entry[3]
            yield
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                self._held.remove(entry[1])
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            who, tokens, most, come = self._waiting[0]
            if self._held and (who is not self._holder or sum(self._held) + tokens > most):
                return
            self._waiting.popleft()
            self._holder = who
            self._held.append(tokens)
            if not come.done():
                come.set_result(None)

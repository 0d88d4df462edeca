"""Asynchronous work for a program that is not: one step after the other, in an event loop of its own."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
HEARTBEAT = 1.0  # seconds


class Loop:
    """An event loop that runs only while something is asked of it."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine."""
        return self._runner.run(work)

    def each(self, stream: AsyncGenerator[T, None]) -> Iterator[T | None]:
        """Every item of a stream; None after each HEARTBEAT without one. Closing the iterator closes the stream."""
        waiting: asyncio.Task[T] | None = None

        async def following() -> bool:
            nonlocal waiting
            waiting = waiting or asyncio.ensure_future(anext(stream))
            return bool((await asyncio.wait({waiting}, timeout=HEARTBEAT))[0])

        async def end() -> None:
            if waiting and not waiting.done():
                waiting.cancel()
                await asyncio.wait({waiting})
            await stream.aclose()

        try:
            while True:
                if not self.run(following()):
                    yield None
                    continue
                assert waiting
                done, waiting = waiting, None
                try:
                    item = done.result()
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self.run(end())

    def close(self) -> None:
        """End the loop."""
        self._runner.close()

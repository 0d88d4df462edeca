"""What keeps one client from taking all: the size of a body, requests a minute, and a fair line before the models."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from engine.server.errors import ApiError

_BODY_SECONDS = 30.0  # within which a body must have come
_CALLERS = 10_000  # addresses whose rate is remembered


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request. Raises ApiError (413) as soon as it is longer than `limit` bytes, and (408) where it does not come."""
    too_long = ApiError(413, f"The body is larger than {limit:,} bytes, the most that this server reads.", "body_too_large",
                        headers={"connection": "close"})
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_long
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_long
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"The body did not come within {_BODY_SECONDS:.0f} seconds.", "body_too_slow",
                       headers={"connection": "close"}) from None
    except ClientDisconnect:
        raise ApiError(499, "The client is gone.", "client_gone") from None
    return b"".join(parts)


class Rate:
    """At most N requests a minute from each address, in bursts of up to N. 0: any number."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self.clock = per_minute, clock
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests at hand, and when

    def spend(self, who: str) -> None:
        """Count a request. Raises ApiError (429) that says when to try again."""
        if not self.per_minute:
            return
        now = self.clock()
        left, then = self._seen.pop(who, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - then) * self.per_minute / 60)
        self._seen[who] = (max(0.0, left - 1) if left >= 1 else left, now)
        while len(self._seen) > _CALLERS:
            self._seen.popitem(last=False)
        if left < 1:
            wait = max(1, round((1 - left) * 60 / self.per_minute + 0.5))
            raise ApiError(429, f"At most {self.per_minute:,} requests a minute are answered. Try again in {wait} seconds.",
                           "rate_limit_exceeded", headers={"retry-after": str(wait)})


class Line:
    """`places` at once; the others wait. Players take turns, so that one with many requests does not keep the others waiting."""

    def __init__(self, places: int, most: int, patience: float) -> None:
        self.places, self.most, self.patience = places, most, patience
        self.taken = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def place(self, who: str) -> AsyncIterator[float]:
        """A place, once there is one; the value is the time waited, in seconds. Raises ApiError: 429 where too many wait, 503
        where it took too long."""
        start = time.monotonic()
        if self.taken < self.places and not self._waiting:
            self.taken += 1
        else:
            await self._wait(who)
        try:
            yield time.monotonic() - start
        finally:
            self._hand_on()

    async def _wait(self, who: str) -> None:
        if self.waiting >= self.most:
            raise ApiError(429, f"{self.most:,} requests are waiting already. Try again a little later.", "line_full")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        try:
            async with asyncio.timeout(self.patience):  # wait_for loses a cancellation that comes together with the place
                await turn
        except BaseException as error:
            if turn.cancelled():
                self._leave(who, turn)
            else:  # the place came as the wait ended
                self._hand_on()
            if isinstance(error, TimeoutError):
                raise ApiError(503, f"No place became free within {self.patience:.0f} seconds. Try again a little later.",
                               "overloaded") from None
            raise

    def _leave(self, who: str, turn: "asyncio.Future[None]") -> None:
        turns = self._waiting.get(who, deque())
        if turn in turns:
            turns.remove(turn)
        if not turns:
            self._waiting.pop(who, None)

    def _hand_on(self) -> None:
        """Give a place to the next in line; without one, it is free again."""
        while self._waiting:
            who, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[who] = turns  # after the other players
            if not turn.done():  # whose task was not cancelled just now
                turn.set_result(None)
                return
        self.taken -= 1

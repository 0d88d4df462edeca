"""The live channel: one stream of server-sent events for each open page carries all that changes by itself.

A room registers a part: a function that makes, from what a page looks at, the contents of elements by their ids. A part is
made once for all pages that look at the same thing, about once a second while a page is open and at once after `touch`.
A page gets the contents that are newer than its revision, so one that (re)connects gets everything. assets/live.js puts
them in place.
"""

import asyncio
import functools
import gzip
import hmac
import json
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import plotly
from plotly.offline import get_plotlyjs
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from engine.base.errors import UserError

PATH, PLOTLY_PATH = "/studio/live", "/studio/plotly.js"
PLOTLY_ADDRESS = f"{PLOTLY_PATH[1:]}?{plotly.__version__}"  # as the page asks for it; a browser keeps it for ever
TICK = 1.0  # seconds between two looks at a part
LEAST = 0.1  # seconds between two messages to one page
HEARTBEAT = 15.0  # seconds of silence until a comment is sent: proxies close silent connections
REMEMBERED = 64  # parts, each for one thing that pages look at
LONGEST = 2_000  # bytes of what a page looks at
COMMON = "sidebar"  # the part that every page shows, beside the one of its room

log = logging.getLogger(__name__)


class Ready(bytes):
    """A content that is JSON already: made once, sent to many."""


Contents = Mapping[str, Any]  # id -> HTML (str), shown or hidden (bool), a plotly figure (see `figure`), or what a script reads
Make = Callable[[Mapping[str, str]], Contents]


def figure(figure: Any) -> Ready:
    """A plotly figure as a content."""
    return Ready(figure.to_json().encode())


@dataclass
class _Made:
    """A part as it was made at `at` (monotonic seconds) from `stamp`: id -> (revision of its last change, JSON)."""

    at: float = -1e9
    stamp: Any = None
    fault: str = ""  # what kept it from being made the last time, for the log to have it once
    contents: dict[str, tuple[int, bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    make: Make
    looks: tuple[str, ...]
    stamp: Callable[[], Any]


class Live:
    """The parts of all rooms. `touch` may be called from any thread; the rest belongs to the web server's event loop."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self._parts: dict[str, list[_Part]] = {}
        self._made: OrderedDict[tuple[str, ...], _Made] = OrderedDict()
        self._touched: dict[str, float] = {}
        self._revision = 0
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Event] = set()

    def part(self, room: str, make: Make, *looks: str, stamp: Callable[[], Any] = time.monotonic) -> None:
        """Show `make`'s contents in a room. It gets, of what a page looks at, the values named by `looks` ("" for none), and
        runs in a thread. It is not asked again while `stamp` returns the same."""
        self._parts.setdefault(room, []).append(_Part(make, looks, stamp))

    def touch(self, room: str = "") -> None:
        """Something that a room shows has changed (without one: any): open pages get it now, not with the next look."""
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, room)

    async def follow(self, look: Mapping[str, str], since: int = 0,
                     once: bool = False) -> AsyncIterator[tuple[int, dict[str, bytes]]]:
        """The revision and the contents that have changed since the last time, or since revision `since`; none as heartbeat."""
        self._loop = asyncio.get_running_loop()
        changed, sent_at = asyncio.Event(), time.monotonic()
        self._waiting.add(changed)
        try:
            while True:
                changed.clear()
                found = [one for name in (COMMON, look.get("room", "")) for one in await self._newest(name, look)]
                fresh = {id: text for id, revision, text in found if revision > since}
                if fresh or once or time.monotonic() - sent_at > HEARTBEAT:
                    since = max([since, *(revision for _, revision, _ in found)])
                    sent_at = time.monotonic()
                    yield since, fresh
                    if once:
                        return
                await asyncio.sleep(LEAST)
                try:
                    await asyncio.wait_for(changed.wait(), TICK - LEAST)
                except TimeoutError:
                    continue
        finally:
            self._waiting.discard(changed)

    def _wake(self, room: str) -> None:
        self._touched[room] = time.monotonic()
        for changed in self._waiting:
            changed.set()

    async def _newest(self, room: str, look: Mapping[str, str]) -> list[tuple[str, int, bytes]]:
        """(id, revision, JSON) of the contents of a room."""
        found = []
        for number, part in enumerate(self._parts.get(room, [])):
            asked = {one: look.get(one, "") for one in part.looks}
            key = (room, str(number), *asked.values())
            made = self._made.setdefault(key, _Made())
            async with self._lock:  # one makes it, and the others wait for that
                if not self._is_fresh(room, made):
                    made.at = time.monotonic()
                    await anyio.to_thread.run_sync(self._make, room, part, asked, made)
            self._made[key] = made  # meanwhile others may have taken its place
            self._made.move_to_end(key)
            found += [(id, *one) for id, one in made.contents.items()]
        while len(self._made) > REMEMBERED:
            self._made.popitem(last=False)
        return found

    def _is_fresh(self, room: str, made: _Made) -> bool:
        touched = max(self._touched.get(room, 0.0), self._touched.get("", 0.0))
        return made.at > touched and time.monotonic() - made.at < TICK - LEAST

    def _make(self, room: str, part: _Part, asked: dict[str, str], made: _Made) -> None:
        """Make a part again; where that fails, the next look may repair it."""
        try:
            if (stamp := part.stamp()) != made.stamp:
                self._take(made, {id: value if isinstance(value, Ready) else json.dumps(value).encode()
                                  for id, value in part.make(asked).items()})
                made.stamp, made.fault = stamp, ""
        except Exception as error:
            if repr(error) != made.fault:
                made.fault = repr(error)
                known = isinstance(error, UserError)  # the library is busy
                log.info("the live part of %s: %s", room, error) if known else log.exception("the live part of %s", room)

    def _take(self, made: _Made, contents: dict[str, bytes]) -> None:
        """Keep new contents; one that is gone becomes null, so that pages hear of it."""
        contents = {**dict.fromkeys(made.contents, b"null"), **contents}
        if changed := [id for id, text in contents.items() if made.contents.get(id, (0, b""))[1] != text]:
            self._revision += 1
            made.contents = {**made.contents, **{id: (self._revision, contents[id]) for id in changed}}


class LiveRoute:
    """ASGI middleware that streams the channel to pages that know its token, and serves plotly's script."""

    def __init__(self, app: Any, live: Live) -> None:
        self.app, self.live = app, live

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer, or pass on."""
        if scope["type"] == "http" and scope["path"] == PATH:
            await self._answer(Request(scope))(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == PLOTLY_PATH:
            await (await anyio.to_thread.run_sync(_plotly))(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        look = dict(request.query_params)
        if not hmac.compare_digest(look.pop("token", "").encode(), self.live.token.encode()):
            return PlainTextResponse("This page is of an earlier start of the studio. Reload it.", 403)
        if request.method != "GET" or len(request.scope["query_string"]) > LONGEST:
            return PlainTextResponse("The live channel takes no such request.", 400)
        known = re.fullmatch("[0-9]{1,18}", request.headers.get("last-event-id", ""))
        return StreamingResponse(self._stream(look, int(known[0]) if known else 0), media_type="text/event-stream",
                                 headers={"cache-control": "no-store"})

    async def _stream(self, look: Mapping[str, str], since: int) -> AsyncIterator[bytes]:
        """Messages without an end; with `once`, one: the browser comes back for the next by itself."""
        yield b"retry: %d\n\n" % (1000 * TICK)
        async for revision, contents in self.live.follow(look, since, "once" in look):
            parts = b",".join(json.dumps(id).encode() + b":" + text for id, text in contents.items())
            yield b'id: %d\ndata: {"now":%.2f,"parts":{%b}}\n\n' % (revision, time.time(), parts) if contents else b":\n\n"


@functools.lru_cache(maxsize=1)
def _plotly() -> Response:
    return Response(gzip.compress(get_plotlyjs().encode(), 6), media_type="text/javascript", headers={
        "content-encoding": "gzip", "cache-control": "private, max-age=31536000, immutable"})

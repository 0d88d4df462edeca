"""News for open pages: what moves by itself, made once for all of them. Each page in sight asks once a second.

A page's script (assets/news.js) asks a route before Gradio's, which costs a twentieth of one of Gradio's own events. Only
who knows this studio's token is answered, and only a page that has logged in is told it. Knows no room: each says what it
has to tell.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import math
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import anyio.to_thread

from engine.base.errors import UserError

PATH = "/studio/news"
FRESH = 0.9  # seconds for which what was made serves everybody
REMEMBERED = 64  # pieces of news, each of one name and question
LONGEST = 500  # bytes of a question
PAINT_SECONDS = 0.01  # of a processor, for one page that fetches new figures through Gradio; see benchmarks/studio/tabs.py
SHARE = 0.01  # of the machine's processors, for all pages that do
LEAST, MOST = 1.0, 60.0  # seconds between two such paintings of one page
MEMORY = 5.0  # seconds over which the pages are counted

log = logging.getLogger(__name__)


def pace(pages: float, processors: int) -> int:
    """Whole seconds that a page waits between two paintings of its figures, so that all `pages` take SHARE of the machine."""
    return math.ceil(min(max(pages * PAINT_SECONDS / (SHARE * processors), LEAST), MOST))


@dataclass(frozen=True)
class _Made:
    at: float  # monotonic seconds
    text: bytes  # JSON; b"" where it could not be made
    key: str  # the same for the same text


class News:
    """What rooms have to tell, and how many pages ask for it. `answer` belongs to one event loop."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self._makers: dict[str, Callable[[str], Any]] = {}
        self._made: OrderedDict[tuple[str, str], _Made] = OrderedDict()
        self._asked: dict[str, tuple[float, float]] = {}  # name -> (asks a second, as of these monotonic seconds)
        self._lock = asyncio.Lock()

    def tell(self, name: str, make: Callable[[str], Any]) -> None:
        """Answer what pages ask under `name` with what `make` returns for their question, as JSON. It runs in a thread."""
        self._makers[name] = make

    def pages(self, name: str) -> float:
        """How many pages ask under `name`, each once a second; smoothed over MEMORY seconds."""
        rate, at = self._asked.get(name, (0.0, 0.0))
        return rate * math.exp((at - time.monotonic()) / MEMORY)

    def pace(self, name: str) -> int:
        """The pace for the pages that ask under `name` now."""
        return pace(self.pages(name), os.cpu_count() or 1)

    async def answer(self, asked: bytes) -> tuple[str, bytes]:
        """The answer to a query string, as a key and a JSON object of name -> news; unknown names are passed over."""
        keys, texts = [], []
        for name, question in parse_qsl(asked.decode("ascii", "replace"), keep_blank_values=True):
            if name in self._makers:
                self._asked[name] = (self.pages(name) + 1 / MEMORY, time.monotonic())
                made = await self._newest(name, question)
                keys.append(made.key)
                if made.text:
                    texts.append(b'"%b":%b' % (name.encode(), made.text))
        return f'"{".".join(keys)}"', b"{%b}" % b",".join(texts)

    async def _newest(self, name: str, question: str) -> _Made:
        if (made := self._fresh(name, question)) is None:
            async with self._lock:  # one makes it, and the others wait for that
                if (made := self._fresh(name, question)) is None:
                    made = await anyio.to_thread.run_sync(partial(self._make, name, question))
                    self._made[name, question] = made
                    self._made.move_to_end((name, question))
                    while len(self._made) > REMEMBERED:
                        self._made.popitem(last=False)
        return made

    def _fresh(self, name: str, question: str) -> _Made | None:
        made = self._made.get((name, question))
        return made if made and time.monotonic() - made.at < FRESH else None

    def _make(self, name: str, question: str) -> _Made:
        begin = time.monotonic()
        try:
            text = json.dumps(self._makers[name](question)).encode()
        except UserError as error:  # the library is busy: the page asks again
            log.info("no news of %s: %s", name, error)
            text = b""
        except Exception:
            log.exception("no news of %s", name)
            text = b""
        return _Made(begin, text, hashlib.sha256(text).hexdigest()[:16])


class NewsRoute:
    """ASGI middleware that answers the page's script; everything else is passed on.

    With If-None-Match a page says what it has; where nothing is new it gets 304 and no body.
    """

    def __init__(self, app: Any, news: News) -> None:
        self.app, self.news = app, news

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        status, key, body = 200, "", b""
        if not hmac.compare_digest(headers.get(b"x-studio-token", b""), self.news.token.encode()):
            status = 403
        elif scope["method"] != "GET" or len(scope["query_string"]) > LONGEST:
            status = 400
        else:
            key, body = await self.news.answer(scope["query_string"])
            if headers.get(b"if-none-match", b"").decode("latin-1") == key:
                status, body = 304, b""
        told = [(b"content-type", b"application/json"), (b"cache-control", b"no-store"), (b"content-length", b"%d" % len(body)),
                *([(b"etag", key.encode())] if key else [])]
        await send({"type": "http.response.start", "status": status, "headers": told[:2] + told[3:] if status == 304 else told})
        await send({"type": "http.response.body", "body": body})

"""Name and password: where they come from, and how slow guessing is.

A client's first wrong passwords cost nothing, each further one makes it wait longer before the next is looked at. The wait
has a limit and is forgotten after a while, so nobody can lock the owner out for ever. All clients that never logged in share
one further wait, against guesses from many addresses; this machine and clients that logged in before are spared that one.
"""

import asyncio
import ipaddress
import os
import time
from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from studio.border import refuse

VARIABLE = "PERSONA_STUDIO_AUTH"
LEAST = 8  # characters of a password
LONGEST = 4_096  # bytes of the file
FREE, LONGEST_WAIT = 5, 30.0  # wrong passwords of one client without a wait; seconds
STRANGERS_FREE, STRANGERS_WAIT = 30, 1.0  # the same for all strangers together
PATIENCE = 60.0  # seconds for which a try is kept waiting; one that would wait longer is refused
MEMORY = 900.0  # seconds without a try after which a count begins again
CLIENTS = 1_000  # that are remembered
PATHS = ("/login", "/login/")
MESSAGE = "After a few wrong passwords each answer takes longer."


def credentials(given: str | None, file: str | None, environment: MutableMapping[str, str]) -> tuple[str, str] | None:
    """Name and password of --auth, else of --auth-file, else of the variable; None where there is none of them.

    The variable is taken out of `environment`, so that no worker inherits it. Raises UserError.
    """
    variable = environment.pop(VARIABLE, None)
    if given is not None:
        return _split(given, "--auth")
    if file is not None:
        return _split(_only_line(Path(file)), f"The file {file}")
    return _split(variable, VARIABLE) if variable is not None else None


def _only_line(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(LONGEST + 1)
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"The file {file} with name and password cannot be read ({getattr(error, 'strerror', None) or error}).",
                        "Give --auth-file a text file of one line: NAME:PASSWORD.") from error
    lines = text.splitlines()
    if len(data) > LONGEST or len(lines) != 1:
        raise UserError(f"The file {file} must hold exactly one line: NAME:PASSWORD.")
    return lines[0]


def _split(text: str, source: str) -> tuple[str, str]:
    name, _, password = text.partition(":")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of a command line that are no text
        raise UserError(f"{source} is not written in UTF-8.") from error
    if not name.strip() or len(password) < LEAST:
        raise UserError(f"{source} needs NAME:PASSWORD, with a password of at least {LEAST} characters.")
    return name.strip(), password  # the page strips the name, too


def readable_by_others(file: str | None) -> bool:
    """Whether other users of this machine may read the file with the password."""
    try:
        return os.name == "posix" and file is not None and bool(os.stat(file).st_mode & 0o077)
    except OSError:
        return False


@dataclass
class _Count:
    wrong: int = 0
    free_at: float = 0.0  # when the next try is looked at
    last: float = 0.0


class Tries:
    """Counts tries and says how long each has to wait. Times are seconds of one clock; a try counts as wrong until it is right."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, _Count] = OrderedDict()
        self._strangers = _Count()
        self._known: OrderedDict[str, None] = OrderedDict()

    def wait(self, client: str, now: float) -> float | None:
        """Seconds until a try that begins now may be looked at; None where it is to be refused."""
        one = _fresh(self._clients.get(client, _Count()), now)
        counts = [(one, FREE, LONGEST_WAIT)]
        if client not in self._known and not is_here(client):
            self._strangers = _fresh(self._strangers, now)
            counts.append((self._strangers, STRANGERS_FREE, STRANGERS_WAIT))
        begin = max(now, *(count.free_at for count, _, _ in counts))
        if begin - now > PATIENCE:
            return None
        for count, free, longest in counts:
            count.wrong, count.last = count.wrong + 1, begin
            count.free_at = begin + (min(2.0 ** min(count.wrong - free, 20), longest) if count.wrong >= free else 0.0)
        _remember(self._clients, client, one)
        return begin - now

    def right(self, client: str) -> None:
        """The password was right: the client's count begins again, and it is no stranger any more."""
        self._clients.pop(client, None)
        self._strangers.wrong = max(0, self._strangers.wrong - 1)
        _remember(self._known, client, None)


def _fresh(count: _Count, now: float) -> _Count:
    return count if now - count.last < MEMORY else _Count()


def _remember(kept: OrderedDict[str, Any], client: str, value: Any) -> None:
    kept[client] = value
    kept.move_to_end(client)
    while len(kept) > CLIENTS:
        kept.popitem(last=False)


def client_of(scope: dict[str, Any]) -> str:
    """Who asks: an IPv4 address, or the network of an IPv6 address, of which one owner has all addresses."""
    host = (scope.get("client") or ("",))[0].partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    address = getattr(address, "ipv4_mapped", None) or address
    if address.version == 4 or address.is_loopback:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def is_here(client: str) -> bool:
    """Whether an address is one of this machine alone."""
    try:
        return client == "localhost" or ipaddress.ip_address(client.strip("[]")).is_loopback
    except ValueError:
        return False


class SlowLogin:
    """ASGI middleware that makes tries to log in wait, by what `Tries` says."""

    def __init__(self, app: Any) -> None:
        self.app, self.tries = app, Tries()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass on, a try to log in after its wait."""
        if scope["type"] != "http" or scope["path"] not in PATHS or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        client = client_of(scope)
        seconds = self.tries.wait(client, time.monotonic())
        if seconds is None:
            await refuse(send, 429, "There were too many wrong passwords. Wait a minute and try again.", (b"retry-after", b"60"))
            return

        async def watched(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self.tries.right(client)
            await send(message)

        await asyncio.sleep(seconds)
        await self.app(scope, receive, watched)

"""What is let in to the studio: requests to one of its names, from its own pages, of those who have logged in.

It comes before everything of Gradio's. Browsers say where a request comes from: Origin with all that changes or uploads,
Sec-Fetch-Site with every request (over plain HTTP only to this machine). A page elsewhere can let its own name lead to this
machine (DNS rebinding) and then reads what it likes, for to the browser it is the same site: only the Host gives it away.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from typing import Any

from engine.base.errors import UserError

BEGIN = "/gradio_api/startup-events"  # Gradio asks itself for it, once, before the studio is open
WITHOUT_LOGIN = {"/", "/login", "/login/", "/favicon.ico", "/manifest.json", "/robots.txt", "/theme.css", "/gradio_api/theme.css",
                 "/pwa_icon"}  # what the page needs to ask for a password
WITHOUT_LOGIN_BELOW = ("/assets/", "/static/", "/svelte/", "/pwa_icon/")
WRONG_NAME = (403, "This is not an address of this studio. Open the one that it printed when it started, or allow another name "
                   "with --name.")
FOREIGN = (403, "This request came from another site, so the studio refused it.")
NOT_LOGGED_IN = (401, "Log in first.")
Refusal = tuple[int, str]
Address = tuple[str, int | None]  # a host in lower case, IPv6 without brackets; a port, None where none is given
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?)\.?(?::([0-9]{1,5}))?", re.IGNORECASE | re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse(authority: str) -> Address | None:
    """HOST or HOST:PORT as an address; None for anything else. One dot at the end of the host means nothing."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None or (found[2] and int(found[2]) > 65_535):
        return None
    host = found[1].lower().strip("[]")
    return _plain(host), int(found[2]) if found[2] else None


def same(origin: str, host: Address) -> bool:
    """Whether an Origin header names exactly this host and port. "null" and what is no origin never do."""
    scheme, separator, authority = origin.partition("://")
    address = parse(authority)
    default = _DEFAULT_PORTS.get(scheme.lower())
    if not separator or default is None or address is None:
        return False
    return (address[0], address[1] or default) == (host[0], host[1] or default)


class Names:
    """The names of one studio. `listen`: where it listens, None for this machine only; `others`: NAME or NAME:PORT."""

    def __init__(self, listen: str | None = None, others: Iterable[str] = ()) -> None:
        self.own = {"localhost", "127.0.0.1", "::1"} | (_names_here(listen) if listen else set())
        self.others: set[Address] = set()
        for name in others:
            self.add(name)

    def add(self, name: str) -> None:
        """Allow another name, as a proxy or a tunnel has it. Raises UserError for what is no name."""
        address = parse(name)
        if address is None:
            raise UserError(f"{name!r} is not the name of a host.", "Write it as NAME or NAME:PORT, without http://.")
        self.others.add(address)

    def has(self, host: Address, server: tuple[str, int | None] | None) -> bool:
        """Whether `host` is one of the names. `server`: the address and port at which the request came in."""
        if host in self.others:
            return True
        served, port = server or ("", None)
        own_port = port is not None and (host[1] or 80) == port
        if (host[0], None) in self.others:
            return own_port or host[1] in _DEFAULT_PORTS.values()
        return own_port and (host[0] in self.own or host[0] == _plain(served.partition("%")[0].lower()))


def _names_here(listen: str) -> set[str]:
    """The address given with --listen, and what other machines call this one."""
    machine = socket.gethostname().lower()
    short = machine.partition(".")[0]
    return {_plain(listen.lower().strip("[]")), machine, short, f"{short}.local"}


def _plain(host: str) -> str:
    """One spelling for each IP address, and for an IPv4 address that came in through IPv6."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(getattr(address, "ipv4_mapped", None) or address)


class Border:
    """ASGI middleware that refuses what is not the studio's own. `logged_in`: whether a request's headers hold a good login."""

    def __init__(self, app: Any, names: Names, logged_in: Callable[[dict[str, Any]], bool]) -> None:
        self.app, self.names, self.logged_in = app, names, logged_in
        self.open = False

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, or answer it with one sentence."""
        if scope["type"] == "websocket":  # the studio has none
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http" and (refusal := self.refusal(scope)):
            await refuse(send, *refusal)
        else:
            await self.app(scope, receive, send)

    def refusal(self, scope: dict[str, Any]) -> Refusal | None:
        """What speaks against a request: a status and a sentence."""
        found = _Headers(scope)
        hosts = [parse(one) for one in found.all(b"host")]
        forwarded = [parse(one.strip()) for line in found.all(b"x-forwarded-host") for one in line.split(",")]
        known = [host for host in hosts + forwarded if host and self.names.has(host, scope.get("server"))]
        if len(hosts) != 1 or len(known) != len(hosts + forwarded) or found.all(b"x-gradio-server"):
            return WRONG_NAME
        if _is_foreign(found, forwarded[0] if forwarded else hosts[0]) and not _is_link(scope, found):
            return FOREIGN
        if not self._needs_no_login(scope["path"]) and not self.logged_in(scope):
            return NOT_LOGGED_IN
        return None

    def _needs_no_login(self, path: str) -> bool:
        return path in WITHOUT_LOGIN or path.startswith(WITHOUT_LOGIN_BELOW) or (path == BEGIN and not self.open)


class _Headers:
    def __init__(self, scope: dict[str, Any]) -> None:
        self.pairs = scope["headers"]

    def all(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for key, value in self.pairs if key == name]


def _is_foreign(found: _Headers, host: Address | None) -> bool:
    sites = found.all(b"sec-fetch-site")
    return (any(site not in ("same-origin", "none") for site in sites)
            or any(host is None or not same(origin, host) for origin in found.all(b"origin")))


def _is_link(scope: dict[str, Any], found: _Headers) -> bool:
    """Whether the whole page is opened by a link elsewhere, which shows the linking site nothing."""
    return (scope["method"] in ("GET", "HEAD") and scope["path"] == "/" and not found.all(b"origin")
            and found.all(b"sec-fetch-mode") == ["navigate"] and found.all(b"sec-fetch-dest") == ["document"])


async def refuse(send: Any, status: int, sentence: str, *headers: tuple[bytes, bytes]) -> None:
    """Answer with a status and one plain sentence."""
    body = sentence.encode()
    await send({"type": "http.response.start", "status": status, "headers": [
        (b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(body)), *headers]})
    await send({"type": "http.response.body", "body": body})


class SafeHeaders:
    """ASGI middleware that adds a content policy, and keeps the page's address to itself."""

    def __init__(self, app: Any, policy: str) -> None:
        self.app = app
        self.headers = [(b"content-security-policy", policy.encode()), (b"referrer-policy", b"no-referrer"),
                        (b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin")]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass the request on, and add the headers to its answer."""

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self.headers]}
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)

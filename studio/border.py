"""What is let in to the studio: requests to one of its names, from its own pages, of those who have logged in.

It comes before everything of Gradio's. Browsers say where a request comes from: Origin with all that changes or uploads,
Sec-Fetch-Site with every request (over plain HTTP only to this machine).
"""

from collections.abc import Callable
from typing import Any

from studio.addresses import Address, Names, parse, same

BEGIN = "/gradio_api/startup-events"  # Gradio asks itself for it, once, before the studio is open
WITHOUT_LOGIN = {"/", "/login", "/login/", "/favicon.ico", "/manifest.json", "/robots.txt", "/theme.css", "/gradio_api/theme.css",
                 "/pwa_icon"}  # what the page needs to ask for a password
WITHOUT_LOGIN_BELOW = ("/assets/", "/static/", "/svelte/", "/pwa_icon/")
WRONG_NAME = (403, "This is not an address of this studio. Open the one that it printed when it started, or allow another name "
                   "with --name.")
FOREIGN = (403, "This request came from another site, so the studio refused it.")
NOT_LOGGED_IN = (401, "Log in first.")
Refusal = tuple[int, str]


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

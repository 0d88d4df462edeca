"""Who is let in, and what is written down of each request. It comes before everything else, as ASGI middleware.

A server on this machine alone can still be reached by pages in a browser here: by their own requests (Origin), and by a name of
theirs that leads to this machine (DNS rebinding: only the Host gives it away). Both are refused.
"""

import hmac
import logging
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.server.errors import ApiError
from engine.server.service import Service
from engine.server.settings import LOOPBACK

log = logging.getLogger("persona.server")
_OPEN = ("/health",)  # without a key
_WATCHED = ("/health", "/metrics")  # polled every few seconds by monitoring: they would fill the log


class Border:
    """Refuses what is not let in; counts and logs every request, without its texts."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, id = time.monotonic(), uuid.uuid4().hex
        record = scope["persona"] = {}  # what the route adds to the log's line

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.setdefault("status", message["status"])
                MutableHeaders(scope=message)["x-request-id"] = id
            await send(message)

        try:
            self._check(scope)
        except ApiError as error:
            await JSONResponse(error.body(), error.status, error.headers)(scope, receive, noted)
        else:
            await self.app(scope, receive, noted)
        finally:
            self._write_down(scope, record, time.monotonic() - start, id)

    def _check(self, scope: Scope) -> None:
        """Raise ApiError for a request that is not let in."""
        headers, settings = Headers(scope=scope), self.service.settings
        origin = headers.get("origin")
        if origin is not None and origin not in settings.origins and "*" not in settings.origins:
            raise ApiError(403, "Requests of web pages are refused. Allow this page with --allow-origin.", "origin_not_allowed")
        if settings.host in LOOPBACK and _host(headers.get("host", "")) not in LOOPBACK:
            raise ApiError(403, "This server answers at localhost and 127.0.0.1 only.", "host_not_allowed")
        if scope["path"] in _OPEN:
            return
        self.service.rate.spend(address(scope))
        if settings.key and not hmac.compare_digest(_given_key(headers), settings.key.encode()):
            raise ApiError(401, "The key is missing or wrong. Send it as: Authorization: Bearer KEY.", "invalid_api_key",
                           headers={"www-authenticate": "Bearer"})

    def _write_down(self, scope: Scope, record: dict[str, Any], seconds: float, id: str) -> None:
        route = getattr(scope.get("route"), "path", "other")
        status = record.pop("status", 500)
        self.service.metrics.requests.add(route, str(status))
        facts = " ".join(f"{name}={value}" for name, value in record.items())
        level = logging.DEBUG if route in _WATCHED else logging.INFO
        log.log(level, "%s %s %s %s %.3fs %s %s", address(scope), scope["method"], route, status, seconds, id[:8], facts)


def address(scope: Scope) -> str:
    """The client's address."""
    return scope["client"][0] if scope.get("client") else "-"


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _given_key(headers: Headers) -> bytes:
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip().encode("utf-8", "replace") if kind.lower() == "bearer" else b""

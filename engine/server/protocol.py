"""HTTP on a connection, with limits on what comes before a request: who sends no request must not take memory or keep sockets.

Bodies have limits of their own (limits.py).
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_BYTES = 64 * 1024  # of a request's first line and headers; uvicorn's faster protocol reads any number
HEADERS_SECONDS = 30.0  # within which they must have come: from the connection's beginning, later from their first byte


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol in Python, which closes a connection whose next request begins and does not come."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and wait for the first request."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEADERS_SECONDS, self.transport.close)

    def data_received(self, data: bytes) -> None:
        """Take what came, and wait for the rest of a request's headers."""
        super().data_received(data)
        waiting = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if self._late and not waiting:
            self._late.cancel()
            self._late = None
        elif waiting and not self._late:
            self._late = self.loop.call_later(HEADERS_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        if self._late:
            self._late.cancel()

"""Gradio's web application, with the studio's own border before it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradio.routes import App, ORJSONResponse
from starlette.requests import Request

from studio.border import Border, Names, SafeHeaders
from studio.live import Live, LiveRoute
from studio.login import SlowLogin
from studio.trial import TrialRoute
from studio.uploads import UploadLimit


class Application(App):
    """What Gradio serves. The border comes before all of Gradio's middleware, some of which answers requests by itself.

    `export`: the folder of an export by its id.
    """

    def __init__(self, names: Names, uploads: Path, live: Live, policy: str, export: Callable[[str], Path | None]) -> None:
        super().__init__(default_response_class=ORJSONResponse, openapi_url=None)
        routes = TrialRoute(LiveRoute(UploadLimit(SlowLogin(super().__call__), uploads), live), export)
        self.border = Border(routes, names, self.has_logged_in)
        self.guarded = SafeHeaders(self.border, policy)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or refuse it."""
        await self.guarded(scope, receive, send)

    def has_logged_in(self, scope: dict[str, Any]) -> bool:
        """Whether a request brings a login of Gradio's, or none is asked for."""
        if self.auth is None:
            return True
        cookies = Request(scope).cookies
        return any(cookies.get(f"access-token-{kind}{self.cookie_id}") in self.tokens for kind in ("", "unsecure-"))

    def opened(self, share_address: str | None) -> None:
        """The page is there: what Gradio needed for its start is closed, and the name of a public link is let in."""
        self.border.open = True
        if share_address:
            self.border.names.add(share_address.partition("://")[2].partition("/")[0])

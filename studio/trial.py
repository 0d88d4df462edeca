"""An exported web page, shown by the studio itself, so that its writer can try it: the files of an export's folder `web`.

It is behind the studio's border and login like everything else. The page is asked not to keep itself (`?try`).
"""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.responses import FileResponse, PlainTextResponse, Response

FOLDER = "web"  # of an export
BELOW = "/studio/page/"  # then the export's id and the path of a file
HEADERS = {"cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp", "cache-control": "no-store"}
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".png": "image/png",
         ".wasm": "application/wasm", ".gguf": "application/octet-stream"}  # some systems have others for them


class TrialRoute:
    """ASGI middleware that serves the pages. `find`: the folder of an export by its id; None for an unknown one."""

    def __init__(self, app: Any, find: Callable[[str], Path | None]) -> None:
        self.app, self.find = app, find

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer, or pass on."""
        if scope["type"] == "http" and scope["path"].startswith(BELOW):
            await (await anyio.to_thread.run_sync(self._answer, scope))(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _answer(self, scope: dict[str, Any]) -> Response:
        id, _, name = scope["path"].removeprefix(BELOW).partition("/")
        folder = self.find(id)
        file = page_file(folder / FOLDER, name) if folder and scope["method"] in ("GET", "HEAD") else None
        if file is None:
            return PlainTextResponse("There is no such page. The export may have been moved or removed.", 404)
        return FileResponse(file, media_type=TYPES[file.suffix], headers=HEADERS)


def page_file(folder: Path, name: str) -> Path | None:
    """A file of a page by its name; None for what is not one of its own, or not of a kind that a page has."""
    try:
        file = (folder / (name or "index.html")).resolve()
        own = file.is_relative_to(folder.resolve()) and file.is_file() and file.suffix in TYPES
    except (OSError, ValueError):  # too long, or a NUL character
        return None
    return file if own else None


def link(id: str) -> str:
    """A link that opens the page of an export."""
    return f'<a href="{BELOW[1:]}{html.escape(id)}/?try" target="_blank" rel="noopener">Try it</a>'

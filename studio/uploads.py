"""What pages upload and download (Gradio's temporary folder): emptied at the start, and limited as a whole.

Gradio limits each file, but takes any number of them. The limit counts what lies in the folder and what is on its way.
"""

import contextlib
import functools
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
from gradio.utils import get_upload_folder
from starlette.exceptions import HTTPException

from studio.border import refuse
from studio.login import PATHS

TOTAL = 1 << 30  # bytes of all uploads together
LOGIN = 64 << 10  # bytes of a name and a password; the sender is still a stranger
OTHER = 64 << 20  # bytes of a request that is no upload: the largest hold a card's lorebook
OLD = 3_600.0  # seconds after which an upload may be removed where there is no room for another
SPARE = 64 << 20  # bytes that must stay free on the disk
SERVED = "persona-studio-"  # second names of exports, which Gradio serves and nobody uploaded
# What Gradio and the studio make in the folder; whatever else a user keeps under this name is left alone.
MADE = re.compile(rf"[0-9a-f]{{32,}}|tmp\w+|{SERVED}.*|deep_links|vibe_edit_history", re.ASCII)
FULL = (413, "These uploads are too large: the studio holds at most {limit:,.0f} MB of them at a time. Upload less, or restart it.")
LARGE = (413, "This is too large for the studio.")
NO_ROOM = (507, "The disk that holds the data folder is full. Free some space and try again.")

log = logging.getLogger(__name__)
Receive = Callable[[], Awaitable[dict[str, Any]]]


def empty(folder: Path) -> None:
    """Remove what earlier pages left in the folder; what cannot be removed is logged."""
    for child in [one for one in folder.iterdir() if MADE.fullmatch(one.name)]:
        try:
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
        except OSError:
            log.exception("%s cannot be removed", child)


class UploadLimit:
    """ASGI middleware that refuses uploads for which there is no room, and other requests that are absurdly large."""

    def __init__(self, app: Any, folder: Path, total: int = TOTAL) -> None:
        self.app, self.folder, self.total = app, folder, total
        self.coming = 0  # bytes of uploads on their way
        self.under_way = 0  # uploads

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass on what there is room for."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        announced = int(headers.get(b"content-length", b"0"))  # h11 has checked it
        is_upload = headers.get(b"content-type", b"").lower().strip().startswith(b"multipart/")
        is_login = scope["path"] in PATHS
        limit = LOGIN if is_login else OTHER
        if is_upload and not is_login:
            await self._upload(scope, receive, send, announced)
        elif announced > limit:
            await refuse(send, *LARGE)
        else:
            await self.app(scope, _limited(receive, limit, LARGE), send)

    async def _upload(self, scope: dict[str, Any], receive: Any, send: Any, announced: int) -> None:
        room = await anyio.to_thread.run_sync(self._room, announced)
        full = (FULL[0], FULL[1].format(limit=self.total / 1e6))
        if announced > room - self.coming:
            await _finish(receive, send, full)
        elif announced > shutil.disk_usage(self.folder).free - SPARE:
            await _finish(receive, send, NO_ROOM)
        else:
            await self._take(scope, _limited(receive, room - self.coming, full), send, announced)

    async def _take(self, scope: dict[str, Any], receive: Any, send: Any, announced: int) -> None:
        statuses: list[int] = []

        async def watched(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        self.coming += announced
        self.under_way += 1
        try:
            await self.app(scope, receive, watched)
        finally:
            self.coming -= announced
            self.under_way -= 1
            if statuses != [200] and not self.under_way:
                self._drop_broken()

    def _room(self, wanted: int) -> int:
        """Bytes that may still come; old uploads make room where it is too little."""
        files = sorted(self._files())
        room = self.total - sum(size for _, size, _ in files)
        for changed, size, name in files:
            if wanted <= room or time.time() - changed < OLD:
                break
            Path(name).unlink(missing_ok=True)
            room += size
        return room

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Of each upload: when it was changed in Unix seconds, its bytes, and its path."""
        for place, folders, names in os.walk(self.folder):
            if place == str(self.folder):
                folders[:] = [name for name in folders if MADE.fullmatch(name) and not name.startswith(SERVED)]
                names = [name for name in names if MADE.fullmatch(name)]
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # Gradio removes what is old, too
                    status = os.lstat(path := os.path.join(place, name))
                    yield status.st_mtime, status.st_size, path

    def _drop_broken(self) -> None:
        """What came whole lies in a folder of its own; with no upload under way, a file beside these is a part of one.

        Not in a thread: the next upload would begin meanwhile.
        """
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if MADE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    Path(entry.path).unlink(missing_ok=True)


def _limited(receive: Receive, limit: int, refusal: tuple[int, str]) -> Receive:
    """The same request, that ends in `refusal` after `limit` bytes."""
    left = limit

    async def limited() -> dict[str, Any]:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(*refusal)
        return message

    return limited


async def _finish(receive: Receive, send: Any, refusal: tuple[int, str]) -> None:
    """Refuse, after the rest of the request has come: a browser that is still sending would never read why."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass
    await refuse(send, *refusal)


def servable(zip_file: Path) -> str:
    """A second name for a file of ours among the files that Gradio serves, so that it copies no gigabytes to serve it.

    Anybody who can open the page may fetch it from then on, so the caller decides which file that is: never a path from the page.
    """
    changed = zip_file.stat().st_mtime
    name = _second_name(zip_file, changed)
    if not Path(name).exists():  # Gradio removes what is old
        _second_name.cache_clear()
        name = _second_name(zip_file, changed)
    return name


@functools.lru_cache(maxsize=64)
def _second_name(zip_file: Path, changed: float) -> str:
    del changed  # part of the cache's key only: a zip that was written again is served again
    served = Path(get_upload_folder())
    served.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix="persona-studio-", dir=served)) / zip_file.name
    with contextlib.suppress(OSError):
        os.link(zip_file, target)
        return str(target)
    shutil.copyfile(zip_file, target)  # another disk
    return str(target)

"""The folder of uploads: empty at the start, never fuller than its limit, and no request is read without end."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from studio import uploads
from studio.uploads import UploadLimit, empty

ONE, TWO = "1" * 64, "2" * 64  # Gradio names a folder after the digest of what lies in it
FORM = b"multipart/form-data; boundary=x"


def put(folder: Path, name: str, size: int, age: float = 0.0) -> Path:
    """An upload of `size` bytes, made `age` seconds ago."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    os.utime(file, (time.time() - age, time.time() - age))
    return file


class Inner:
    """What is behind the limit: reads all, and keeps it as Gradio does. `status`: its answer."""

    def __init__(self, folder: Path, status: int = 200) -> None:
        self.folder, self.status, self.read = folder, status, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        part = self.folder / "tmpabc"
        while True:
            message = await receive()
            self.read += len(message.get("body", b""))
            part.write_bytes(b"x" * self.read)
            if not message.get("more_body"):
                break
        if self.status == 200:
            (self.folder / ("3" * 64)).mkdir(exist_ok=True)
            part.rename(self.folder / ("3" * 64) / "file.bin")
        await send({"type": "http.response.start", "status": self.status, "headers": []})


def ask(limit: UploadLimit, size: int, announced: bool = True, path: str = "/gradio_api/upload",
        kind: bytes = FORM) -> tuple[int, int]:
    """The status of a request of `size` bytes, and how many of these were read."""
    sent: list[dict[str, Any]] = []
    pieces = [size // 4] * 4
    pieces[-1] += size - sum(pieces)

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": b"x" * piece, "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    length = (b"content-length", b"%d" % size) if announced else (b"transfer-encoding", b"chunked")
    headers = [(b"content-type", kind), length]
    try:
        asyncio.run(limit({"type": "http", "path": path, "method": "POST", "headers": headers}, receive, send))
    except HTTPException as error:  # Starlette makes an answer of it
        return error.status_code, size - sum(pieces)
    return int(sent[0]["status"]), size - sum(pieces)


@pytest.fixture
def limited(tmp_path: Path) -> Callable[..., tuple[UploadLimit, Inner]]:
    """A limit of 1,000 bytes, and what is behind it."""
    def make(status: int = 200) -> tuple[UploadLimit, Inner]:
        inner = Inner(tmp_path, status)
        return UploadLimit(inner, tmp_path, total=1_000), inner

    return make


def test_all_uploads_together_have_a_limit(limited: Any, tmp_path: Path) -> None:
    limit, inner = limited()
    put(tmp_path, f"{ONE}/a.json", 300)
    put(tmp_path, f"{TWO}/deeper/b.json", 300)
    assert ask(limit, 400)[0] == 200 and inner.read == 400
    assert ask(limit, 1)[0] == 413 and inner.read == 400  # nothing more was looked at
    assert ask(limit, 0)[0] == 200


def test_one_that_does_not_say_how_long_it_is_ends_at_the_limit(limited: Any, tmp_path: Path) -> None:
    limit, inner = limited()
    put(tmp_path, f"{ONE}/a.json", 300)
    assert ask(limit, 4_000, announced=False)[0] == 413 and inner.read <= 700
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["a.json"]  # and leaves nothing
    assert ask(limit, 600, announced=False)[0] == 200


def test_uploads_that_come_at_the_same_time_share_the_room(limited: Any, tmp_path: Path) -> None:
    limit, _ = limited()
    limit.coming = 700  # of others, not yet in the folder
    assert ask(limit, 400)[0] == 413 and ask(limit, 300)[0] == 200 and limit.coming == 700 and limit.under_way == 0


def test_what_is_old_makes_room_the_oldest_first(limited: Any, tmp_path: Path) -> None:
    limit, _ = limited()
    files = [put(tmp_path, f"{int(age):064}/a.json", 300, age) for age in (3 * uploads.OLD, 2 * uploads.OLD, 60.0)]
    assert ask(limit, 100)[0] == 200 and all(file.exists() for file in files)  # there was room enough
    assert ask(limit, 300)[0] == 200 and [file.exists() for file in files] == [False, True, True]
    assert ask(limit, 900)[0] == 413 and files[2].exists()  # what may be in use stays


def test_exports_that_gradio_serves_from_there_do_not_count(limited: Any, tmp_path: Path) -> None:
    limit, _ = limited()
    served = put(tmp_path, "persona-studio-x/zoe.zip", 5_000, 10 * uploads.OLD)
    assert ask(limit, 900)[0] == 200 and served.exists()


def test_an_upload_that_was_broken_off_leaves_nothing_unless_another_is_under_way(limited: Any, tmp_path: Path) -> None:
    limit, _ = limited(400)
    kept = put(tmp_path, f"{ONE}/a.json", 10)
    assert ask(limit, 100)[0] == 400 and not (tmp_path / "tmpabc").exists() and kept.exists()
    limit.under_way = 1
    assert ask(limit, 100)[0] == 400 and (tmp_path / "tmpabc").exists()


def test_a_full_disk_is_reported(limited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, inner = limited()
    monkeypatch.setattr(uploads, "SPARE", 1 << 60)
    assert ask(limit, 100)[0] == 507 and inner.read == 0


def test_a_refusal_comes_after_all_was_sent(limited: Any) -> None:
    limit, inner = limited()
    assert ask(limit, 4_000) == (413, 4_000) and inner.read == 0  # a browser would never read an earlier one


@pytest.mark.parametrize(("path", "kind"), [("/gradio_api/queue/join", b"application/json"), ("/login", FORM), ("/login/", b""),
                                            ("/gradio_api/upload", b"text/plain")])
def test_no_other_request_is_read_without_end(path: str, kind: bytes, limited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "LOGIN", 2_000)
    monkeypatch.setattr(uploads, "OTHER", 2_000)
    limit, inner = limited()
    for announced in (True, False):
        assert ask(limit, 8_000, announced, path, kind)[0] == 413 and inner.read <= 2_000
        assert ask(limit, 2_000, announced, path, kind)[0] == 200
        inner.read = 0
    assert uploads.OTHER == 2_000


@pytest.mark.parametrize("kind", [FORM, b"Multipart/Form-Data; boundary=x", b" multipart/mixed", b"MULTIPART/related"])
def test_every_form_with_files_is_an_upload(kind: bytes, limited: Any) -> None:
    limit, _ = limited()
    for path in ("/gradio_api/upload", "/gradio_api/upload/", "/gradio_api/component_server", "/anything"):
        assert ask(limit, 1_001, path=path, kind=kind)[0] == 413


def test_the_folder_is_emptied_and_nothing_else(tmp_path: Path) -> None:
    folder, outside = tmp_path / "uploads", put(tmp_path, "outside/kept.txt", 5)
    put(folder, f"{ONE}/a.json", 5)
    put(folder, "tmpabc", 5)
    put(folder, "persona-studio-x/zoe.zip", 5)
    (folder / TWO).symlink_to(outside.parent)
    (folder / ONE / "link").symlink_to(outside)
    own = [put(folder, name, 5) for name in ("holiday.jpg", "2026/holiday.jpg", "tmp.old/x")]  # another program's folder
    empty(folder)
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(own) and outside.exists()


def test_files_of_others_in_the_folder_neither_count_nor_go(limited: Any, tmp_path: Path) -> None:
    limit, _ = limited(400)
    own = [put(tmp_path, name, 2_000, 10 * uploads.OLD) for name in ("holiday.jpg", "2026/holiday.jpg")]
    assert ask(limit, 900)[0] == 400 and all(file.exists() for file in own)

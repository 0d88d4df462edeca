"""One studio a data folder: two would give the same job to two workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from engine.base.errors import UserError


@contextmanager
def only_studio(home: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system frees when the process ends, however it ends. Raises UserError."""
    lock = FileLock(home / "studio.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"A studio is already open on {home}.",
                        "Use its window, or start this one with another --home.") from None
    try:
        yield
    finally:
        lock.release()

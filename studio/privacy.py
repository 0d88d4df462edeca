"""The data folder: its owner's alone, and open to one studio at a time."""

import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from engine.base.errors import UserError
from studio.settings import Settings

OTHERS = 0o077  # what the group and everybody else may do
log = logging.getLogger(__name__)


def keep_private(settings: Settings) -> str:
    """Take the data folder from everybody but its owner. Returns a sentence where that cannot be done, else "".

    Only what the studio makes is touched, in case the data folder is a folder that holds other things as well. Links are
    not followed.
    """
    if os.name != "posix":
        return ""
    failed = [path for path in _ours(settings) if not _close(path, os.lstat)]
    if failed:
        log.warning("%d files of the data folder cannot be made private, for example %s", len(failed), failed[0])
    if _holds_others(settings.home) or not _close(str(settings.home), os.stat):
        return f"Other users of this machine may look into the data folder {settings.home}. Choose another one with --home."
    return ""


def _ours(settings: Settings) -> Iterator[str]:
    """The studio's own files and folders, the folders before what is in them."""
    home = settings.home
    for top in [*home.glob("studio.*"), *home.glob("players.*"), settings.chat_log, settings.jobs, settings.exports,
                settings.backups, settings.uploads, settings.script, home / "models", home / "cache", home / "window"]:
        if not top.is_symlink() and top.exists():
            yield str(top)
            for place, folders, files in os.walk(top):  # of a file: nothing
                yield from (os.path.join(place, name) for name in folders + files)


def _holds_others(home: Path) -> bool:
    """Whether the folder is one that others need: /tmp, a user's own folder, and all above it."""
    person = Path(os.path.expanduser("~")).resolve()
    return bool(home.stat().st_mode & stat.S_ISVTX) or home.resolve() in (person, *person.parents)


def _close(path: str, look: Callable[[str], os.stat_result]) -> bool:
    """Let its owner alone use a file or folder; False where the system refuses. The owner's own rights stay."""
    try:
        mode = look(path).st_mode
        if mode & OTHERS and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            os.chmod(path, stat.S_IMODE(mode) & ~OTHERS)
            return not look(path).st_mode & OTHERS  # some file systems know no modes, and say nothing
    except FileNotFoundError:  # SQLite removes its side files
        return True
    except OSError:
        return False
    return True


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

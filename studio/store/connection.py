"""Connections to the library's SQLite file, and what its errors mean to a user."""

import re
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlite_utils import Database

from engine.base.errors import UserError

RELOAD = "Reload the page: it may have been removed in another window."
REASONS = ("backup", "before-update", "before-restore")  # why a copy was made, in its name
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PAUSE = 0.01  # seconds between two tries where SQLite does not wait by itself


def connect(path: Path, timeout: float, mode: str = "rw") -> sqlite3.Connection:
    """An autocommit connection that waits `timeout` seconds for a lock; `mode`: ro, rw (never makes a file) or rwc."""
    # no transactions of sqlite3's own: a deferred one fails where another writes between its reading and its writing
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", timeout=timeout, isolation_level=None, uri=True)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def opened(path: Path, timeout: float, mode: str = "rw") -> Iterator[Database]:
    """A connection as `connect` makes it, closed at the end. What a user can fix becomes a UserError; a defect passes through."""
    with explained(path), closing(connect(path, timeout, mode)) as connection:
        yield Database(connection, execute_plugins=False)


def keep_log(db: Database, timeout: float) -> None:
    """Turn on the write-ahead log, waiting `timeout` seconds for a lock: here SQLite itself does not wait."""
    end = time.monotonic() + timeout
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if code_of(error) not in BUSY or time.monotonic() > end:
                raise
        time.sleep(_PAUSE)


def backups_of(path: Path) -> list[Path]:
    """The copies of a library in the folder "backups" beside it, newest first; no links, and nothing that was set aside."""
    named = re.compile(rf"{re.escape(path.stem)}-\d{{8}}-\d{{6}}-(?:{'|'.join(REASONS)})(?:-\d+)?\.db")
    found = [file for file in (path.parent / "backups").glob("*.db")
             if named.fullmatch(file.name) and not file.is_symlink() and file.is_file() and file.stat().st_size]
    return sorted(found, key=lambda file: (file.stat().st_mtime, file.name), reverse=True)


def how_to_restore(path: Path) -> str:
    """Which backups of a library there are, and how the newest is brought back."""
    found = backups_of(path)
    if not found:
        return f"There is no backup of it in {path.parent / 'backups'}."
    count = "One backup is" if len(found) == 1 else f"{len(found)} backups are"
    return (f"{count} in {path.parent / 'backups'}. Stop the studio and restore the newest one with "
            f"python app.py --home {shlex.quote(str(path.parent))} --restore {shlex.quote(str(found[0]))}")


def code_of(error: sqlite3.Error) -> int:
    """The primary result code of an error; 0 where Python itself raised it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a user can fix into a UserError; a defect passes through."""
    try:
        yield
    except sqlite3.Error as error:
        explanation = _explain(error, path)
        if explanation is None:
            raise
        raise explanation from error
    except UnicodeEncodeError as error:  # a lone surrogate is a Python text, but no UTF-8
        raise UserError("The text contains half of a character, so it cannot be kept.", "Remove it and try again.") from error
    except OverflowError as error:  # beyond 64 bits
        raise UserError("A number is too large to be kept.") from error


def _explain(error: sqlite3.Error, path: Path) -> UserError | None:
    code = code_of(error)
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
        return UserError("What this belongs to is not in the library.", RELOAD)
    if code in BUSY:
        return UserError("The library is busy; nothing was lost.", "Try again.")
    if code == sqlite3.SQLITE_FULL:
        return UserError(f"The disk that holds {path} is full; nothing was changed.", "Free some space and try again.")
    if code in DAMAGED:
        return UserError(f"The library {path} is damaged.", how_to_restore(path))
    if path.is_dir():
        return UserError(f"The library {path} is a folder.", f"Move it away. {how_to_restore(path)}")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY):
        return UserError(f"The library {path} cannot be opened.", "Check that its folder exists and is yours.")
    if code == sqlite3.SQLITE_IOERR:
        return UserError(f"The disk that holds {path} does not respond; nothing was changed.", "Check the disk and try again.")
    return None

"""Connections to the library's SQLite file, and what its errors mean to a user. Knows no table."""

import re
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.base.errors import UserError

REASONS = ("backup", "before-update", "before-restore")  # why a copy was made, in its name
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_PAUSE = 0.01  # seconds between two tries where SQLite does not wait by itself
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def connect(path: Path, timeout: float, mode: str = "rw") -> sqlite3.Connection:
    """An autocommit connection that waits `timeout` seconds for a lock; `mode`: ro, rw (never makes a file) or rwc.

    sqlite3 must begin no transactions of its own: a deferred one that reads and then writes fails at once
    when another has written in between.
    """
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", timeout=timeout, isolation_level=None, uri=True)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def keep_log(connection: sqlite3.Connection, timeout: float) -> None:
    """Have the file keep a write-ahead log, as soon as no other connection is writing to it.

    SQLite waits for nobody who holds the lock to write while it changes the journal, as do others that open a new file at the
    same time; so this waits, `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > end:
                raise
        time.sleep(_PAUSE)


def backups_of(path: Path) -> list[Path]:
    """The copies of a library in the folder "backups" beside it, newest first: by the names that copies.py gives them, no links,
    and not what was set aside as damaged."""
    named = re.compile(rf"{re.escape(path.stem)}-\d{{8}}-\d{{6}}-(?:{'|'.join(REASONS)})(?:-\d+)?\.db")
    found = [file for file in (path.parent / "backups").glob("*.db")
             if named.fullmatch(file.name) and not file.is_symlink() and file.is_file() and file.stat().st_size]
    return sorted(found, key=lambda file: (file.stat().st_mtime, file.name), reverse=True)


def how_to_restore(path: Path) -> str:
    """Which backups of a library there are, and how the newest is brought back."""
    found = backups_of(path)
    if not found:
        return f"There is no backup of it in {path.parent / 'backups'}."
    count = "One backup lies" if len(found) == 1 else f"{len(found)} backups lie"
    return (f"{count} in {path.parent / 'backups'}. End the studio and bring the newest back by "
            f"python app.py --home {shlex.quote(str(path.parent))} --restore {shlex.quote(str(found[0]))}")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a user can mend into a UserError; a defect passes through."""
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
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _BUSY:
        return UserError("The library is busy; nothing was lost.", "Try again.")
    if code == sqlite3.SQLITE_FULL:
        return UserError(f"The disk that holds {path} is full; nothing was changed.", "Free some space and try again.")
    if code in _DAMAGED:
        return UserError(f"The library {path} is damaged.", how_to_restore(path))
    if path.is_dir():
        return UserError(f"The library {path} is a folder.", f"Move it away. {how_to_restore(path)}")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY):
        return UserError(f"The library {path} cannot be opened.", "Check that its folder exists and is yours.")
    if code == sqlite3.SQLITE_IOERR:
        return UserError(f"The disk that holds {path} does not answer; nothing was changed.", "Check the disk and try again.")
    return None

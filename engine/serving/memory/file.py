"""The file players.db: opened for each operation, written in whole transactions, and rid of what was deleted.

A person can open it with any SQLite program: the tables are players, sessions, turns, facts and summaries, times are texts.
Every operation has a connection of its own, so that threads and processes may share the file. WAL with synchronous = FULL: what
was written is there after kill -9 and after a power cut; a turn a player costs one sync, which no reply waits for.

What is deleted is gone from the file too: secure_delete, then VACUUM and a checkpoint that empties the write-ahead log.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlite_utils import Database

from engine.base.errors import UserError
from engine.serving.memory.records import Unavailable
from engine.serving.memory.schema import bring_up_to_date, is_up_to_date

FILE = "players.db"  # in the data folder
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class MemoryFile:
    """The file, which is made on first use. `timeout`: seconds that a write waits for another's.

    Raises UserError: the file is busy, damaged, foreign or cannot be written, or the disk is full.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self.path, self.timeout = path, timeout
        self._ready = False

    @contextmanager
    def read(self) -> Iterator[Database]:
        """What the file holds at one moment; nothing can be written."""
        with self._opened() as db:
            db.execute("PRAGMA query_only = ON")
            db.execute("BEGIN")
            yield db

    @contextmanager
    def write(self, erases: bool = False) -> Iterator[Database]:
        """One transaction, undone on any exception; `erases`: what it deleted must not stay in the file."""
        with self._opened() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.conn.in_transaction:
                    db.execute("ROLLBACK")
                raise
            if erases:
                self._erase(db)

    def _erase(self, db: Database) -> None:
        """Rebuild the file without what was deleted, and empty its log."""
        end = time.monotonic() + self.timeout
        why = "another program is reading it"
        try:
            db.execute("VACUUM")  # beside secure_delete: pages that were split keep copies
            while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > end:
                    break
                time.sleep(0.01)
            else:
                return
        except sqlite3.OperationalError as error:
            why = str(error)
        raise Unavailable(f"It is deleted, but traces of it are still in the file {self.path} ({why}).", "Try again in a moment.")

    @contextmanager
    def _opened(self) -> Iterator[Database]:
        try:
            if not (self._ready and self.path.exists()):
                self._prepare()
            with closing(self._connect()) as connection:
                db = Database(connection, execute_plugins=False)
                if not is_up_to_date(db):  # another file is in its place, perhaps an empty one
                    self._prepare()
                yield db
        except OSError as error:
            raise Unavailable(f"The memory of players {self.path} cannot be opened ({error.strerror}).") from error
        except sqlite3.Error as error:
            if sentence := _sentence(error, self.path):
                raise sentence from error
            raise
        except (UnicodeEncodeError, OverflowError) as error:
            raise UserError("The memory cannot keep this text or number.") from error

    def _connect(self) -> sqlite3.Connection:
        # no transactions of sqlite3's own: a deferred one fails where another writes between its reading and its writing
        connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", self.timeout, isolation_level=None, uri=True)
        for pragma in ("foreign_keys = ON", "synchronous = FULL", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _prepare(self) -> None:
        """Make the file, for its owner alone, and bring it up to date."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        with closing(self._connect()) as connection:
            db, end = Database(connection, execute_plugins=False), time.monotonic() + self.timeout
            while True:
                try:
                    db.execute("PRAGMA journal_mode = WAL")  # here SQLite itself does not wait
                    break
                except sqlite3.OperationalError as error:
                    if _code(error) not in _BUSY or time.monotonic() > end:
                        raise
                time.sleep(0.01)
            db.execute("BEGIN IMMEDIATE")
            bring_up_to_date(db, self.path)
            db.execute("COMMIT")
        self._ready = True


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _sentence(error: sqlite3.Error, path: Path) -> Unavailable | None:
    code = _code(error)
    if code in _BUSY:
        return Unavailable("The memory of players is busy; nothing was changed.", "Try again.")
    if code == sqlite3.SQLITE_FULL:
        return Unavailable(f"The disk that holds {path} is full; nothing was changed.", "Free some space and try again.")
    if code in _DAMAGED:
        return Unavailable(f"The memory of players {path} is damaged.", "Move it away to begin an empty one.")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR):
        return Unavailable(f"The memory of players {path} cannot be opened.", "Check its folder, and that it is yours.")
    return None

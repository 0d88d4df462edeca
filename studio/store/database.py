"""The library's file: opened, brought up to date, backed up, restored. Every access goes through a `Store`.

One connection an operation, because handlers run in many threads. Knows no record.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from engine.base.errors import UserError
from studio.store import copies
from studio.store.connection import backups_of, connect, explained, how_to_restore, keep_log
from studio.store.migrations import APPLICATION_ID, MIGRATIONS

LEFT = ("jobs", "exports", "backups")  # what a library's folder has beside it
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """A library. `timeout`: seconds that an operation waits for another that holds the lock."""

    path: Path
    timeout: float = 5.0

    @contextmanager
    def read(self) -> Iterator[Database]:
        """One unchanging view of the library; writing fails. Raises UserError when the file cannot be read."""
        with explained(self.path), closing(connect(self.path, self.timeout)) as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            yield Database(connection, execute_plugins=False)

    @contextmanager
    def write(self) -> Iterator[Database]:
        """One transaction: kept whole when the block ends well, undone on any exception.

        Raises UserError when another holds the lock for longer than `timeout`, or the disk is full.
        """
        with explained(self.path), closing(connect(self.path, self.timeout)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield Database(connection, execute_plugins=False)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite itself undoes some failures
                    connection.execute("ROLLBACK")
                raise


def open_store(path: Path, timeout: float = 5.0, migrations: Migrations = MIGRATIONS) -> Store:
    """The library in `path`: made when absent, and brought up to date after a copy was put into "backups".

    Raises UserError when the file is no library, a newer one, damaged or busy, or cannot be brought up to date; and when it is
    empty or gone though there is something left of one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {path.parent} cannot be made ({error.strerror}).") from error
    if not path.exists() and backups_of(path):
        raise UserError(f"The library {path} is gone.",
                        f"{how_to_restore(path)} To begin an empty one, move the folder backups away.")
    was_there = path.exists()
    if was_there and _is_cut_short(path):
        raise UserError(f"The library {path} is damaged: its end is missing.", how_to_restore(path))
    with explained(path), closing(connect(path, timeout, "rwc")) as connection:
        db = Database(connection, execute_plugins=False)
        is_new = not db.execute("SELECT 1 FROM sqlite_master").fetchone()
        if is_new and was_there:
            _require_nothing_left(path)
        if not is_new:
            _require_library(db, path, migrations)
        keep_log(connection, timeout)
        if migrations.pending(db):
            backup_file = None if is_new else copies.copy_to_backups(path, timeout, "before-update")
            _migrate(db, path, migrations, backup_file)
    return Store(path, timeout)


def _is_cut_short(path: Path) -> bool:
    """Whether the file is shorter than its header says; SQLite itself sees that only when it reads what is missing.

    Not asked while there is a write-ahead log, whose pages may not be in the file yet.
    """
    log = path.with_name(f"{path.name}-wal")
    if not path.is_file() or (log.is_file() and log.stat().st_size):
        return False
    with path.open("rb") as file:
        header = file.read(100)  # https://www.sqlite.org/fileformat.html: page size at 16 (1 means 65,536), pages at 28
    size = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    return header.startswith(b"SQLite format 3\0") and pages * (65_536 if size == 1 else size) > path.stat().st_size


def _require_nothing_left(path: Path) -> None:
    """Raise UserError when an empty file stands in the place of a library that had runs, exports or backups."""
    left = [name for name in LEFT if any((path.parent / name).glob("*"))]
    if left:
        raise UserError(f"The library {path} is empty, but there is something in the folders {', '.join(left)} beside it.",
                        f"{how_to_restore(path)} To begin an empty one, delete {path.name}.")


def _require_library(db: Database, path: Path, migrations: Migrations) -> None:
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise UserError(f"{path} is not a library of Persona Studio.", f"Move it away, or choose another data folder. "
                        f"{how_to_restore(path) if backups_of(path) else ''}".strip())
    if copies.unknown(db, migrations):
        raise UserError(f"{path} was made by a newer version of Persona Studio.", "Update the studio to open it.")


def _migrate(db: Database, path: Path, migrations: Migrations, backup_file: Path | None) -> None:
    """Apply what is pending in one transaction, or nothing of it."""
    db.execute("PRAGMA foreign_keys = OFF")  # a table may be rebuilt on the way; all references are checked at the end
    db.execute("BEGIN IMMEDIATE")
    try:
        migrations.apply(db)
        if broken := db.execute("PRAGMA foreign_key_check").fetchall():
            raise sqlite3.IntegrityError(f"{len(broken)} references lead nowhere after the update")
        db.execute("COMMIT")
    except BaseException as error:
        db.rollback()
        if backup_file is None or not isinstance(error, Exception):
            raise
        _log.exception("The library %s could not be brought up to date", path)
        state = "nothing in it was changed" if not copies.faults(db) else "it is damaged"
        raise UserError(f"The library {path} could not be brought up to date; {state}.",
                        f"A copy of it lies in {backup_file}.") from error


def backup(store: Store) -> Path:
    """Put a copy of the library into the folder "backups" beside it, and return it."""
    return copies.copy_to_backups(store.path, store.timeout, "backup")


def restore(store: Store, file: Path, migrations: Migrations = MIGRATIONS) -> Path | None:
    """Replace the library by a copy of `file`. Returns where the present one was kept, None when there was none.

    The file is examined and brought up to date before the library is touched. Works for a library that is damaged,
    too. Raises UserError, nothing changed, when the file is damaged, foreign or newer, or the library is busy.
    """
    try:
        copy = copies.private_copy(file, store.path)
        copies.examine(copy, file, migrations)
        with explained(copy), closing(connect(copy, store.timeout)) as connection:
            db = Database(connection, execute_plugins=False)
            if migrations.pending(db):
                _migrate(db, file, migrations, file)
        kept = _install(store, copy)
    except OSError as error:
        raise UserError(f"{file} cannot be restored ({error.strerror}); nothing was changed.") from error
    finally:
        copies.remove_private_copy(store.path)
    open_store(store.path, store.timeout, migrations)
    return kept


def _install(store: Store, copy: Path) -> Path | None:
    """Put an examined copy in the library's place, and the library into "backups"."""
    if not store.path.exists():
        copy.replace(store.path)
        return None
    with explained(store.path):
        sound = copies.is_sound(store.path, store.timeout)
    if not sound:
        kept = copies.set_aside(store.path)
        copy.replace(store.path)
        return kept
    kept = copies.copy_to_backups(store.path, store.timeout, "before-restore")
    copies.put_in_place(copy, store.path, store.timeout)
    return kept

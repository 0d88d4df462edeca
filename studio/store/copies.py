"""Whole copies of a library's file: made, examined, put in place. Knows files, not records."""

import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from engine.base.errors import UserError
from studio.store.connection import connect, explained
from studio.store.migrations import APPLICATION_ID, expected_schema, schema

_SIDE_FILES = ("-wal", "-shm")
_HEADER = b"SQLite format 3\0"


def copy_to_backups(path: Path, timeout: float, reason: str) -> Path:
    """Write a copy of the library, whole or not at all, into the folder "backups" beside it."""
    try:
        target = _free_name(path, reason)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with explained(path), closing(connect(path, timeout)) as connection:
                connection.execute("VACUUM INTO ?", [str(partial)])
            _flush(partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"The library cannot be copied into {path.parent / 'backups'} ({error.strerror}); "
                        "nothing was changed.") from error
    return target


def set_aside(path: Path) -> Path:
    """Move a library that cannot be read, with the files beside it, into the folder "backups"."""
    target = _free_name(path, "damaged")
    for ending in ("", *_SIDE_FILES):
        source = path.with_name(path.name + ending)
        if source.exists():
            os.replace(source, target.with_name(target.name + ending))
    return target


def examine(copy: Path, file: Path, migrations: Migrations) -> None:
    """Raise UserError unless `copy`, made of `file`, is a whole library of this version of the studio or an older one."""
    try:
        with closing(connect(copy, 1.0)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")  # everything in the one file, also what its -wal held
            fault = _fault(Database(connection, execute_plugins=False), migrations)
    except sqlite3.DatabaseError as error:
        raise UserError(f"{file} cannot be read as a library ({error}); nothing was changed.") from error
    if fault:
        raise UserError(f"{file} {fault}; nothing was changed.")


def _fault(db: Database, migrations: Migrations) -> str:
    """What speaks against a file, as the end of a sentence; empty when nothing does."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return "is not a library of Persona Studio"
    if faults(db):
        return "is damaged"
    if unknown(db, migrations):
        return "was made by a newer version of Persona Studio"
    if schema(db) != expected_schema(migrations, [migration.name for migration in migrations.applied(db)]):
        return "has other tables than a library of Persona Studio"
    return ""


def faults(db: Database) -> list[str]:
    """What SQLite finds wrong: broken pages, and references that lead nowhere."""
    pages = [row[0] for row in db.execute("PRAGMA integrity_check(20)").fetchall() if row[0] != "ok"]
    references = [f"an entry of {row[0]} refers to a missing entry of {row[2]}"
                  for row in db.execute("PRAGMA foreign_key_check").fetchmany(20)]
    return pages + references


def unknown(db: Database, migrations: Migrations) -> list[str]:
    """Migrations that the file has and this version does not know."""
    with closing(sqlite3.connect(":memory:")) as nothing:
        known = {migration.name for migration in migrations.pending(Database(nothing, execute_plugins=False))}
    return [migration.name for migration in migrations.applied(db) if migration.name not in known]


def put_in_place(source: Path, path: Path, timeout: float) -> None:
    """Replace the content of the library by that of `source`, as one transaction that open pages live through."""
    deadline = time.monotonic() + timeout

    def give_up(status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise UserError("The library is busy; nothing was lost.", "Try again.")

    with explained(path), closing(connect(source, timeout, "ro")) as old, closing(connect(path, timeout)) as new:
        old.backup(new, progress=give_up, sleep=0.05)


def is_sound(path: Path, timeout: float) -> bool:
    """Whether there is a library whose pages can be read."""
    if not path.is_file() or not path.stat().st_size:
        return False
    try:
        with closing(connect(path, timeout)) as connection:
            return connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return False
        raise


def private_copy(file: Path, path: Path) -> Path:
    """A copy of `file`, and of its -wal if there is one, beside the library; the caller removes it, also after an error."""
    copy = _private_name(path)
    with file.open("rb") as opened:
        if opened.read(len(_HEADER)) != _HEADER:
            raise UserError(f"{file} is not a library of Persona Studio; nothing was changed.")
    for ending in ("", "-wal"):
        source = file.with_name(file.name + ending)
        if source.exists():
            shutil.copyfile(source, copy.with_name(copy.name + ending))
    return copy


def remove_private_copy(path: Path) -> None:
    """Remove the private copy beside the library, if there is one."""
    copy = _private_name(path)
    for ending in ("", "-journal", *_SIDE_FILES):
        copy.with_name(copy.name + ending).unlink(missing_ok=True)


def _private_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.restored")


def _free_name(path: Path, reason: str) -> Path:
    folder = path.parent / "backups"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}-{reason}"
    names = (f"{stem}.db", *(f"{stem}-{number}.db" for number in range(2, 10_000)))
    return next(folder / name for name in names if not (folder / name).exists())


def _flush(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())

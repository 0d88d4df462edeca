"""The library's file: opened, brought up to date, checked, backed up, restored.

Every access goes through a `Store`: one connection an operation, because handlers run in many threads.
"""

import hashlib
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import from_json
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from engine.base.errors import UserError
from engine.base.files import MANIFEST, check_manifest
from studio.store.connection import BUSY, DAMAGED, backups_of, code_of, connect, explained, how_to_restore, keep_log, opened
from studio.store.migrations import APPLICATION_ID, MIGRATIONS, expected_schema, schema

LEFT = ("jobs", "exports", "backups")  # what a library's folder has beside it
# Columns that hold JSON: damage there would show only when a page reads them.
JSON_COLUMNS = {"characters": ["tags"], "versions": ["card", "files"], "line_sets": ["rejected"], "runs": ["spec", "summary"],
                "events": ["event"], "chats": ["sampling"], "messages": ["swipes"], "rounds": ["turns"], "answers": ["measures"],
                "exports": ["proof"], "settings": ["value"], "script_runs": ["sampling"],
                "script_answers": ["lines", "answers", "checks"]}
_HEADER = b"SQLite format 3\0"
_SIDE_FILES = ("-wal", "-shm")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """A library. `timeout`: seconds that an operation waits for another that holds the lock."""

    path: Path
    timeout: float = 5.0

    @contextmanager
    def read(self) -> Iterator[Database]:
        """One unchanging view of the library; writing fails. Raises UserError when the file cannot be read."""
        with opened(self.path, self.timeout) as db:
            db.execute("PRAGMA query_only = ON")
            db.execute("BEGIN")
            yield db

    @contextmanager
    def write(self) -> Iterator[Database]:
        """One transaction, undone on any exception. Raises UserError when another holds the lock, or the disk is full."""
        with opened(self.path, self.timeout) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.conn.in_transaction:  # SQLite itself undoes some failures
                    db.execute("ROLLBACK")
                raise


def open_store(path: Path, timeout: float = 5.0, migrations: Migrations = MIGRATIONS) -> Store:
    """The library in `path`: made when absent, and brought up to date after a copy was put into "backups".

    Raises UserError when the file is no library, a newer one, damaged, busy, or empty or gone although its folder is not.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {path.parent} cannot be created ({error.strerror}).") from error
    was_there = path.exists()
    if not was_there and backups_of(path):
        raise UserError(f"The library {path} is missing.",
                        f"{how_to_restore(path)} To begin an empty one, move the folder backups away.")
    if was_there and _is_cut_short(path):
        raise UserError(f"The library {path} is damaged: its end is missing.", how_to_restore(path))
    with opened(path, timeout, "rwc") as db:
        is_new = not db.execute("SELECT 1 FROM sqlite_master").fetchone()
        left = [name for name in LEFT if any((path.parent / name).glob("*"))]
        if is_new and was_there and left:
            raise UserError(f"The library {path} is empty, but there is something in the folders {', '.join(left)} beside it.",
                            f"{how_to_restore(path)} To begin an empty one, delete {path.name}.")
        if not is_new and not _is_library(db):
            raise UserError(f"{path} is not a library of Persona Studio.", f"Move it away, or choose another data folder. "
                            f"{how_to_restore(path) if backups_of(path) else ''}".strip())
        if not is_new and _is_newer(db, migrations):
            raise UserError(f"{path} was made by a newer version of Persona Studio.", "Update the studio to open it.")
        keep_log(db, timeout)
        if migrations.pending(db):
            _migrate(db, path, migrations, None if is_new else _copy_to_backups(path, timeout, "before-update"))
    return Store(path, timeout)


def backup(store: Store) -> Path:
    """Put a copy of the library into the folder "backups" beside it, and return it."""
    return _copy_to_backups(store.path, store.timeout, "backup")


def restore(store: Store, file: Path, migrations: Migrations = MIGRATIONS) -> Path | None:
    """Replace the library, also a damaged one, by a copy of `file`. Returns where the present one was kept, None without one.

    Raises UserError, nothing changed, when the file is damaged, foreign or newer, or the library is busy.
    """
    try:
        with _private_copy(file, store.path) as copy:
            _examine(copy, file, migrations)
            with opened(copy, store.timeout) as db:
                if migrations.pending(db):
                    _migrate(db, file, migrations, file)
            kept = _install(store, copy)
    except OSError as error:
        raise UserError(f"{file} cannot be restored ({error.strerror}); nothing was changed.") from error
    open_store(store.path, store.timeout, migrations)
    return kept


def check(store: Store, home: Path) -> list[str]:
    """A sentence for each fault of a library, its contents and the files that it names, relative to `home`. Takes minutes."""
    try:
        with store.read() as db:
            if fault := _fault(db, MIGRATIONS):  # nothing that is read from broken pages can be trusted
                return [f"The library {store.path} {fault}."]
            if pending := [migration.name for migration in MIGRATIONS.pending(db)]:
                return [f"The library is not up to date: {', '.join(pending)} is missing."]
            return _content_faults(db) + _file_faults(db, home)
    except UserError as error:
        return [str(error)]


def _is_cut_short(path: Path) -> bool:
    """Whether a file without a write-ahead log is shorter than its header says, which SQLite sees only when it reads there."""
    log = path.with_name(f"{path.name}-wal")
    if not path.is_file() or (log.is_file() and log.stat().st_size):
        return False
    with path.open("rb") as file:
        header = file.read(100)  # https://www.sqlite.org/fileformat.html: page size at 16 (1 means 65,536), pages at 28
    size = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    return header.startswith(_HEADER) and pages * (65_536 if size == 1 else size) > path.stat().st_size


def _is_library(db: Database) -> bool:
    return db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID


def _is_newer(db: Database, migrations: Migrations) -> bool:
    with closing(sqlite3.connect(":memory:")) as nothing:
        known = {migration.name for migration in migrations.pending(Database(nothing, execute_plugins=False))}
    return any(migration.name not in known for migration in migrations.applied(db))


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
        state = "nothing in it was changed" if not _page_faults(db) else "it is damaged"
        raise UserError(f"The library {path} could not be brought up to date; {state}.",
                        f"There is a copy of it in {backup_file}.") from error


def _copy_to_backups(path: Path, timeout: float, reason: str) -> Path:
    """Write a copy of the library, whole or not at all, into the folder "backups" beside it."""
    try:
        target = _free_name(path, reason)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with opened(path, timeout) as db:
                db.execute("VACUUM INTO ?", [str(partial)])
            with partial.open("rb+") as written:
                os.fsync(written.fileno())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"The library cannot be copied into {path.parent / 'backups'} ({error.strerror}); "
                        "nothing was changed.") from error
    return target


def _free_name(path: Path, reason: str) -> Path:
    folder = path.parent / "backups"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}-{reason}"
    names = (f"{stem}.db", *(f"{stem}-{number}.db" for number in range(2, 10_000)))
    return next(folder / name for name in names if not (folder / name).exists())


@contextmanager
def _private_copy(file: Path, path: Path) -> Iterator[Path]:
    """A copy of `file`, and of its -wal if there is one, beside the library; what is still there at the end is removed."""
    copy = path.with_name(f".{path.name}.{os.getpid()}.restored")
    with file.open("rb") as source:
        if source.read(len(_HEADER)) != _HEADER:
            raise UserError(f"{file} is not a library of Persona Studio; nothing was changed.")
    try:
        for ending in ("", "-wal"):
            if (part := file.with_name(file.name + ending)).exists():
                shutil.copyfile(part, copy.with_name(copy.name + ending))
        yield copy
    finally:
        for ending in ("", "-journal", *_SIDE_FILES):
            copy.with_name(copy.name + ending).unlink(missing_ok=True)


def _examine(copy: Path, file: Path, migrations: Migrations) -> None:
    """Raise UserError unless `copy`, made of `file`, is a whole library of this version of the studio or an older one."""
    try:
        with opened(copy, 1.0) as db:
            db.execute("PRAGMA journal_mode = DELETE")  # everything in the one file, also what its -wal held
            fault = _fault(db, migrations)
    except (UserError, sqlite3.DatabaseError) as error:
        raise UserError(f"{file} cannot be read as a library ({error.__cause__ or error}); nothing was changed.") from error
    if fault:
        raise UserError(f"{file} {fault}; nothing was changed.")


def _fault(db: Database, migrations: Migrations) -> str:
    if not _is_library(db):
        return "is not a library of Persona Studio"
    if found := _page_faults(db):
        return f"is damaged: {'; '.join(found)}"
    if _is_newer(db, migrations):
        return "was made by a newer version of Persona Studio"
    if schema(db) != expected_schema(migrations, [migration.name for migration in migrations.applied(db)]):
        return "has different tables from a library of Persona Studio"
    return ""


def _page_faults(db: Database) -> list[str]:
    pages = [row[0] for row in db.execute("PRAGMA integrity_check(20)").fetchall() if row[0] != "ok"]
    references = [f"an entry of {row[0]} refers to a missing entry of {row[2]}"
                  for row in db.execute("PRAGMA foreign_key_check").fetchmany(20)]
    return pages + references


def _content_faults(db: Database) -> list[str]:
    found = [f"The {what} {digest[:12]} was changed (its sha256 differs)."
             for what, table in (("portrait", "portraits"), ("card's file", "files"))
             for digest, data in db.execute(f"SELECT sha256, data FROM {table}") if hashlib.sha256(data).hexdigest() != digest]
    lost = db.execute("SELECT count(*) FROM versions, json_each(iif(json_valid(files), files, '{}')) AS kept "
                      "WHERE kept.value NOT IN (SELECT sha256 FROM files)").fetchone()[0]
    found += [f"{lost} files of cards are missing."] if lost else []
    heads = db.execute("SELECT name FROM characters WHERE NOT EXISTS "
                       "(SELECT 1 FROM versions WHERE character = id AND number = characters.version)")
    found += [f"The newest version of the character {row[0]!r} is missing." for row in heads]
    for table, column in ((table, column) for table, columns in JSON_COLUMNS.items() for column in columns):
        if broken := sum(not _is_json(row[0]) for row in db.execute(f"SELECT {column} FROM {table}")):
            found.append(f"{broken} entries of {table} cannot be read ({column}).")
    return found


def _is_json(text: str) -> bool:
    try:
        from_json(text)
    except ValueError:
        return False
    return True


def _file_faults(db: Database, home: Path) -> list[str]:
    found: list[str] = []
    models = db.execute("SELECT name, out FROM runs WHERE kind = 'prune' AND state = 'done' AND out != '' AND deleted IS NULL")
    for name, folder in models.fetchall():
        found += _folder_faults(f"The pruned model {name!r}", home / folder)
    for name, folder, zip, size in db.execute("SELECT name, folder, zip, zip_bytes FROM exports WHERE deleted IS NULL").fetchall():
        found += _folder_faults(f"The export {name!r}", home / folder)
        if zip and not (home / zip).is_file():
            found.append(f"The export {name!r} lacks its archive {home / zip}.")
        elif zip and (home / zip).stat().st_size != size:
            found.append(f"The archive {home / zip} has {(home / zip).stat().st_size:,} bytes instead of {size:,}.")
    return found


def _folder_faults(what: str, folder: Path) -> list[str]:
    if not folder.is_dir():
        return [f"{what} lacks its folder {folder}."]
    if not (folder / MANIFEST).is_file():
        return [f"{what} lacks its list of files, {folder / MANIFEST}."]
    try:
        return [f"{what} in {folder} is incomplete: {fault}." for fault in check_manifest(folder)]
    except UserError as error:
        return [str(error)]


def _install(store: Store, copy: Path) -> Path | None:
    kept = None
    if store.path.exists() and _is_sound(store):
        kept = _copy_to_backups(store.path, store.timeout, "before-restore")
        _put_in_place(copy, store)
        return kept
    if store.path.exists():
        kept = _free_name(store.path, "damaged")
        for ending in ("", *_SIDE_FILES):
            if (part := store.path.with_name(store.path.name + ending)).exists():
                os.replace(part, kept.with_name(kept.name + ending))
    copy.replace(store.path)
    return kept


def _is_sound(store: Store) -> bool:
    if not store.path.is_file() or not store.path.stat().st_size:
        return False
    with explained(store.path):
        try:
            with closing(connect(store.path, store.timeout)) as connection:
                return connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
        except sqlite3.DatabaseError as error:
            if code_of(error) in DAMAGED:
                return False
            raise


def _put_in_place(source: Path, store: Store) -> None:
    """Replace the content of the library by that of `source`, as one transaction that open pages live through."""
    deadline = time.monotonic() + store.timeout

    def give_up(status: int, remaining: int, total: int) -> None:
        if status in BUSY and time.monotonic() > deadline:
            raise UserError("The library is busy; nothing was lost.", "Try again.")

    with opened(source, store.timeout, "ro") as old, opened(store.path, store.timeout) as new:
        old.conn.backup(new.conn, progress=give_up, sleep=0.05)

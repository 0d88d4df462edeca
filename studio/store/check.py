"""What is wrong with a library: its pages, its tables, what lies in them, and the files that it names.

Reads only. The files of models are hashed, so a check of many gigabytes takes minutes.
"""

import hashlib
from pathlib import Path

from sqlite_utils import Database

from engine.base.errors import UserError
from engine.base.files import MANIFEST, check_manifest
from studio.store import database
from studio.store.database import Store
from studio.store.migrations import MIGRATIONS, expected_schema, schema
from studio.store.records import from_json, scalar

# Columns that hold JSON: damage there would show only when a page reads them.
JSON_COLUMNS = {"characters": ["tags"], "versions": ["card", "files"], "line_sets": ["rejected"], "runs": ["spec", "summary"],
                "events": ["event"], "chats": ["sampling"], "messages": ["swipes"], "rounds": ["turns"], "answers": ["measures"],
                "exports": ["proof"], "settings": ["value"], "script_runs": ["sampling"],
                "script_answers": ["lines", "answers", "checks"]}


def check(store: Store, home: Path) -> list[str]:
    """A sentence for each fault; empty when all is well. Relative paths in the library begin at `home`."""
    try:
        with store.read() as db:
            found = [f"The library {store.path} is damaged: {fault}." for fault in database.faults(db)]
            if found:
                return found  # nothing that is read from broken pages can be trusted
            return _tables(db) + _contents(db) + _files(db, home)
    except UserError as error:
        return [str(error)]


def _tables(db: Database) -> list[str]:
    if pending := [migration.name for migration in MIGRATIONS.pending(db)]:
        return [f"The library is not up to date: {', '.join(pending)} is missing."]
    if schema(db) != expected_schema(MIGRATIONS, [migration.name for migration in MIGRATIONS.applied(db)]):
        return ["The library has other tables than this version of the studio makes."]
    return []


def _contents(db: Database) -> list[str]:
    found = [f"The {what} {digest[:12]} was changed (its sha256 differs)."
             for what, table in (("portrait", "portraits"), ("card's file", "files"))
             for digest, data in db.execute(f"SELECT sha256, data FROM {table}") if hashlib.sha256(data).hexdigest() != digest]
    lost = scalar(db, "SELECT count(*) FROM versions, json_each(iif(json_valid(files), files, '{}')) AS kept "
                  "WHERE kept.value NOT IN (SELECT sha256 FROM files)")
    found += [f"{lost} files of cards are missing."] if lost else []
    heads = db.execute("SELECT name FROM characters WHERE NOT EXISTS "
                       "(SELECT 1 FROM versions WHERE character = id AND number = characters.version)")
    found += [f"The newest version of the character {row[0]!r} is missing." for row in heads]
    for table, columns in JSON_COLUMNS.items():
        for column in columns:
            if broken := sum(not _is_json(row[0]) for row in db.execute(f"SELECT {column} FROM {table}")):
                found.append(f"{broken} entries of {table} cannot be read ({column}).")
    return found


def _is_json(text: str) -> bool:
    try:
        from_json(text)
    except ValueError:
        return False
    return True


def _files(db: Database, home: Path) -> list[str]:
    found: list[str] = []
    models = db.execute("SELECT name, out FROM runs WHERE kind = 'prune' AND state = 'done' AND out != '' AND deleted IS NULL")
    for name, folder in models.fetchall():
        found += _folder(f"The pruned model {name!r}", home / folder)
    for name, folder, zip, size in db.execute("SELECT name, folder, zip, zip_bytes FROM exports WHERE deleted IS NULL").fetchall():
        found += _folder(f"The export {name!r}", home / folder)
        if zip and not (home / zip).is_file():
            found.append(f"The export {name!r} lacks its archive {home / zip}.")
        elif zip and (home / zip).stat().st_size != size:
            found.append(f"The archive {home / zip} has {(home / zip).stat().st_size:,} bytes instead of {size:,}.")
    return found


def _folder(what: str, folder: Path) -> list[str]:
    if not folder.is_dir():
        return [f"{what} lacks its folder {folder}."]
    if not (folder / MANIFEST).is_file():
        return [f"{what} lacks its list of files, {folder / MANIFEST}."]
    try:
        return [f"{what} in {folder} is incomplete: {fault}." for fault in check_manifest(folder)]
    except UserError as error:
        return [str(error)]

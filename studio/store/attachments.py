"""Portraits, and the files that cards bring: each content is kept once, by its sha256. Knows no card."""

import hashlib

from sqlite_utils import Database

from studio.store.database import Store
from studio.store.records import scalar


def portrait(store: Store, sha256: str) -> bytes | None:
    """The picture of this sha256."""
    with store.read() as db:
        return scalar(db, "SELECT data FROM portraits WHERE sha256 = ?", [sha256])


def files(store: Store, kept: dict[str, str]) -> dict[str, bytes]:
    """The files of a version, by their paths; `kept` has the sha256 of each (Version.files)."""
    with store.read() as db:
        found = {path: scalar(db, "SELECT data FROM files WHERE sha256 = ?", [digest]) for path, digest in kept.items()}
    return {path: data for path, data in found.items() if data is not None}


def keep_portrait(db: Database, data: bytes | None) -> str | None:
    """The sha256 under which the picture is kept; None without one."""
    return _keep(db, "portraits", data) if data else None


def keep_files(db: Database, brought: dict[str, bytes]) -> dict[str, str]:
    """The sha256 of each file, under which it is kept."""
    return {path: _keep(db, "files", data) for path, data in brought.items()}


def drop_unused_portrait(db: Database, digest: str | None) -> None:
    """Remove a picture that no version shows any more."""
    db.execute("DELETE FROM portraits WHERE sha256 = ? AND sha256 NOT IN "
               "(SELECT portrait FROM versions WHERE portrait IS NOT NULL)", [digest])


def _keep(db: Database, table: str, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    db.table(table).insert({"sha256": digest, "data": data}, ignore=True)
    return digest

"""Exports: pruned models that were copied to a folder of the user's choice. Knows no file but by its name."""

from dataclasses import dataclass
from typing import Annotated, Any

from sqlite_utils import Database

from engine.base import shapes
from studio.store.database import Store
from studio.store.records import Json, many, need, new_id, now, one, row_of, scalar

_TEXT = shapes.of(str)
_FILE = shapes.fields(type=_TEXT, file=_TEXT, **dict.fromkeys(("bytes", "prompts", "tokens", "same", "kl"), shapes.is_number))
_SPEED = shapes.fields(what=_TEXT, **dict.fromkeys(("tokens_per_second", "rounds", "tokens"), shapes.is_number))
PROOF = {"text": _TEXT, "seconds": shapes.is_number, "tokens": shapes.is_number, "engines": shapes.of(list[str]),
         "files": shapes.items(_FILE), "timed": shapes.items(_SPEED)}


@dataclass(frozen=True)
class Export:
    """A folder of `bytes` bytes, made from the model of a pruning run; `zip` beside it, or "". `proof`: what it said;
    `damaged`: the columns that could not be read."""

    id: str
    run: str
    name: str
    folder: str
    zip: str
    bytes: int
    zip_bytes: int
    proof: Annotated[dict[str, Any], Json(parts=PROOF)]
    made: float
    deleted: float | None
    damaged: tuple[str, ...] = ()


def add(store: Store, run: str, name: str, folder: str, bytes: int, proof: dict[str, Any], zip: str = "",
        zip_bytes: int = 0) -> Export:
    """Remember an export. `run`: the pruning run whose model it is. Raises UserError for an unknown run."""
    with store.write() as db:
        need(scalar(db, "SELECT 1 FROM runs WHERE id = ?", [run]), "run")
        id = new_id()
        db.table("exports").insert(row_of(id=id, run=run, name=name, folder=folder, zip=zip, bytes=bytes, zip_bytes=zip_bytes,
                                          proof=proof, made=now(), deleted=None))
        return _export(db, id)


def get(store: Store, id: str) -> Export | None:
    """The export, deleted or not."""
    with store.read() as db:
        return one(db, Export, "SELECT * FROM exports WHERE id = ?", [id])


def list_exports(store: Store, character: str | None = None, run: str | None = None, deleted: bool = False) -> list[Export]:
    """Exports, newest first; `deleted`: those taken off the list instead."""
    with store.read() as db:
        return many(db, Export, "SELECT exports.* FROM exports JOIN runs ON runs.id = run WHERE character = ifnull(?, character) "
                    "AND run = ifnull(?, run) AND (exports.deleted IS NOT NULL) = ? ORDER BY exports.made DESC, exports.rowid DESC",
                    [character, run, int(deleted)])


def delete(store: Store, id: str) -> Export:
    """Take an export off the list; its files are left alone."""
    return _update(store, id, deleted=now())


def undelete(store: Store, id: str) -> Export:
    """Put an export back on the list."""
    return _update(store, id, deleted=None)


def _update(store: Store, id: str, **fields: Any) -> Export:
    with store.write() as db:
        _export(db, id)
        db.table("exports").update(id, row_of(**fields))
        return _export(db, id)


def _export(db: Database, id: str) -> Export:
    return need(one(db, Export, "SELECT * FROM exports WHERE id = ?", [id]), "export")

"""Rows as frozen dataclasses: a field is a column of the same name, and one annotated with Json or `stored` holds JSON there.

Damaged JSON is left out of its record, whole or in part, so that one bad row takes no page down; its field `damaged`, if it has
one, names the columns.
"""

import json
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, GetPydanticSchema, Json, TypeAdapter, ValidationError, with_config
from sqlite_utils import Database
from typing_extensions import TypedDict

from engine.base.errors import UserError
from studio.store.connection import RELOAD
from studio.store.database import Store

Record = TypeVar("Record")
Values = Sequence[Any] | dict[str, Any]
_log = logging.getLogger(__name__)


def _countable(value: Any) -> Any:
    if type(value) is float or (type(value) is int and abs(value) < 2**63):
        return value
    raise ValueError("not a number of at most 63 bits")


Number = Annotated[Any, AfterValidator(_countable)]  # whole or not, as it was written


def stored(kind: Any) -> Any:
    """Annotates a column whose JSON is checked as `kind`, which is narrower than the type that the field shows."""
    return GetPydanticSchema(lambda _source, handler: handler(Json[kind]))  # type: ignore[misc]


def whole(total: bool = True, /, **kinds: Any) -> Any:
    """The type of an object that has at least these parts, of these types."""
    return with_config(ConfigDict(extra="allow"))(TypedDict("Parts", kinds, total=total))  # type: ignore


def parts(**kinds: Any) -> Any:
    """The type of an object whose parts have these types, where they are there."""
    return whole(False, **kinds)


def new_id() -> str:
    """Twelve random hexadecimal digits."""
    return secrets.token_hex(6)


def now() -> float:
    return time.time()


def to_json(value: Any) -> str:
    """JSON on one line, readable in any script."""
    return json.dumps(value, ensure_ascii=False)


def from_json(text: str, kind: Any = Any) -> Any:
    """The value of JSON. Raises ValueError when it is none, or not of this type."""
    return _adapter(Json[kind]).validate_python(text)  # type: ignore[misc]


def read(kind: type[Record], row: dict[str, Any]) -> Record:
    """The record of a row; further columns are passed over."""
    adapter: TypeAdapter[Record] = _adapter(kind)  # type: ignore[arg-type]
    try:
        return adapter.validate_python(row)
    except ValidationError as error:
        faults = [fault["loc"] for fault in error.errors(include_url=False)]
    damaged = tuple(dict.fromkeys(str(fault[0]) for fault in faults))
    _log.warning("%s %s is damaged: %s", kind.__name__, row.get("id", ""), ", ".join(damaged))
    hints = get_type_hints(kind, include_extras=True)
    sound = {}
    for column in damaged:  # an object keeps its sound parts, a list none
        shown, bad = get_args(hints[column])[0], [fault[1] for fault in faults if fault[0] == column and len(fault) > 1]
        value = from_json(row[column]) if bad else {}
        is_object = (get_origin(shown) or shown) is dict
        sound[column] = to_json({name: part for name, part in value.items() if name not in bad} if is_object else [])
    return adapter.validate_python({**row, **sound, "damaged": damaged})


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@dataclass(frozen=True)
class Table(Generic[Record]):
    """A table whose rows have an `id`. `word`: what a user calls one of them."""

    name: str
    kind: type[Record]
    word: str

    def find(self, db: Database, id: str) -> Record | None:
        """The record of this id, deleted or not."""
        return next(iter(self.all(db, "id = ?", [id])), None)

    def need(self, db: Database, id: str) -> Record:
        """The record of this id. Raises UserError when there is none."""
        return need(self.find(db, id), self.word)

    def all(self, db: Database, where: str = "1", values: Values = (), order: str = "rowid", limit: int = -1) -> list[Record]:
        """The records that fit; `where` and `order` are SQL."""
        return rows(db, self.name, self.kind, where, values, order, limit)

    def insert(self, db: Database, **fields: Any) -> Record:
        """A new record with a new id. Raises UserError when something that it refers to is not in the library."""
        id = new_id()
        db.table(self.name).insert({"id": id, **fields})
        return self.need(db, id)

    def update(self, db: Database, id: str, **fields: Any) -> Record:
        """The record with some fields changed. Raises UserError when there is none."""
        self.need(db, id)
        db.table(self.name).update(id, fields)
        return self.need(db, id)

    # Whole operations, which the modules of the tables hand on under their own names.

    def get(self, store: Store, id: str) -> Record | None:
        with store.read() as db:
            return self.find(db, id)

    def change(self, store: Store, id: str, **fields: Any) -> Record:
        with store.write() as db:
            return self.update(db, id, **fields)

    def rename(self, store: Store, id: str, name: str) -> Record:
        """The record with another name. Raises UserError for an empty one."""
        if not name.strip():
            raise UserError(f"A {self.word} needs a name.")
        return self.change(store, id, name=" ".join(name.split()))

    def delete(self, store: Store, id: str) -> Record:
        """Take it off the lists; all of it is kept."""
        return self.change(store, id, deleted=now())

    def undelete(self, store: Store, id: str) -> Record:
        return self.change(store, id, deleted=None)


def rows(db: Database, table: str, kind: type[Record], where: str = "1", values: Values = (), order: str = "rowid",
         limit: int = -1) -> list[Record]:
    """The records of any table that fit; `where` and `order` are SQL."""
    return [read(kind, row) for row in db.table(table).rows_where(where, values, order_by=order, limit=limit)]


def exists(db: Database, table: str, **columns: Any) -> bool:
    return db.table(table).count_where(" AND ".join(f"{name} = ?" for name in columns), list(columns.values())) > 0


def need(found: Record | None, word: str) -> Record:
    """What was found. Raises UserError when that is None."""
    if found is None:
        raise UserError(f"This {word} is not in the library.", RELOAD)
    return found


def scalar(db: Database, sql: str, values: Sequence[Any] = ()) -> Any:
    """The first column of the first row, or None."""
    row = db.execute(sql, values).fetchone()
    return row[0] if row else None

"""Between rows and frozen dataclasses: dicts, lists and tuples are JSON in a column, truth values are 0 and 1.

A dataclass's fields bear the columns' names. Knows no table.
"""

import dataclasses
import json
import secrets
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar, cast, get_origin

from sqlite_utils import Database

from engine.base.errors import UserError

Record = TypeVar("Record")
_DECODERS: dict[Any, Callable[[Any], Any]] = {
    dict: json.loads, list: json.loads, tuple: lambda value: tuple(json.loads(value)), bool: bool}


def new_id() -> str:
    """Twelve random hexadecimal digits."""
    return secrets.token_hex(6)


def now() -> float:
    """Unix seconds."""
    return time.time()


def to_json(value: Any) -> str:
    """JSON on one line, readable in any script."""
    return json.dumps(value, ensure_ascii=False)


def row_of(**fields: Any) -> dict[str, Any]:
    """The fields as a row."""
    return {name: to_json(value) if isinstance(value, dict | list | tuple) else int(value) if isinstance(value, bool) else value
            for name, value in fields.items()}


def record(kind: type[Record], row: dict[str, Any], **ready: Any) -> Record:
    """The record of a row that has a column for each field but the `ready` ones; further columns are passed over."""
    decoders = _decoders(cast(Any, kind)).items()
    return kind(**{name: decode(row[name]) for name, decode in decoders if name not in ready}, **ready)


@cache
def _decoders(kind: Any) -> dict[str, Callable[[Any], Any]]:
    return {field.name: _DECODERS.get(get_origin(field.type) or field.type, lambda value: value)
            for field in dataclasses.fields(kind)}


def many(db: Database, kind: type[Record], sql: str, parameters: Sequence[Any] = ()) -> list[Record]:
    """The records of a query."""
    return [record(kind, row) for row in db.query(sql, parameters)]


def one(db: Database, kind: type[Record], sql: str, parameters: Sequence[Any] = ()) -> Record | None:
    """The first record of a query, or None."""
    return next(iter(many(db, kind, sql, parameters)), None)


def need(found: Record | None, what: str) -> Record:
    """What was found. Raises UserError when that is nothing."""
    if found is None:
        raise UserError(f"This {what} is not in the library.", "Reload the page: it may have been removed in another window.")
    return found


def scalar(db: Database, sql: str, parameters: Sequence[Any] = ()) -> Any:
    """The first column of the first row, or None."""
    row = db.execute(sql, parameters).fetchone()
    return row[0] if row else None


def marks(values: Sequence[Any]) -> str:
    """Question marks for an IN list."""
    return ", ".join("?" * len(values))

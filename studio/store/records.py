"""Between rows and frozen dataclasses: dicts, lists and tuples are JSON in a column, truth values are 0 and 1.

A dataclass's fields bear the columns' names. JSON that is damaged is left out of its record, so that one bad row takes no page
down: the record's field `damaged`, where it has one, names the columns. Knows no table.
"""

import dataclasses
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from sqlite_utils import Database

from engine.base import shapes
from engine.base.errors import UserError

Record = TypeVar("Record")
_JSON: dict[Any, Callable[..., Any]] = {dict: dict, list: list, tuple: tuple}
_log = logging.getLogger(__name__)


def new_id() -> str:
    """Twelve random hexadecimal digits."""
    return secrets.token_hex(6)


def now() -> float:
    """Unix seconds."""
    return time.time()


def to_json(value: Any) -> str:
    """JSON on one line, readable in any script."""
    return json.dumps(value, ensure_ascii=False)


def from_json(text: str, check: shapes.Check) -> Any:
    """The value of a column. Raises ValueError where it is no JSON, or does not fit."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not check(value):
        raise ValueError(f"of another shape: {text[:80]}")
    return value


@dataclasses.dataclass(frozen=True)
class Json:
    """Beside a field's type (Annotated): what its JSON must fit beyond that type, and what those parts of an object must fit
    that are in it; a part that does not is left out."""

    fits: shapes.Check | None = None
    parts: Mapping[str, shapes.Check] = dataclasses.field(default_factory=dict)


def row_of(**fields: Any) -> dict[str, Any]:
    """The fields as a row."""
    return {name: to_json(value) if isinstance(value, dict | list | tuple) else int(value) if isinstance(value, bool) else value
            for name, value in fields.items()}


def record(kind: type[Record], row: dict[str, Any], **ready: Any) -> Record:
    """The record of a row that has a column for each field but the `ready` ones; further columns are passed over."""
    decoders, found = _decoders(cast(Any, kind)), dict(ready)
    damaged = [name for name, decode in decoders.items() if name not in ready and not decode(row[name], name, found)]
    if damaged:
        _log.warning("%s %s is damaged: %s", kind.__name__, row.get("id", ""), ", ".join(damaged))
        if any(field.name == "damaged" for field in dataclasses.fields(cast(Any, kind))):
            found["damaged"] = tuple(damaged)
    return kind(**found)


@cache
def _decoders(kind: Any) -> dict[str, Callable[[Any, str, dict[str, Any]], bool]]:
    """Of each column what puts its value into a record's fields; false where it is damaged."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: _decoder(hints[field.name]) for field in dataclasses.fields(kind) if field.name != "damaged"}


def _decoder(hint: Any) -> Callable[[Any, str, dict[str, Any]], bool]:
    hint, how = get_args(hint) if get_origin(hint) is Annotated else (hint, Json())
    kind = get_origin(hint) or hint
    if kind not in _JSON:
        return lambda value, name, found: found.update({name: bool(value) if kind is bool else value}) is None
    fits, own = shapes.of(hint), how.fits or shapes.of(Any)

    def decode(text: Any, name: str, found: dict[str, Any]) -> bool:
        try:
            value = from_json(text, lambda value: fits(value) and own(value))
        except ValueError:
            found[name] = _JSON[kind]()
            return False
        bad = [part for part, check in how.parts.items() if part in value and not check(value[part])]
        found[name] = {part: inner for part, inner in value.items() if part not in bad} if bad else _JSON[kind](value)
        return not bad

    return decode


def many(db: Database, kind: type[Record], sql: str, parameters: Sequence[Any] = ()) -> list[Record]:
    """The records of a query."""
    return list(each(db, kind, sql, parameters))


def each(db: Database, kind: type[Record], sql: str, parameters: Sequence[Any] = ()) -> Iterator[Record]:
    """The records of a query, one by one."""
    return (record(kind, row) for row in db.query(sql, parameters))


def one(db: Database, kind: type[Record], sql: str, parameters: Sequence[Any] = ()) -> Record | None:
    """The first record of a query, or None."""
    return next(each(db, kind, sql, parameters), None)


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

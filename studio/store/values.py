"""Small values that the studio remembers between starts, each JSON under a key."""

import logging
from typing import Any

from engine.base import shapes
from studio.store.database import Store
from studio.store.records import from_json, scalar, to_json

_log = logging.getLogger(__name__)


def get_value(store: Store, key: str, default: Any, check: shapes.Check | None = None) -> Any:
    """What was kept under `key`; `default` where nothing was, or what is kept is damaged: of another kind, or failing `check`."""
    with store.read() as db:
        kept = scalar(db, "SELECT value FROM settings WHERE key = ?", [key])
    try:
        kind: Any = Any if default is None else type(default)
        return default if kept is None else from_json(kept, check or shapes.of(kind))
    except ValueError:
        _log.warning("the setting %r is damaged; it counts as not set", key)
        return default


def set_value(store: Store, key: str, value: Any) -> None:
    """Keep a value that JSON can hold."""
    with store.write() as db:
        db.table("settings").insert({"key": key, "value": to_json(value)}, replace=True)

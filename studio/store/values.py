"""Small values that the studio remembers between starts, each JSON under a key."""

import logging
from typing import Any

from studio.store.database import Store
from studio.store.records import from_json, scalar, to_json

_log = logging.getLogger(__name__)


def get_value(store: Store, key: str, default: Any, kind: Any = None) -> Any:
    """What was kept under `key`; `default` where nothing was, or what is kept is damaged: not of its type, or not of `kind`."""
    with store.read() as db:
        kept = scalar(db, "SELECT value FROM settings WHERE key = ?", [key])
    if kept is None:
        return default
    try:
        return from_json(kept, kind or (Any if default is None else type(default)))
    except ValueError:
        _log.warning("the setting %r is damaged; it counts as not set", key)
        return default


def set_value(store: Store, key: str, value: Any) -> None:
    """Keep a setting, any JSON value, under its name."""
    with store.write() as db:
        db.table("settings", pk="key").upsert({"key": key, "value": to_json(value)})

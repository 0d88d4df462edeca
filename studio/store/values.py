"""Small values that the studio remembers between starts, each JSON under a key."""

import json
from typing import Any

from studio.store.database import Store
from studio.store.records import scalar, to_json


def get_value(store: Store, key: str, default: Any) -> Any:
    """What was kept under `key`, or `default`."""
    with store.read() as db:
        kept = scalar(db, "SELECT value FROM settings WHERE key = ?", [key])
    return default if kept is None else json.loads(kept)


def set_value(store: Store, key: str, value: Any) -> None:
    """Keep a value that JSON can hold."""
    with store.write() as db:
        db.table("settings").insert({"key": key, "value": to_json(value)}, replace=True)

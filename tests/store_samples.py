"""A library with something in it, for the tests of studio/store."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.services import Services
from studio.settings import Settings
from studio.store import characters, runs
from studio.store.database import Store, open_store

LINES = [{"question": f"Where is door {number}?", "answer": f"Behind barrel {number}.", "neutral": "", "category": "world",
          "source": "pool", "complete": number != 2, "sensitivity": number / 10} for number in range(4)]


@contextmanager
def services_of(home: Path, *program: str) -> Iterator[Services]:
    """The studio's services on a library of their own, whose workers run this engine, or `program` in its place."""
    settings = Settings(home, command=(sys.executable, *(program or ("-m", "engine"))))
    settings.home.mkdir()
    found = Services.open(settings)
    yield found
    found.close()


def library(folder: Path, timeout: float = 0.3) -> Store:
    """An empty library that waits `timeout` seconds for a lock."""
    return open_store(folder / "studio.db", timeout)


def card(name: str = "Ann Lee", **fields: Any) -> dict[str, Any]:
    """A V3 card."""
    return {"spec": "chara_card_v3", "spec_version": "3.0",
            "data": {"name": name, "description": "A smith.", "tags": ["forge"], "extensions": {"other/app": [1, None]}, **fields}}


def smith(store: Store) -> characters.Character:
    """A character."""
    return characters.create(store, card())


def pruning(store: Store, name: str = "first", state: str = "queued") -> runs.Run:
    """A pruning run of a new character."""
    run = runs.add(store, smith(store).id, 1, "prune", name, {"sparsity": 0.3})
    return runs.update(store, run.id, state=state)

"""A cast server in this process, for tests: the real application, uvicorn and sockets, with small models."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import uvicorn

from engine.base.files import slug
from engine.cards.card import Card, parse_card
from engine.server.app import create_app
from engine.server.cast import Cast, Character, read_cast
from engine.server.protocol import HEADERS_BYTES, LimitedProtocol
from engine.server.settings import Settings
from engine.server.speakers import Speakers


def card_of(name: str, *, lore: dict[str, str] | None = None, npc: dict[str, Any] | None = None, **fields: Any) -> Card:
    """A card with a lorebook, key to content, and NPC fields."""
    entries = [{"keys": [key], "content": content, "extensions": {}, "enabled": True, "insertion_order": number, "name": key}
               for number, (key, content) in enumerate((lore or {}).items())]
    data = {"name": name, "description": f"{name} keeps an inn.", "first_mes": f"Good evening, {{{{user}}}}, says {name}.",
            "extensions": {"persona_studio/npc": npc} if npc else {},
            **({"character_book": {"extensions": {}, "entries": entries}} if entries else {}), **fields}
    return parse_card(json.dumps({"spec": "chara_card_v3", "spec_version": "3.0", "data": data}).encode(), name)


def cast_of(model: Path | str, *cards: Card, type: str = "") -> Cast:
    """Characters that share a model."""
    return Cast([Character(slug(card.name), card, card.name, str(model), type) for card in cards])


class Running:
    """A server in a thread of this process."""

    def __init__(self, cast: Cast, speakers: Speakers | None = None, **settings: Any) -> None:
        self.app = create_app(cast, Settings(**{"rate": 0, **settings}), speakers)
        self.service = self.app.state.service
        self.server = uvicorn.Server(uvicorn.Config(
            self.app, port=0, log_config=None, ws="none", timeout_graceful_shutdown=2, http=LimitedProtocol,
            h11_max_incomplete_event_size=HEADERS_BYTES))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        """The real client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)

    def close(self) -> None:
        """End it."""
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextmanager
def running(cast: Cast, speakers: Speakers | None = None, **settings: Any) -> Iterator[Running]:
    """A server while the block runs."""
    server = Running(cast, speakers, **settings)
    try:
        yield server
    finally:
        server.close()


def until(condition: Any, seconds: float = 20) -> None:
    """Wait for something that is bound to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


__all__ = ["Running", "card_of", "cast_of", "read_cast", "running", "until"]

"""What all requests to one server share: the cast, the voices, the line, the sessions and what is counted."""

import asyncio
import logging
from typing import Any

from engine.server.cast import Cast, Character
from engine.server.conversation import Turns
from engine.server.errors import bad_request
from engine.server.limits import Line, Rate
from engine.server.metrics import Metrics
from engine.server.schema import ChatRequest
from engine.server.sessions import Busy, Key, Sessions
from engine.server.settings import Settings
from engine.serving.requests import Request
from engine.serving.voices import Voices

log = logging.getLogger(__name__)


class Service:
    """One server's state."""

    def __init__(self, cast: Cast, settings: Settings) -> None:
        self.cast, self.settings = cast, settings
        self.voices = Voices(settings.keep or max(1, len(cast.models())), settings.parallel)
        self.line = Line(settings.parallel, settings.waiting, settings.patience)
        self.rate = Rate(settings.rate)
        self.metrics = Metrics()
        self.sessions, self.busy = Sessions(), Busy()
        self.closed = asyncio.Event()  # replies under way end
        for name, help, value in (
                ("persona_waiting", "Requests in the line.", lambda: self.line.waiting),
                ("persona_answering", "Replies under way.", lambda: self.line.taken),
                ("persona_models_loaded", "Models in memory.", lambda: len(self.voices.names)),
                ("persona_sessions", "Conversations in the memory of the process.", lambda: len(self.sessions)),
                ("persona_characters", "Characters that are served.", lambda: len(self.cast))):
            self.metrics.gauge(name, help, value)

    def tell(self, event: dict[str, Any]) -> None:
        """Log that a model is loaded."""
        if event["event"] == "Loaded":
            log.info("loaded %s (%.0f MB) in %.1f s", event["model"], event["bytes"] / 1e6, event["seconds"])

    def conversation(self, chat: ChatRequest, character: Character) -> "Conversation":
        """What a request belongs to. Raises ApiError where its session is being answered."""
        return Conversation(self, chat, character)

    def close(self) -> None:
        """End the replies under way, and free the models."""
        self.closed.set()
        self.voices.close()


class Conversation:
    """What the server knows of a request's conversation and player; nothing where neither is named."""

    def __init__(self, service: Service, chat: ChatRequest, character: Character) -> None:
        self.service, self.chat, self.character = service, chat, character
        self.player = (chat.user or "").strip()
        self.key: Key | None = (self.player, character.id, chat.persona.session) if chat.persona.session else None
        self.remembers = service.settings.memory and chat.persona.remember is not False and bool(self.player)
        if chat.persona.remember and not self.remembers:
            raise bad_request("Memory needs the player's id in the field user." if service.settings.memory else
                              "This server remembers no players: it was started without --memory.", "persona.remember")
        if self.key:
            service.busy.claim(self.key)

    def turns(self) -> Turns:
        """The turns so far."""
        return self.service.sessions.turns(self.key) if self.key else ()

    async def recall(self, said: str) -> list[Any]:
        """What the character remembers of the player that matters now."""
        return []

    async def keep(self, said: str, reply: str, request: Request) -> None:
        """Keep a turn whose reply is whole."""
        if self.key:
            self.service.sessions.append(self.key, ("user", said), ("assistant", reply))

    def release(self) -> None:
        """The reply has ended, in whatever way."""
        if self.key:
            self.service.busy.release(self.key)

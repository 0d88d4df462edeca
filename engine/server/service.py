"""What all requests to one server share: the cast, the voices, the line, the sessions and what is counted."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from engine.base.errors import UserError
from engine.base.files import data_folder
from engine.server.cast import Cast, Character
from engine.server.conversation import Turns
from engine.server.errors import bad_request, refused
from engine.server.limits import Line, Rate
from engine.server.metrics import Metrics
from engine.server.schema import ChatRequest
from engine.server.sessions import Busy, Key, Sessions
from engine.server.settings import Settings
from engine.server.speakers import OwnVoices, Speaker, Speakers, voices_of
from engine.serving.memory import PlayerMemory, Recalled
from engine.serving.memory.file import FILE
from engine.serving.memory.records import check_id
from engine.serving.remembering import Remembering
from engine.serving.requests import Request
from engine.serving.voice import Voice

log = logging.getLogger(__name__)
UNNAMED = "unnamed"  # the session, for the memory, of clients that name none


class Service:
    """One server's state."""

    def __init__(self, cast: Cast, settings: Settings, speakers: Speakers | None = None) -> None:
        self.cast, self.settings = cast, settings
        self.voices = voices_of(cast, settings)
        self.speakers = speakers or OwnVoices(self.voices, self.tell)
        self.line = Line(settings.parallel * self.speakers.replicas, settings.waiting, settings.patience)
        self.rate = Rate(settings.rate)
        self.metrics = Metrics()
        self.sessions, self.busy = Sessions(), Busy()
        self.closed = asyncio.Event()  # replies under way end
        self.remembering = Remembering(PlayerMemory(data_folder() / FILE), self._voice_of) if settings.memory else None
        self.forgotten: Counter[str] = Counter()  # how often each player was, so that no reply under way brings one back
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

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the server runs: conversations that are over become memory. At the end, the models are freed."""
        work = asyncio.ensure_future(self.remembering.run()) if self.remembering else None
        try:
            yield
        finally:
            self.closed.set()  # replies under way end
            if self.remembering and work:
                work.cancel()
                await self.remembering.close()
            self.voices.close()

    def forget(self, player: str, character: str = "") -> None:
        """Forget the player's conversations that the process holds; `character`: with this one alone."""
        self.forgotten[player] += 1
        self.sessions.forget_player(player, character)

    @asynccontextmanager
    async def _voice_of(self, id: str) -> AsyncIterator[tuple[Voice, str] | None]:
        """Who writes a character's notes; None for one that is no longer served."""
        character = self.cast.characters.get(id)
        if character is None or character.fault or not character.model:
            yield None
            return
        async with self.voices.use(character.model, character.type) as voice:
            yield voice, character.card.char


class Conversation:
    """What the server knows of a request's conversation and player; nothing where neither is named."""

    def __init__(self, service: Service, chat: ChatRequest, character: Character) -> None:
        self.service, self.chat, self.character = service, chat, character
        self.player = (chat.user or "").strip()
        self.key: Key | None = (self.player, character.id, chat.persona.session) if chat.persona.session else None
        self.remembering = service.remembering if chat.persona.remember is not False and self.player else None
        self.fault = ""  # why the memory could not be read or written
        self.forgotten = service.forgotten[self.player]
        for id, what, param in ((self.player if self.remembering else "", "player", "user"),
                                (chat.persona.session, "session", "persona.session")):
            if id:
                _check(id, what, param)
        if chat.persona.remember and not self.remembering:
            raise bad_request("Memory needs the player's id in the field user." if service.settings.memory else
                              "This server remembers no players: it was started without --memory.", "persona.remember")
        self.claimed = bool(self.key)
        if self.key:
            service.busy.claim(self.key)

    def turns(self) -> Turns:
        """The turns so far; with memory also those before the server was started again."""
        if not self.key:
            return ()
        if self.remembering and not self.service.sessions.turns(self.key):
            with self._noting():
                if turns := self.remembering.turns(*self.key):
                    self.service.sessions.append(self.key, *turns)
        return self.service.sessions.turns(self.key)

    @property
    def _session(self) -> str:
        return self.chat.persona.session or UNNAMED

    async def recall(self, said: str, speaker: Speaker) -> Recalled:
        """What the character remembers of the player that matters now."""
        with self._noting():
            if self.remembering:
                return await self.remembering.before(self.player, self.character.id, self._session, said, count=speaker.count)
        return Recalled()

    async def keep(self, said: str, reply: str, request: Request) -> None:
        """Keep a turn whose reply is whole."""
        if self.forgotten != self.service.forgotten[self.player]:
            return
        if self.key:
            self.service.sessions.append(self.key, ("user", said), ("assistant", reply))
        with self._noting():
            if self.remembering:
                await self.remembering.after(self.player, self.character.id, self._session, said, reply, self.chat.persona.player)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """A memory that cannot be read or written costs nobody a reply: the reply says so, and the log."""
        try:
            yield
        except UserError as error:
            log.warning("memory of players: %s", error)
            self.fault = str(error)

    def release(self) -> None:
        """The reply has ended, in whatever way; may be called again, when the session may be claimed by the next one."""
        if self.key and self.claimed:
            self.claimed = False
            self.service.busy.release(self.key)


def _check(id: str, what: str, param: str) -> None:
    try:
        check_id(id, what)
    except UserError as error:
        raise refused(error, param) from error

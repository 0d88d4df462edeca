"""The memory of players beside a running chat: before a reply what is recalled, after it what was said, later what is kept.

For programs that hold their voices in one process, as the server does. SQLite and the rules run in threads: no reply waits for them
but for `before`. Notes by the model are written one conversation at a time, once nobody speaks in it any more.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

from engine.base.errors import UserError
from engine.base.sampling import SamplingParams
from engine.cards.prompt import Message, rough_tokens
from engine.models.chat_format import encode_chat
from engine.serving.memory import Fact, PlayerMemory, Recalled, recall
from engine.serving.memory.records import Missing, Session
from engine.serving.memory.writing import Ask, remember
from engine.serving.voice import Voice

IDLE = 600.0  # seconds without a word, after which a conversation is over
EVERY = 24  # turns, after which one that goes on is taken into the memory all the same
_LOOK = 30.0  # seconds between two looks for conversations that are over
SMALLEST = 300_000_000  # bytes of weights: no note of a smaller model was true when tried
_GREEDY = SamplingParams(temperature=0, repeat_penalty=1, dry_multiplier=0, seed=0)

# A voice for a character's id, held while the block runs, with the character's name; None: by rules alone.
VoiceOf = Callable[[str], AbstractAsyncContextManager[tuple[Voice, str] | None]]


@asynccontextmanager
async def no_voice(character: str) -> AsyncIterator[None]:
    """Facts by rules alone."""
    yield None


def ask_by(voice: Voice) -> Ask:
    """Ask a model for notes."""

    async def ask(messages: list[Message], schema: dict[str, object], limit: int) -> str:
        prompt = await asyncio.to_thread(encode_chat, voice.vocabulary, messages)
        if len(prompt) + limit > voice.window:
            raise UserError("The conversation is too long for this model.")
        text = ""
        async with voice.turn(len(prompt) + limit), aclosing(voice.complete(prompt, _GREEDY, limit, schema)) as pieces:
            async for piece in pieces:
                text += piece.text
        return text

    return ask


class Remembering:
    """What a server does about memory. `voice_of`: by which model a character's notes are written."""

    def __init__(self, memory: PlayerMemory, voice_of: VoiceOf = no_voice, idle: float = IDLE, every: int = EVERY) -> None:
        self.memory, self.voice_of, self.idle, self.every = memory, voice_of, idle, every
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[list[Fact]]] = set()

    async def before(self, player: str, character: str, session: str, said: str,
                     count: Callable[[str], int] = rough_tokens) -> Recalled:
        """What matters for the player's last words; `sentences` go into Setting.memory. Raises UserError."""
        def find() -> Recalled:
            here = self._session(player, character, session)
            return recall(self.memory, player, character, said, count=count, session=session, turn=here.turns if here else 0)

        return await asyncio.to_thread(find)

    def turns(self, player: str, character: str, session: str) -> list[tuple[str, str]]:
        """The turns of a conversation that goes on, (role, text); [] for one that ended. Raises UserError."""
        found = self._session(player, character, session)
        turns = self.memory.turns(player, character, session) if found and not found.ended else []
        return [(one.role, one.text) for one in turns]

    async def after(self, player: str, character: str, session: str, said: str, reply: str, name: str = "") -> None:
        """Keep a turn and its reply; what a long conversation has brought so far is written beside. Raises UserError."""
        await asyncio.to_thread(self.memory.append, player, character, session, [("user", said), ("assistant", reply)], name)
        found = await asyncio.to_thread(self._session, player, character, session)
        if found and found.turns - found.read >= self.every:
            self._start(found)

    async def end(self, player: str, character: str, session: str) -> list[Fact]:
        """The conversation is over: write what it brought; the facts that are new. Raises Missing where there is none."""
        if not await asyncio.to_thread(self.memory.end, player, character, session):
            raise Missing("There is no such session of this player and character.")
        found = await asyncio.to_thread(self._session, player, character, session)
        return await self._write(found) if found else []

    async def run(self) -> None:
        """Take in conversations that are over, also those of a process that was killed, until cancelled."""
        while True:
            try:
                for session in await asyncio.to_thread(self.memory.waiting, self.idle):
                    await self._write(session)
            except Exception:  # of one conversation, or a busy file: the next look tries again
                logging.exception("a conversation could not be taken into the memory of players")
            await asyncio.sleep(_LOOK)

    async def close(self) -> None:
        """End what is being written; it is taken up at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _session(self, player: str, character: str, session: str) -> Session | None:
        return next((one for one in self.memory.sessions(player, character) if one.id == session), None)

    def _start(self, session: Session) -> None:
        if not self._writing.locked():
            task = asyncio.ensure_future(self._write(session))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[list[Fact]]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logging.error("a conversation could not be taken into the memory of players", exc_info=error)

    async def _write(self, session: Session) -> list[Fact]:
        async with self._writing, contextlib.AsyncExitStack() as stack:
            try:
                voiced = await stack.enter_async_context(self.voice_of(session.character))
            except UserError as error:  # a model that cannot be loaded: the rules need none
                logging.info("notes by rules alone: %s", error)
                voiced = None
            if voiced is None or voiced[0].bytes < SMALLEST:
                return await remember(self.memory, session)
            voice, char = voiced
            return await remember(self.memory, session, ask_by(voice), char, voice.count, voice.window)

"""Who speaks for a server: the voices of its own process, or replicas elsewhere (engine/cluster/speakers.py)."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

from engine.base.errors import UserError
from engine.server.cast import Cast, Character
from engine.server.errors import unavailable
from engine.server.settings import Settings
from engine.serving.requests import Request
from engine.serving.speaking import answer
from engine.serving.voice import Voice
from engine.serving.voices import Tell, Voices

Event = dict[str, Any]


def voices_of(cast: Cast, settings: Settings) -> Voices:
    """The voices of a process that speaks for a cast."""
    return Voices(settings.keep or max(1, len(cast.models())), settings.parallel, prompt_cache=settings.prompt_cache)


class Speaker(Protocol):
    """Speaks for one character."""

    def count(self, text: str) -> int:
        """The number of tokens of a text, or an estimate."""

    def speak(self, request: Request, stops: Sequence[str], may_begin_again: Callable[[], bool]) -> AsyncGenerator[Event, None]:
        """The events of a reply: Said and Ended. Raises UserError for a request that cannot be answered.

        `stops`: texts that end it. Again says that nothing before it counts: the reply begins once more, which happens only
        while `may_begin_again()`.
        """


class Speakers(Protocol):
    """Speak for all characters. `replicas`: how many processes do, at most."""

    replicas: int

    def use(self, character: Character) -> AbstractAsyncContextManager[Speaker]:
        """Who speaks for a character, while the block runs. Raises ApiError where it cannot speak."""

    def state(self) -> dict[str, Any]:
        """What /health says of them."""


class OwnVoices:
    """Voices in this process."""

    replicas = 1

    def __init__(self, voices: Voices, tell: Tell) -> None:
        self.voices, self._tell = voices, tell

    @asynccontextmanager
    async def use(self, character: Character) -> AsyncIterator[Speaker]:
        """See Speakers."""
        async with AsyncExitStack() as held:
            try:
                voice = await held.enter_async_context(self.voices.use(character.model, character.type, self._tell))
            except UserError as error:
                raise unavailable(error) from error
            yield _OwnVoice(voice)

    def state(self) -> dict[str, Any]:
        """See Speakers."""
        return {"models_loaded": self.voices.names}


class _OwnVoice:
    def __init__(self, voice: Voice) -> None:
        self.voice, self.count = voice, voice.count

    def speak(self, request: Request, stops: Sequence[str], may_begin_again: Callable[[], bool]) -> AsyncGenerator[Event, None]:
        """See Speaker. Who asks finds the stop texts, and stops the request."""
        return answer(request, self.voice)

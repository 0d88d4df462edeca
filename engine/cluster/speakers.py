"""Replies spoken by replicas under Ray Serve, on as many machines as the cluster has.

The application stays in the process of `persona serve`: it lets requests in, and keeps sessions, limits and the memory of players
in one place. What speaks is a deployment of replicas. A reply goes to a replica where its character is warm (Ray Serve's
multiplexing, by the character's id). When a replica is lost, a reply of which nothing was sent yet begins again at another.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

from engine.base.errors import UserError
from engine.base.ids import ErrorCode
from engine.cards.prompt import rough_tokens
from engine.cluster.connection import LOCAL, connected, environment, places, smallest_node
from engine.server.cast import Cast, Character
from engine.server.conversation import StopTexts
from engine.server.errors import ApiError, unavailable
from engine.server.settings import Scale, Settings
from engine.server.speakers import Event, voices_of
from engine.serving.llama import threads
from engine.serving.requests import Request
from engine.serving.speaking import answer

log = logging.getLogger(__name__)
MOST_TRIES = 4  # replicas that one reply may lose: what ends every replica must not end them all
_PAUSE = 0.5  # seconds before another try
_CLEARING = 5.0  # seconds that replies have when their replica is to end
_BUSY = 0.75  # share of a replica's replies at a time, above which another replica is started


class Held:
    """What a replica does: it holds voices, and speaks."""

    def __init__(self, cast: Cast, settings: Settings) -> None:
        self.cast, self.voices = cast, voices_of(cast, settings)

    async def warm(self, id: str) -> str:
        """Load the model of a character."""
        one = self.cast.characters[id]
        await self.voices.get(one.model, one.type)
        return id

    async def events(self, id: str, request: Request, stops: Sequence[str]) -> AsyncGenerator[Event, None]:
        """The events of a reply by a character that is warm; a UserError is the event Refused."""
        one = self.cast.characters[id]
        request = replace(request, card=one.card, stopping=asyncio.Event())
        ending = StopTexts(stops)
        try:
            async with self.voices.use(one.model, one.type) as voice, aclosing(answer(request, voice)) as events:
                async for event in events:
                    if event["event"] == "Said":
                        ending.take(event["text"])
                        if ending.found:
                            request.stop()  # the engine ends the reply, and reports its figures
                    yield event
        except UserError as error:
            yield refusal(error, loaded=True)


def refusal(error: UserError, loaded: bool) -> Event:
    """An error of the engine as an event, which travels whole."""
    return {"event": "Refused", "loaded": loaded, "sentence": error.sentence, "hint": error.hint, "code": str(error.code)}


def make_application(cast: Cast, settings: Settings, scale: Scale, cpus: int) -> Any:
    """The deployment of replicas, ready for Ray Serve."""
    from ray import serve

    size = {"num_replicas": scale.most} if scale.least == scale.most else {"autoscaling_config": {
        "min_replicas": scale.least, "max_replicas": scale.most, "initial_replicas": scale.least,
        "target_ongoing_requests": max(1.0, _BUSY * settings.parallel)}}

    @serve.deployment(name="speaker", max_ongoing_requests=settings.parallel, graceful_shutdown_timeout_s=_CLEARING,
                      ray_actor_options={"num_cpus": cpus, "num_gpus": scale.gpus,
                                         "runtime_env": environment(OMP_NUM_THREADS=str(cpus))}, **size)
    class Replica(Held):
        @serve.multiplexed(max_num_models_per_replica=settings.keep or -1)
        async def load(self, id: str) -> str:
            return await self.warm(id)

        async def speak(self, request: Request, stops: Sequence[str]) -> AsyncGenerator[Event, None]:
            yield {"event": "Taken"}
            id = serve.get_multiplexed_model_id()
            try:
                await self.load(id)
            except UserError as error:
                yield refusal(error, loaded=False)
                return
            async with aclosing(self.events(id, request, stops)) as events:
                async for event in events:
                    yield event

    return Replica.bind(cast, settings)  # type: ignore[attr-defined]


@contextmanager
def replicas(cast: Cast, settings: Settings, scale: Scale, name: str) -> Iterator["RaySpeakers"]:
    """Replicas on a cluster while the block runs. Raises UserError where they cannot be started.

    `name`: of the application in Ray Serve; another one of that name is replaced.
    """
    with connected(scale.ray):
        from ray import serve

        cpus = scale.cpus or _usual_cpus(scale)
        room = places(cpus, scale.gpus)
        if room < scale.least:
            raise UserError(f"The cluster has room for {room} replicas of {cpus} cores, and {scale.least} are asked for.",
                            f"Begin with fewer: --replicas {room}..{max(room, scale.most)}.")
        if scale.ray == LOCAL:  # no machine will join
            scale = replace(scale, most=min(scale.most, room))
        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it writes down every step of its own
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        try:
            handle = serve.run(make_application(cast, settings, scale, cpus), name=name, route_prefix=None,
                               logging_config={"log_level": "WARNING"})
            yield RaySpeakers(handle, scale, settings.patience)
        finally:
            serve.shutdown() if scale.ray == LOCAL else serve.delete(name)


def _usual_cpus(scale: Scale) -> int:
    """The cores of a replica where none are asked for: as many as one process takes here, or its share of this machine."""
    return max(1, threads() // scale.most) if scale.ray == LOCAL else min(threads(), smallest_node())


class RaySpeakers:
    """The replicas as the server knows them; see server/speakers.py."""

    def __init__(self, handle: Any, scale: Scale, patience: float) -> None:
        self._handle, self._scale, self._patience = handle, scale, patience
        self.replicas = scale.most

    @asynccontextmanager
    async def use(self, character: Character) -> AsyncIterator["RaySpeaker"]:
        """See Speakers."""
        yield RaySpeaker(self._handle.options(multiplexed_model_id=character.id, stream=True), self._patience)

    def state(self) -> dict[str, Any]:
        """See Speakers."""
        return {"ray": self._scale.ray, "replicas": [self._scale.least, self._scale.most]}


class RaySpeaker:
    """A character's replies by whichever replica takes them; see server/speakers.py."""

    def __init__(self, handle: Any, patience: float) -> None:
        self._handle, self._patience = handle, patience

    def count(self, text: str) -> int:
        """See Speaker: an estimate, since the model is elsewhere."""
        return rough_tokens(text)

    async def speak(self, request: Request, stops: Sequence[str],
                    may_begin_again: Callable[[], bool]) -> AsyncGenerator[Event, None]:
        """See Speaker."""
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        asked = replace(request, card=None, stopping=asyncio.Event())  # replicas have the cards
        for number in range(1, MOST_TRIES + 1):
            response = self._handle.speak.remote(asked, tuple(stops))
            try:
                async for event in self._taken(aiter(response)):
                    yield event
                return
            except (RayError, RayServeException) as error:
                if isinstance(error, RayTaskError):  # a defect of ours, there
                    raise
                log.warning("request %s lost its replica (%s)", request.id, type(error).__name__)
            finally:
                response.cancel()
            if number == MOST_TRIES or not may_begin_again():
                break
            await asyncio.sleep(_PAUSE)
            yield {"event": "Again"}
        raise ApiError(503, "The process that spoke was lost, and its reply with it. Send the message again.", "replica_lost")

    async def _taken(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
        """The events of a reply, once a replica has taken it."""
        try:
            await asyncio.wait_for(anext(events), self._patience)
        except TimeoutError:
            raise ApiError(503, f"No replica became free within {self._patience:.0f} seconds. Try again a little later.",
                           "overloaded") from None
        async for event in events:
            if event["event"] == "Refused":
                error = UserError(event["sentence"], event["hint"], ErrorCode(event["code"]))
                raise error if event["loaded"] else unavailable(error)
            yield event

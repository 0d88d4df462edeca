"""The voices in memory, by the names that users give to models; the one used last stays longest."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step
from engine.base.ids import ErrorCode
from engine.serving import files
from engine.serving.llama import LlamaVoice
from engine.serving.slots import PROMPT_CACHE
from engine.serving.turns import Turns
from engine.serving.voice import Voice

Tell = Callable[[dict[str, Any]], None]
MARGIN = 200_000_000  # bytes of memory that a model needs besides its weights, keys and values


@dataclass
class _Held:
    voice: Voice
    users: int = 0


class Voices:
    """At most `keep` models in memory, where memory allows; each keeps `slots` conversations and answers as many at once.

    `gpu_layers`: how many layers go onto a GPU that llama.cpp knows; -1: as many as fit. `prompt_cache`: MB for conversations
    that no slot has any more; each model has an equal share.
    """

    def __init__(self, keep: int = 3, slots: int = 4, gpu_layers: int = -1, prompt_cache: int = PROMPT_CACHE) -> None:
        self.prompt_cache = prompt_cache // keep
        self.keep, self.slots, self.gpu_layers = keep, slots, gpu_layers
        self._held: dict[tuple[str, str], _Held] = {}
        self._loading: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._turns = Turns()

    @property
    def names(self) -> list[str]:
        """The models in memory, the one used last at the end."""
        return [name for name, _ in self._held]

    async def get(self, name: str, type: str = "", tell: Tell = lambda event: None) -> Voice:
        """The voice of a model; `type` of its GGUF file ("": the best at hand). Tells of Loading and Loaded. Raises UserError."""
        return (await self._get(name, type, tell))[1]

    @asynccontextmanager
    async def use(self, name: str, type: str = "", tell: Tell = lambda event: None) -> AsyncIterator[Voice]:
        """The same, and the model stays in memory while the block runs."""
        held, voice = await self._get(name, type, tell)
        held.users += 1
        try:
            yield voice
        finally:
            held.users -= 1

    async def _get(self, name: str, type: str, tell: Tell) -> tuple[_Held, Voice]:
        """The model in memory, and its voice; the characters of a cast share one model, each with a voice of its own."""
        place = await asyncio.to_thread(files.character_of, name)
        if place is None:
            held = await self._get_model(name, type, tell)
            return held, held.voice
        held = await self._get_model(str(place.folder), type, tell)
        return held, held.voice.adapted(place.id)

    async def _get_model(self, name: str, type: str, tell: Tell) -> _Held:
        key = (name, type)
        async with self._loading[key]:  # another request may be loading it
            if key in self._held:
                held = self._held[key] = self._held.pop(key)
                return held
            tell({"event": "Loading", "model": name})
            start = time.perf_counter()
            held = self._held[key] = _Held(await self._load(name, type, tell))
        tell({"event": "Loaded", "model": name, "seconds": time.perf_counter() - start, "bytes": held.voice.bytes})
        return held

    async def _load(self, name: str, type: str, tell: Tell) -> Voice:
        file = await asyncio.to_thread(files.gguf_file, name, type)
        if file is None and await asyncio.to_thread(files.speaks_by_llama, name):
            def progress(event: Event) -> None:
                if isinstance(event, Stage | Step):  # a stage: nothing of it is done yet
                    tell({"event": "Loading", "model": name, "stage": event.stage,
                          "done": getattr(event, "done", 0), "total": event.total})

            try:
                file = await files.make_gguf(name, type, progress)
            except UserError as error:
                if error.code != ErrorCode.NO_GGUF:
                    raise
                logging.info("transformers speaks for %s: %s", name, error)
        if file is None:
            from engine.serving.transformers_voice import load

            await self._make_room(0)
            return await load(name, self._turns, tell)
        folder = await asyncio.to_thread(files.folder_of, name)
        adapters = files.gguf_adapters(folder) if folder else {}
        size = sum(one.stat().st_size for one in (file, *adapters.values()))
        await self._make_room(size + MARGIN)
        return await asyncio.to_thread(LlamaVoice, name, file, self._turns, self.slots, self.gpu_layers, adapters,
                                       self.prompt_cache)

    async def _make_room(self, needed: int) -> None:
        while len(self._held) >= self.keep and await self._drop_oldest():
            pass
        while psutil.virtual_memory().available < needed and await self._drop_oldest():
            pass

    async def _drop_oldest(self) -> bool:
        idle = next((key for key, held in self._held.items() if not held.users), None)
        if idle:
            await self._drop(idle)
        return idle is not None

    async def _drop(self, key: tuple[str, str]) -> int:
        logging.info("forgetting %s %s", *key)
        voice = self._held.pop(key).voice
        await asyncio.to_thread(voice.close)  # its server may take a second to end
        return voice.bytes

    async def forget(self, name: str) -> int:
        """Drop a model that nobody uses, in all its types; the bytes of its weights."""
        with suppress(UserError):  # it may be gone
            name = str(place.folder) if (place := files.character_of(name)) else name
        idle = [key for key, held in self._held.items() if key[0] == name and not held.users]
        return sum([await self._drop(key) for key in idle])

    def close(self) -> None:
        """Drop all."""
        while self._held:
            self._held.popitem()[1].voice.close()

"""The models that the chat worker has in memory, and their conversations.

The models used last stay, up to a number. Of each, a few conversations stay, so that a persona's prompt is read once: a new
prompt goes on in, or begins with a copy of, the conversation with which it shares most.
"""

import gc
import logging
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from engine.base.errors import UserError
from engine.base.events import Step
from engine.base.model_folder import count_parameters
from engine.base.process import is_out_of_memory, return_freed_memory
from engine.models.kv_cache import CachedPrompt
from engine.models.loading import ModelSource, best_device, load_model, load_tokenizer, locate, parse_dtype

CONVERSATIONS = 4  # kept of each model
Turn = dict[str, Any] | None  # what a task says at the end of a turn: an answer without its id, or nothing


@dataclass
class Loaded:
    """A model in memory, with its conversations, the one used last at the end. `users`: tasks at work with it."""

    name: str
    model: Any
    tokenizer: Any
    bytes: int = 0
    users: int = 0
    talks: list[CachedPrompt] = field(default_factory=list)
    busy: list[CachedPrompt] = field(default_factory=list)

    @property
    def window(self) -> int:
        """The longest prompt and answer together, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2048)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The model is not dropped while the block runs."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

    @contextmanager
    def conversation(self, prompt: Sequence[int]) -> Iterator[CachedPrompt]:
        """The conversation in which least of `prompt` has to be read; no other task gets it while the block runs."""
        ranked = [(talk.reusable(prompt), talk not in self.busy, talk) for talk in [*reversed(self.talks), *self.busy]]
        known, idle, best = max(ranked, key=lambda one: one[:2], default=(0, False, None))
        if best is None or not known:
            talk = CachedPrompt(self.model)
        elif idle and known >= best.whole:
            talk = best  # the same conversation goes on: nothing is lost by using it
        else:
            talk = best.copy(min(known, best.whole))
        self.busy.append(talk)
        try:
            yield talk
        finally:
            self.busy.remove(talk)
            self.talks = [*(other for other in self.talks if other is not talk), talk]
            self.trim(CONVERSATIONS)

    def trim(self, most: int) -> None:
        """Drop idle conversations, least recently used first, until `most` are left."""
        idle = [talk for talk in self.talks if talk not in self.busy]
        dropped = idle[: max(0, len(idle) - most)]
        self.talks = [talk for talk in self.talks if talk not in dropped]


class ModelCache:
    """Models by the name that the user gave, the one used last at the end; at most `keep` of them, where memory allows."""

    def __init__(self, dtype: str = "auto", keep: int = 3) -> None:
        self.dtype, self.keep = dtype, keep
        self.models: dict[str, Loaded] = {}
        self.tokenizers: dict[str, Any] = {}
        self.under_way: set[str] = set()

    def load(self, name: str) -> Generator[Turn, None, Loaded]:
        """The model of a name; yields Loading and Loaded where it has to be fetched or read. Raises UserError."""
        while name in self.under_way:  # another task loads it
            yield None
        if name in self.models:
            loaded = self.models[name] = self.models.pop(name)
            return loaded
        self.under_way.add(name)
        try:
            yield {"event": "Loading", "model": name}
            start = time.perf_counter()
            source = yield from self._locate(name)
            loaded = self.models[name] = self._read(source)
        finally:
            self.under_way.discard(name)
        yield {"event": "Loaded", "model": name, "seconds": time.perf_counter() - start, "bytes": loaded.bytes}
        return loaded

    def tokenizer(self, name: str) -> Generator[Turn, None, Any]:
        """The tokenizer alone."""
        if name in self.models:
            return self.models[name].tokenizer
        if name not in self.tokenizers:
            self.tokenizers[name] = load_tokenizer((yield from self._locate(name)))
        return self.tokenizers[name]

    def _locate(self, name: str) -> Generator[Turn, None, ModelSource]:
        """Find or fetch the model; yields the progress of a download in MB."""
        search = locate(name)
        try:
            while True:
                event = next(search)
                yield {"event": "Loading", "model": name, "stage": event.stage, "done": event.done,
                       "total": event.total} if isinstance(event, Step) else None
        except StopIteration as end:
            return end.value
        finally:
            search.close()

    def _read(self, source: ModelSource) -> Loaded:
        dtype = parse_dtype(self.dtype, own=source.own_dtype)
        while len(self.models) >= self.keep and self._drop_oldest():
            pass
        needed = count_parameters(source.folder) * dtype.itemsize
        while best_device().type == "cpu" and psutil.virtual_memory().available < needed and self._drop_oldest():
            pass
        try:
            model: Any = load_model(source, dtype)
        except UserError as error:
            if not is_out_of_memory(error.__cause__):
                raise
            model = None
        if model is None:  # outside the except block, where the failed attempt is still held
            self.free()
            model = load_model(source, dtype)
        size = sum(parameter.nbytes for parameter in model.parameters())
        return Loaded(source.name, model, load_tokenizer(source), size)

    def _drop_oldest(self) -> bool:
        idle = [name for name, loaded in self.models.items() if not loaded.users]
        if idle:
            self.forget(idle[0])
        return bool(idle)

    def forget(self, name: str) -> int:
        """Drop a model; the bytes of its weights. Tasks that use it finish first."""
        self.tokenizers.pop(name, None)
        if name not in self.models:
            return 0
        logging.info("forgetting %s", name)
        size = self.models.pop(name).bytes
        _collect()
        return size

    def free(self) -> None:
        """Drop all models and conversations that are not in use."""
        while self._drop_oldest():
            pass
        for loaded in self.models.values():
            loaded.trim(0)
        _collect()


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return_freed_memory()

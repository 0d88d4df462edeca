"""Before the first request: every model as a GGUF file, made once where there is none; and what all of it will take.

What needs torch, writing a GGUF file, is done by a process of its own.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from engine.base.errors import UserError
from engine.base.events import Event
from engine.server.cast import Cast, Character
from engine.server.settings import Settings
from engine.server.speakers import voices_of
from engine.serving import files
from engine.serving.gguf_header import Header, read_header
from engine.serving.llama import token_bytes, tokens_in_memory
from engine.serving.voices import MARGIN, Voices

OWN_BYTES = 150_000_000  # of the server's process without a model
Tell = Callable[[Event], None]
_File = tuple[Path, str]  # with its type


async def prepare(cast: Cast, tell: Tell = lambda event: None) -> Cast:
    """The cast with every model's file made and looked at; what is wrong with one is its character's fault."""
    made: dict[tuple[str, str], _File | UserError | None] = {}
    return Cast([await _prepare(one, tell, made) for one in cast])


async def _prepare(one: Character, tell: Tell, made: dict[tuple[str, str], _File | UserError | None]) -> Character:
    try:
        key = (one.model, one.type)
        if key not in made:  # characters share models
            try:
                made[key] = await _file_of(*key, tell)
            except UserError as error:
                made[key] = error
        found = made[key]
        if isinstance(found, UserError):
            raise found
    except UserError as error:
        return replace(one, fault=str(error))
    if found is None:
        return one.watching(*(file for file, _ in one.seen))
    file, type = found
    return replace(one, file_type=type).watching(*(file for file, _ in one.seen), file)


async def _file_of(model: str, type: str, tell: Tell) -> _File | None:
    """The GGUF file of a model, checked, and its type; None where transformers speaks for it."""
    file = await asyncio.to_thread(files.gguf_file, model, type)
    if file is None and await asyncio.to_thread(files.speaks_by_llama, model):
        file = await files.make_gguf(model, type, tell)
    return (file, (await asyncio.to_thread(read_header, file)).type) if file else None


@dataclass(frozen=True)
class Row:
    """A character in a plan."""

    id: str
    source: str
    file: str
    type: str
    state: str
    fault: str


@dataclass(frozen=True)
class Model:
    """A model in a plan; `slot_bytes`: of the keys and values of one reply, at its longest; `cache_bytes`: for conversations that
    are not under way; `working_bytes`: what llama.cpp needs besides."""

    file: str
    bytes: int
    slot_bytes: int
    cache_bytes: int
    working_bytes: int = MARGIN


@dataclass(frozen=True)
class Plan:
    """What would be served, and the memory for it with `keep` models at a time. Models still to be made are not counted."""

    rows: list[Row]
    models: list[Model]
    parallel: int
    keep: int

    @property
    def bytes(self) -> int:
        """Of the process with as many models as it keeps, and all replies at a time."""
        each = [model.bytes + self.parallel * model.slot_bytes + model.cache_bytes + model.working_bytes for model in self.models]
        return OWN_BYTES + sum(sorted(each)[-self.keep:])

    @property
    def free(self) -> int:
        """Memory of this machine that is free now."""
        return int(psutil.virtual_memory().available)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"characters": [vars(row) for row in self.rows], "models": [vars(model) for model in self.models],
                "parallel": self.parallel, "bytes": self.bytes, "free": self.free}


def plan(cast: Cast, settings: Settings) -> Plan:
    """What would be served; makes and loads nothing."""
    rows, models, voices = [], {}, voices_of(cast, settings)
    for one in cast:
        file, type, state, fault = "", one.type, "ready", one.fault
        try:
            found = files.gguf_file(one.model, one.type)
            if found:
                header = read_header(found)
                file, type = str(found), header.type
                models[file] = _model(found, header, files.folder_of(one.model), voices)
            elif files.speaks_by_llama(one.model):
                state = "its GGUF file is made at the first start"
            else:
                state = "spoken by transformers"
        except UserError as error:
            fault = str(error)
        rows.append(Row(one.id, one.source, file, type, "cannot speak" if fault else state, fault))
    return Plan(rows, list(models.values()), settings.parallel, voices.keep)


def _model(file: Path, header: Header, folder: Path | None, voices: Voices) -> Model:
    adapters = files.gguf_adapters(folder) if folder else {}
    return Model(str(file), header.weight_bytes + sum(one.stat().st_size for one in adapters.values()),
                 slot_bytes(header, voices.slots), 0 if adapters else voices.prompt_cache << 20)


def slot_bytes(header: Header, parallel: int) -> int:
    """Bytes of keys and values of one of `parallel` replies at a time."""
    return token_bytes(header) * tokens_in_memory(header.context_length, parallel) // parallel

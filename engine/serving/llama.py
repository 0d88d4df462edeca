"""A voice by llama.cpp: one GGUF file in its server, which listens on this machine alone, with a key that only this process has.

The server's slots keep the conversations that were read last, so that a known opening is not read again, and its own memory
keeps some more. Its samplers are the samplers, in its order.
"""

import contextlib
import copy
import ctypes
import json
import os
import secrets
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psutil

from engine.base.errors import UserError
from engine.base.sampling import MAX_SEED, SamplingParams, llama_samplers
from engine.models.chat_format import endings
from engine.serving.gguf_header import Header, read_header
from engine.serving.schemas import grammar_of
from engine.serving.slots import PROMPT_CACHE, Slots
from engine.serving.turns import Turns
from engine.serving.vocabulary import Vocabulary
from engine.serving.voice import Piece, Timings

LONGEST = 8192  # tokens of one prompt and answer
READ_PIECE = 256  # tokens of a prompt that a CPU reads between two reports; no slower than 2,048, llama.cpp's default
A_SLOT = 4096  # tokens of memory for each slot; all slots share them
_LARGE, _MMAP_THRESHOLD = 1 << 20, -3  # bytes; mallopt's name for it
_ALIKE = 0.1  # share of a prompt that a slot must know to be chosen for it
_CONNECTING = 10.0  # seconds
_DATA, _ERROR = "data: ", "error: "


class LlamaVoice:
    """A GGUF file in memory; see Voice. Loading it blocks all threads of the process, for half a second or, large files, a few.

    `adapters`: GGUF files of LoRA adapters by name, loaded beside it; `adapted` gives the voice with one of them. `prompt_cache`:
    MB for conversations that no slot has any more; with adapters there is none.
    """

    engine = "llama.cpp"

    def __init__(self, name: str, file: Path, turns: Turns, slots: int = 4, gpu_layers: int = -1,
                 adapters: Mapping[str, Path] = MappingProxyType({}), prompt_cache: int = PROMPT_CACHE) -> None:
        header = read_header(file)
        self.name, self.type, self.bytes = name, header.type, file.stat().st_size
        self.window = min(header.context_length, LONGEST)
        self.tokens = max(self.window, min(tokens_in_memory(self.window, slots), _affordable(header)))
        self._turns = turns
        key = secrets.token_urlsafe(24)
        self.adapter, self._adapters = "", tuple(adapters)
        slots = max(slots, len(adapters))  # one for each character; they share the memory of tokens
        self._slots = Slots(slots)
        self._server: Any = _start(file, key, self.tokens, slots, gpu_layers, list(adapters.values()), prompt_cache)
        # A connection that has been idle may be closed by the server just when it is used again: each request has its own.
        shape: dict[str, Any] = {
            "base_url": self._server.listening_address, "headers": {"Authorization": f"Bearer {key}"}, "trust_env": False,
            "timeout": httpx.Timeout(_CONNECTING, read=None), "limits": httpx.Limits(max_keepalive_connections=0)}
        self._client, self._loopless = httpx.AsyncClient(**shape), httpx.Client(**shape)
        self.vocabulary: Any = Vocabulary.of(header, self._split)
        self._endings = endings(self.vocabulary)

    def adapted(self, adapter: str) -> "LlamaVoice":
        """The same file in memory, speaking with one of its adapters; with none where it has none of this name."""
        voice = copy.copy(self)
        voice.adapter = adapter if adapter in self._adapters else ""
        return voice

    def _with_adapter(self, slot: int) -> dict[str, Any]:
        """What a request says of the adapters: always the scale of each, for a slot keeps those of its last request."""
        if not self._adapters:
            return {}
        return {"id_slot": slot, "lora": [{"id": id, "scale": float(one == self.adapter)} for id, one in enumerate(self._adapters)]}

    def _split(self, text: str) -> list[int]:
        answer = self._loopless.post("/tokenize", json={"content": text, "add_special": False, "parse_special": True})
        return _checked(answer.status_code, answer.text)["tokens"]

    def count(self, text: str) -> int:
        """The number of tokens of a text."""
        return len(self._split(text))

    def turn(self, tokens: int, alone: bool = False) -> AbstractAsyncContextManager[None]:
        """See Voice."""
        return self._turns.of(object() if alone else self._slots, tokens, self.tokens)

    async def complete(self, prompt: Sequence[int], params: SamplingParams, limit: int,
                       schema: dict[str, Any] | None = None) -> AsyncGenerator[Piece, None]:
        """See Voice. The schema must have passed `check_schema`: llama.cpp forgets one that it cannot compile, without a word."""
        body = {"prompt": list(prompt), "n_predict": limit, "stream": True, "return_tokens": True, "timings_per_token": True,
                "return_progress": True, "cache_prompt": True, **samplers(params)}
        if schema is not None:
            body["grammar"] = grammar_of(schema)
        with self._slots.of(self.adapter, prompt) as slot:
            async with aclosing(self._stream({**body, **self._with_adapter(slot)})) as pieces:
                async for piece in pieces:
                    yield piece

    async def _stream(self, body: dict[str, Any]) -> AsyncGenerator[Piece, None]:
        async with self._client.stream("POST", "/completion", json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                _checked(answer.status_code, (await answer.aread()).decode("utf-8", "replace"))
            async for line in answer.aiter_lines():
                if line.startswith(_ERROR):
                    _checked(500, f'{{"error": {line.removeprefix(_ERROR)}}}')
                if not line.startswith(_DATA):
                    continue
                said = json.loads(line.removeprefix(_DATA))
                if read := said.get("prompt_progress"):
                    if (new := read["total"] - read["cache"]) > READ_PIECE:
                        yield Piece("", 0, reading=(read["processed"] - read["cache"], new))
                    continue
                piece = self._piece(said)
                yield piece
                if piece.ended:
                    return

    def _piece(self, said: dict[str, Any]) -> Piece:
        if "error" in said:
            _checked(500, json.dumps(said))
        took = said.get("timings") or {}
        timings = Timings(took.get("cache_n", 0) + took.get("prompt_n", 0), took.get("cache_n", 0), took.get("predicted_n", 0),
                          (took.get("prompt_ms", 0) + took.get("predicted_ms", 0)) / 1000)
        ending = not self._endings.isdisjoint(said.get("tokens") or [])  # one that the file does not mark as such has a text
        return Piece("" if ending else said.get("content", ""), timings.tokens, ending or said.get("stop_type") == "eos", timings)

    async def read(self, prompt: Sequence[int]) -> int:
        """See Voice."""
        with self._slots.of(self.adapter, prompt) as slot:
            body = {"prompt": list(prompt), "n_predict": 0, "cache_prompt": True, **self._with_adapter(slot)}
            answer = await self._client.post("/completion", json=body)
        return int(_checked(answer.status_code, answer.text)["timings"]["cache_n"])

    def close(self) -> None:
        """Free the memory."""
        self._loopless.close()
        self._server = None


def samplers(params: SamplingParams) -> dict[str, Any]:
    """Sampling parameters with a seed, by the names of llama.cpp's server."""
    assert params.seed is not None
    return {**llama_samplers(params), "seed": params.seed % MAX_SEED}  # the largest number means "a random one" there


def _start(file: Path, key: str, tokens: int, slots: int, gpu_layers: int, adapters: Sequence[Path], prompt_cache: int) -> Any:
    """llama.cpp's server of a file, with adapters that no request has unless it says so. Raises UserError where it cannot be
    loaded."""
    import xllamacpp

    _give_memory_back()
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.port, settings.api_keys = str(file), 0, [key]
    settings.n_ctx, settings.n_parallel, settings.kv_unified = tokens, slots, True
    settings.slot_prompt_similarity = _ALIKE
    settings.cache_ram_mib = min(prompt_cache, psutil.virtual_memory().available // 8 >> 20)
    if adapters:
        settings.cache_ram_mib = 0  # it finds a prompt by its tokens alone, whichever adapter they were read under
        settings.lora_adapters = [_adapter(xllamacpp.CommonAdapterLoraInfo(), one) for one in adapters]
    settings.warmup, settings.verbosity, settings.swa_full, settings.ui = False, -1, True, False
    # It would try the file's chat template out, which is a program that others wrote; here templates.py renders it, with limits.
    settings.use_jinja, settings.enable_chat_template, settings.chat_template = False, False, "chatml"
    settings.endpoint_slots = settings.endpoint_props = settings.endpoint_metrics = False
    on_gpu = any(one["type"] != xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU for one in xllamacpp.get_device_info())
    settings.n_gpu_layers, settings.fit_params = (gpu_layers, gpu_layers < 0) if on_gpu else (0, False)
    if not on_gpu:
        settings.n_batch = READ_PIECE
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads()
    settings.cpuparams.poll = settings.cpuparams_batch.poll = 0  # spinning threads would take the cores from a job
    try:
        return xllamacpp.Server(settings)
    except RuntimeError as error:
        raise UserError(f"llama.cpp cannot load {file}: it is damaged, or the memory is not enough.",
                        "Delete the file, so that it is made again, or choose a smaller model.") from error


def _give_memory_back() -> None:
    """Have large blocks, as conversations in the prompt cache are, given back to the system when they are freed. Left to itself,
    glibc keeps blocks as large as any that was freed before, with gaps between them: up to twice the limit of a prompt cache."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)


def _adapter(settings: Any, file: Path) -> Any:
    settings.path, settings.scale = str(file), 0.0
    return settings


def tokens_in_memory(window: int, slots: int) -> int:
    """How many tokens the keys and values of a model are kept for, its slots together."""
    window = min(window, LONGEST)
    return max(window, min(window, A_SLOT) * slots)


def token_bytes(header: Header) -> int:
    """Bytes of the keys and values of a token, in 16 bit."""
    def about(name: str, default: Any = 0) -> Any:
        return header.metadata.get(f"{header.architecture}.{name}", default)

    heads = about("attention.head_count", 1)
    size = about("embedding_length") // (heads if isinstance(heads, int) else max(heads))
    key_heads = about("attention.head_count_kv", heads)
    key_heads = key_heads * about("block_count") if isinstance(key_heads, int) else sum(key_heads)
    return int(2 * key_heads * (about("attention.key_length", size) + about("attention.value_length", size)))


def _affordable(header: Header) -> int:
    """How many tokens have their keys and values in a quarter of the free memory, in steps of 256."""
    return int(psutil.virtual_memory().available // 4 // max(token_bytes(header), 1) // 256 * 256)


def threads() -> int:
    """How many threads compute: one a physical core that this process may use, unless OMP_NUM_THREADS says otherwise."""
    if (given := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(given):
        return int(given)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def _checked(status: int, text: str) -> dict[str, Any]:
    """The server's answer. Raises UserError for what it refuses, RuntimeError for what went wrong in it."""
    try:
        found = json.loads(text)
    except ValueError:
        found = {"error": {"message": text[:200]}}
    if status == httpx.codes.OK and "error" not in found:
        return found
    message = str(found.get("error", {}).get("message", text[:200]))
    if found.get("error", {}).get("type") == "invalid_request_error":
        raise UserError(f"llama.cpp refuses the request: {' '.join(message.split())[:200].rstrip('.')}.")
    raise RuntimeError(f"llama.cpp: {message[:500]}")



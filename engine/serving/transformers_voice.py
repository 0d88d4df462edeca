"""A voice by transformers, for models that llama.cpp cannot load: its own `generate`, in a thread, with its own samplers.

Left out, because transformers has none: DRY, and a schema for the answer. The repetition penalty reads the whole prompt, not its
last tokens. Nothing of a prompt is kept from one answer to the next.
"""

import asyncio
import copy
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer, set_seed

from engine.base.cast_folder import is_cast, places
from engine.base.errors import UserError
from engine.base.events import Step
from engine.base.sampling import TOP_K, SamplingParams
from engine.models.chat_format import endings
from engine.models.loading import load_model, load_tokenizer, locate, parse_dtype
from engine.serving.turns import Turns
from engine.serving.voice import Piece, Timings

_END = object()


async def load(name: str, turns: Turns, tell: Callable[[dict[str, Any]], None]) -> "TransformersVoice":
    """The voice of a model, fetched where needed. Raises UserError."""
    loop = asyncio.get_running_loop()

    def work() -> TransformersVoice:
        search = locate(name)
        while True:
            try:
                event = next(search)
            except StopIteration as end:
                source = end.value
                break
            if isinstance(event, Step):
                loop.call_soon_threadsafe(tell, {"event": "Loading", "model": name, "stage": event.stage, "done": event.done,
                                                 "total": event.total})
        model = load_model(source, parse_dtype("auto", own=source.own_dtype))
        return TransformersVoice(name, with_adapters(model, source.folder), load_tokenizer(source), turns)

    return await asyncio.to_thread(work)


def with_adapters(model: Any, folder: Path) -> Any:
    """The model with the adapters of its cast, where it has one with some."""
    adapted = {one.id: one.peft for one in places(folder) if one.peft} if is_cast(folder) else {}
    if not adapted:
        return model
    from peft import PeftModel

    (first, place), *others = adapted.items()
    model = PeftModel.from_pretrained(model, place, adapter_name=first)
    for id, place in others:
        model.load_adapter(place, adapter_name=id)
    return model.eval()


class TransformersVoice:
    """A model of transformers in memory; see Voice. It answers one request at a time."""

    engine = "transformers"

    def __init__(self, name: str, model: Any, tokenizer: Any, turns: Turns) -> None:
        self.name, self.model, self.vocabulary, self._turns = name, model, tokenizer, turns
        self.type = str(model.dtype).removeprefix("torch.")
        self.window = int(getattr(model.config, "max_position_embeddings", None) or 2048)
        self.bytes = sum(parameter.nbytes for parameter in model.parameters())
        self.adapter = ""

    def adapted(self, adapter: str) -> "TransformersVoice":
        """See Voice."""
        voice = copy.copy(self)
        voice.adapter = adapter if adapter in getattr(self.model, "peft_config", {}) else ""
        return voice

    def count(self, text: str) -> int:
        """The number of tokens of a text."""
        return len(self.vocabulary.encode(text, add_special_tokens=False))

    def turn(self, tokens: int, alone: bool = False) -> AbstractAsyncContextManager[None]:
        """See Voice."""
        return self._turns.of(object(), tokens, tokens)

    async def complete(self, prompt: Sequence[int], params: SamplingParams, limit: int,
                       schema: dict[str, Any] | None = None) -> AsyncGenerator[Piece, None]:
        """See Voice. Raises UserError for a schema."""
        if schema is not None:
            raise UserError("Only llama.cpp can hold an answer to a schema, and this model speaks by transformers.")
        loop, said, stop = asyncio.get_running_loop(), asyncio.Queue[Any](), threading.Event()
        put = lambda one: loop.call_soon_threadsafe(said.put_nowait, one)
        thread = loop.run_in_executor(None, self._generate, list(prompt), params, limit, put, stop)
        thread.add_done_callback(lambda _: said.put_nowait(_END))
        timings, ended, tokens = Timings(len(prompt)), endings(self.vocabulary), list[int]()
        try:
            before = ""
            while (token := await said.get()) is not _END:
                tokens.append(token)
                text = self.vocabulary.decode(tokens, skip_special_tokens=True)
                if token in ended or not text.endswith("\ufffd") or len(tokens) == limit:
                    piece, before = text[len(before):], text
                    yield Piece(piece, len(tokens), token in ended, timings)
            await thread
        finally:
            stop.set()
            await asyncio.wait({thread})

    def _generate(self, prompt: list[int], params: SamplingParams, limit: int, put: Callable[[int], Any],
                  stop: threading.Event) -> None:
        ids = torch.tensor([prompt], device=self.model.device)
        set_seed(params.seed or 0)
        draws = {"temperature": params.temperature, "top_p": params.top_p, "min_p": params.min_p or None, "top_k": TOP_K}
        with torch.inference_mode(), self._under_adapter():
            self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, streamer=_Streamer(put),
                repetition_penalty=params.repeat_penalty, eos_token_id=sorted(endings(self.vocabulary)),
                pad_token_id=self.vocabulary.eos_token_id, stopping_criteria=StoppingCriteriaList([_Stop(stop)]),
                **({"do_sample": True, **draws} if params.temperature else {"do_sample": False}))

    @contextmanager
    def _under_adapter(self) -> Iterator[None]:
        """One request is answered at a time, so the model can take its adapter."""
        if not hasattr(self.model, "peft_config"):
            yield
        elif self.adapter:
            self.model.set_adapter(self.adapter)
            yield
        else:
            with self.model.disable_adapter():
                yield

    async def read(self, prompt: Sequence[int]) -> int:
        """Nothing is kept."""
        return 0

    def close(self) -> None:
        """Free the memory."""
        self.model = None


class _Streamer(TextStreamer):
    """Hands on every new token."""

    def __init__(self, put: Callable[[int], Any]) -> None:
        self.put_token, self.prompt = put, True

    def put(self, value: torch.Tensor) -> None:
        """The prompt first, then token after token."""
        if not self.prompt:
            self.put_token(int(value.flatten()[-1]))
        self.prompt = False

    def end(self) -> None:
        """Nothing to do."""


class _Stop(StoppingCriteria):
    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> Any:
        return torch.full((len(input_ids),), self.stop.is_set(), device=input_ids.device)

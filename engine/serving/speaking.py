"""The chat worker's tasks: generators that do a little (a piece of a prompt, a token) between two yields.

A task yields an answer without its id, or None where a turn brought nothing to say. Time is counted only while a task
computes, never during the turns of others.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from engine.base.errors import UserError
from engine.base.process import is_out_of_memory
from engine.calibration.filtering import before_loop, is_looping, last_whole_sentence
from engine.cards.prompt import Fitted, Message
from engine.models.chat_format import encode_answer, encode_chat, endings, render_chat
from engine.models.kv_cache import PIECE, CachedPrompt
from engine.models.sampling import Sampler
from engine.serving.model_cache import Loaded, ModelCache, Turn
from engine.serving.requests import Request

Task = Generator[Turn, None, None]
FEWEST = 16  # tokens of an answer: with less room than this, the prompt is too long
_LOOK = 8  # tokens between two checks for repetition


class _Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


def encode(tokenizer: Any, request: Request, messages: list[Message]) -> list[int]:
    """Token ids of a request's messages, up to where the character is to speak."""
    if not request.goes_on:
        return encode_chat(tokenizer, messages)
    return [*encode_chat(tokenizer, messages[:-1]), *encode_answer(tokenizer, messages[-1]["content"].rstrip(), False)]


def fit(tokenizer: Any, request: Request, window: int) -> tuple[list[int], Fitted, int]:
    """The prompt's ids, what was left out of it, and the longest answer, in tokens, that `window` allows.

    Raises UserError where the card and the last turn alone are too long.
    """
    limit = min(request.sampling.max_tokens, window // 2)
    fitted = request.fitted(lambda messages: len(encode(tokenizer, request, messages)) + limit <= window, tokenizer)
    prompt = encode(tokenizer, request, fitted.messages)
    room = window - len(prompt)
    if room < min(limit, FEWEST):
        raise UserError(f"The card and the last message are too long for this model: {len(prompt):,} tokens, and it reads "
                        f"{window:,}.", "Shorten the card, or choose a model with a longer context.")
    return prompt, fitted, min(limit, room)


def speak(request: Request, cache: ModelCache) -> Task:
    """Answer: Said for every new piece of text, then Ended."""
    loaded = yield from _unless_stopped(cache.load(request.model), request)
    if loaded is None:
        yield {"event": "Ended", "reason": "stopped", **_Answer(request, None, [], 0, Fitted([]), 0).measures()}
        return
    with loaded.in_use():
        yield from answer(request, loaded, cache.free)


def answer(request: Request, loaded: Loaded, free: Callable[[], None] = lambda: None) -> Task:
    """Answer with a model in memory: Said for every new piece of text, then Ended. `free` makes room when memory runs out.

    The text of Ended is the answer. It is shorter than what was said where that repeated itself, or stopped at the limit
    within a sentence.
    """
    prompt, fitted, limit = fit(loaded.tokenizer, request, loaded.window)
    with loaded.conversation(prompt) as talk:
        yield from _Answer(request, loaded, prompt, limit, fitted, talk.reusable(prompt)).stream(talk, free)


def _unless_stopped(loading: Generator[Turn, None, Loaded], request: Request) -> Generator[Turn, None, Loaded | None]:
    """The value of `loading`, or None when the request was stopped meanwhile."""
    try:
        while not request.stopped:
            yield next(loading)
    except StopIteration as end:
        return end.value
    loading.close()
    return None


class _Answer:
    def __init__(self, request: Request, loaded: Loaded | None, prompt: list[int], limit: int, fitted: Fitted,
                 reused: int) -> None:
        self.request, self.loaded, self.prompt, self.fitted, self.reused = request, loaded, prompt, fitted, reused
        self.limit = limit
        self.clock = _Clock()
        self.tokens: list[int] = []
        self.text = ""
        self.first = 0.0
        self.second_try = False
        before = request.turns[-1][1].rstrip() if request.goes_on else ""
        self.before = "" if is_looping(before) else before  # the beginning of a turn that is continued

    def stream(self, talk: CachedPrompt, free: Callable[[], None]) -> Task:
        """Read the prompt, then say token after token."""
        assert self.loaded
        tokenizer = self.loaded.tokenizer
        sampler = Sampler(self.request.sampling, tokenizer, endings(tokenizer), self.prompt)
        reason = ""
        while not reason:
            logits = yield from self._logits(talk, free)
            if logits is None or self.request.stopped:
                reason = "stopped"
                break
            with self.clock.running():
                token = sampler.choose(logits)
                self.first = self.first or self.clock.seconds
                if token in sampler.endings:
                    reason = "ended"
                    break
                self.tokens.append(token)
                piece = self._piece(last=len(self.tokens) == self.limit)
                reason = self._over(piece)
            yield self._said(piece) if piece else None
        if piece := self._piece(last=True):
            yield self._said(piece)
        self._cut(reason)
        yield {"event": "Ended", "reason": reason, **self.measures()}

    def _logits(self, talk: CachedPrompt, free: Callable[[], None]) -> Generator[Turn, None, Any]:
        """The logits after the prompt and the tokens so far; None when stopped before.

        When memory runs out, once an answer, all else is freed and everything is read again.
        """
        reading = None if self.tokens else talk.read(self.prompt)
        while not self.request.stopped:
            failed = False
            try:
                with self.clock.running():
                    if reading is None:
                        return talk.advance(self.tokens[-1])
                    next(reading)
            except StopIteration as end:
                return end.value
            except Exception as error:
                if self.second_try or not is_out_of_memory(error):
                    raise
                logging.warning("out of memory in %s; trying once more", self.request.id)
                self.second_try = failed = True
            if failed:  # outside the except block, where the error still holds what was computed
                talk.clear()
                free()
                reading = talk.read([*self.prompt, *self.tokens])
            yield None
        return None

    def _said(self, piece: str) -> dict[str, Any]:
        return {"event": "Said", "text": piece, "tokens": len(self.tokens), "seconds": self.clock.seconds,
                "first_token": self.first}

    def _over(self, piece: str) -> str:
        """Why the answer ends here although the model would go on; "" where it does not."""
        count = len(self.tokens)
        if count % _LOOK == 0 and is_looping(self.before + self.text):
            return "loop"
        near = count >= self.limit - self.limit // 5
        if count == self.limit or (near and piece and self._whole() == len(self.text) and not self.text[-2:-1].isdigit()):
            return "limit"
        return ""

    def _whole(self) -> int:
        """Where the last whole sentence ends in what was said; 0: nowhere."""
        return max(last_whole_sentence(self.before + self.text) - len(self.before), 0)

    def _cut(self, reason: str) -> None:
        """Remove repetition, and at the limit half a sentence."""
        if reason != "stopped" and is_looping(self.before + self.text):
            self.text = before_loop(self.before + self.text)[len(self.before):]
        elif reason == "limit":
            self.text = self.text[: self._whole() or len(self.text)]

    def _piece(self, last: bool) -> str:
        """What can be said now: whole characters, white space only once something follows it."""
        assert self.loaded
        text = self.loaded.tokenizer.decode(self.tokens, skip_special_tokens=True)
        text = text if self.request.goes_on else text.lstrip()
        if text.endswith("\ufffd") and not last:
            return ""
        text = text.rstrip()
        piece = text[len(self.text):]
        self.text = text if piece else self.text
        return piece

    def measures(self) -> dict[str, Any]:
        """The fields of Ended but its reason."""
        lore = self.fitted.lore
        fired = [{"name": one.entry.name, "reason": one.reason, "level": one.level, "tokens": one.tokens, "outcome": one.outcome,
                  "number": one.entry.number} for one in lore.fired]
        count, seconds = len(self.tokens), self.clock.seconds
        speed = (count - 1) / max(seconds - self.first, 1e-9) if count > 1 else 0.0
        return {"text": self.text, "tokens": count, "prompt_tokens": len(self.prompt), "reused_tokens": self.reused,
                "dropped_turns": self.fitted.turns_dropped, "dropped_examples": self.fitted.examples_dropped,
                "seconds": seconds, "first_token": self.first, "tokens_per_second": speed,
                "seed": self.request.sampling.seed, **({"lore": fired} if fired else {}),
                **({"lore_faults": lore.faults} if lore.faults else {})}


def warm(request: Request, cache: ModelCache, wanted: Callable[[str], bool]) -> Task:
    """Load the model and read what every prompt of this card begins with; gives way as soon as `wanted(model)`."""
    loaded = yield from _unless_stopped(cache.load(request.model), request)
    clock, reached, known = _Clock(), 0, 0
    if loaded is not None:
        with loaded.in_use():
            prompt, target = _common_beginning(loaded, request)
            with loaded.conversation(prompt) as talk:
                reached = known = talk.reusable(prompt)
                reading = talk.read(prompt)
                while reached < target and not request.stopped and not wanted(request.model):
                    with clock.running():
                        next(reading, None)
                    reached = len(talk.tokens)
                    yield None
    yield {"event": "Warmed", "model": request.model, "tokens": reached, "reused_tokens": known, "seconds": clock.seconds}


def _common_beginning(loaded: Loaded, request: Request) -> tuple[list[int], int]:
    """A prompt of this card, and how many of its tokens, in whole pieces, are the same whatever the player says next."""
    asked = [replace(request, do="speak", turns=(*request.turns, ("user", said)), goes_on=False) for said in ("a", "0")]
    first, second = (encode(loaded.tokenizer, one, one.fitted(tokenizer=loaded.tokenizer).messages) for one in asked)
    same = next((place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), len(first))
    return first, min(same, loaded.window // 2) // PIECE * PIECE


def show_prompt(request: Request, cache: ModelCache) -> Task:
    """The exact text that the model gets, and its number of tokens."""
    tokenizer = yield from cache.tokenizer(request.model)
    messages = request.fitted(tokenizer=tokenizer).messages
    text = render_chat(tokenizer, messages[:-1] if request.goes_on else messages)
    text += messages[-1]["content"].rstrip() if request.goes_on else ""
    yield {"event": "Prompt", "text": text, "tokens": len(encode(tokenizer, request, messages))}

"""Answers in character: what a request asks of a voice, as events.

An answer is Said piece by piece, then Ended with the whole text and its measures. It is shorter than what was said where that
repeated itself, or stopped at the limit within a sentence. Seconds are of the request's own turn, without waiting for others.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from engine.base.errors import UserError
from engine.base.looping import is_looping
from engine.calibration.filtering import before_loop, last_whole_sentence
from engine.cards.prompt import Fitted, Message
from engine.models.chat_format import encode_answer, encode_chat, render_chat
from engine.serving.replies import fault_in
from engine.serving.requests import Request
from engine.serving.voice import Piece, Timings, Voice
from engine.serving.voices import Tell, Voices

Event = dict[str, Any]
T = TypeVar("T")
FEWEST = 16  # tokens of an answer: with less room than this, the prompt is too long
WARM_PIECE = 256  # tokens of an opening that are read in one go; an answer waits no longer than for these
_LOOK = 8  # tokens between two checks for repetition


def encode(vocabulary: Any, request: Request, messages: list[Message]) -> list[int]:
    """Token ids of a request's messages, up to where the character is to speak."""
    if not request.goes_on:
        return encode_chat(vocabulary, messages)
    return [*encode_chat(vocabulary, messages[:-1]), *encode_answer(vocabulary, messages[-1]["content"].rstrip(), False)]


def fit(vocabulary: Any, request: Request, window: int) -> tuple[list[int], Fitted, int]:
    """The prompt's ids, what was left out of it, and the longest answer, in tokens, that `window` allows.

    Raises UserError where the card and the last turn alone are too long.
    """
    limit = min(request.sampling.max_tokens, window // 2)
    fitted = request.fitted(lambda messages: len(encode(vocabulary, request, messages)) + limit <= window, vocabulary)
    prompt = encode(vocabulary, request, fitted.messages)
    room = window - len(prompt)
    if room < min(limit, FEWEST):
        raise UserError(f"The card and the last message are too long for this model: {len(prompt):,} tokens, and it reads "
                        f"{window:,}.", "Shorten the card, or choose a model with a longer context.")
    return prompt, fitted, min(limit, room)


class Stopped(Exception):
    """The request was stopped."""


async def unless_stopped(work: Awaitable[T], request: Request) -> T:
    """The value of `work`; it is cancelled, and Stopped is raised, as soon as the request is stopped."""
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(request.stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Stopped
        return task.result()
    finally:
        stop.cancel()
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


@asynccontextmanager
async def voice_for(request: Request, voices: Voices, tell: Tell) -> AsyncIterator[Voice]:
    """The voice that a request names, loaded where needed. Raises Stopped, UserError."""
    use = voices.use(request.model, request.type, tell)
    voice = await unless_stopped(use.__aenter__(), request)
    try:
        yield voice
    finally:
        await use.__aexit__(None, None, None)


async def speak(request: Request, voices: Voices, tell: Tell = lambda event: None) -> AsyncGenerator[Event, None]:
    """Answer with the model that the request names; `tell` hears of its loading. Raises UserError."""
    try:
        async with voice_for(request, voices, tell) as voice, aclosing(answer(request, voice)) as events:
            async for event in events:
                yield event
    except Stopped:  # while it was loaded
        yield Answer(request, reason="stopped").ended()


async def answer(request: Request, voice: Voice) -> AsyncGenerator[Event, None]:
    """Reading while a long prompt is read, Said for every new piece of text, then Ended. Breaking it off stops the computing.

    Raises UserError.
    """
    prompt, fitted, limit = await asyncio.to_thread(fit, voice.vocabulary, request, voice.window)
    said = Answer(request, voice, len(prompt), limit, fitted)
    try:
        async with AsyncExitStack() as stack:
            await unless_stopped(stack.enter_async_context(voice.turn(len(prompt) + limit)), request)
            said.begin()
            pieces = await stack.enter_async_context(
                aclosing(voice.complete(prompt, request.sampling, limit, request.schema)))
            while not said.reason:
                try:
                    piece = await unless_stopped(anext(pieces), request)
                except StopAsyncIteration:
                    said.reason = "limit"
                    break
                if piece.reading:
                    yield {"event": "Reading", "done": piece.reading[0], "total": piece.reading[1]}
                elif text := said.take(piece):
                    yield said.heard(text)
    except Stopped:
        said.reason = "stopped"
    if text := said.rest():
        yield said.heard(text)
    if request.schema is not None and said.reason == "ended" and (fault := fault_in(said.text, request.schema)):
        raise UserError(f"The model could not be held to the JSON schema. {fault}", "Use a simpler schema.")
    yield said.ended()


class Answer:
    """An answer as it grows: what of it is said, when it is over, and what is kept of it."""

    def __init__(self, request: Request, voice: Voice | None = None, prompt_tokens: int = 0, limit: int = 0,
                 fitted: Fitted | None = None, reason: str = "") -> None:
        self.request, self.voice, self.limit, self.fitted = request, voice, limit, fitted or Fitted([])
        self.timings = Timings(prompt_tokens)
        self.tokens = 0
        self.raw = self.text = ""
        self.reason = reason
        self.began = 0.0
        self.first = self.seconds = 0.0
        before = request.turns[-1][1].rstrip() if request.goes_on else ""
        self.before = "" if is_looping(before) else before  # the beginning of a turn that is continued

    def begin(self) -> None:
        """Its time begins."""
        self.began = time.perf_counter()

    def take(self, piece: Piece) -> str:
        """Take a piece in; what can be said now. Sets `reason` where the answer is over."""
        self.seconds = time.perf_counter() - self.began
        self.first = self.first or self.seconds
        self.timings = piece.timings if piece.timings.prompt_tokens else self.timings
        self.raw += piece.text
        grown, self.tokens = piece.tokens > self.tokens, piece.tokens
        if piece.ended:
            self.tokens -= 1 if grown else 0  # the ending is no word
            self.reason = "ended"
            return ""
        text = self._sayable()
        self.reason = self._over(text) if grown and self.request.schema is None else ""
        return text

    def rest(self) -> str:
        """What was held back, at the end. Removes repetition from the text, and at the limit half a sentence."""
        text = self._sayable()
        if self.request.schema is not None:
            return text
        if self.reason != "stopped" and is_looping(self.before + self.text):
            self.text = before_loop(self.before + self.text)[len(self.before):]
        elif self.reason == "limit":
            self.text = self.text[: self._whole() or len(self.text)]
        return text

    def _sayable(self) -> str:
        """What is new: white space only once something follows it."""
        text = (self.raw if self.request.goes_on else self.raw.lstrip()).rstrip()
        new = text[len(self.text):]
        self.text = text if new else self.text
        return new

    def _over(self, new: str) -> str:
        """Why the answer ends here although the model would go on; "" where it does not."""
        if self.tokens % _LOOK == 0 and is_looping(self.before + self.text):
            return "loop"
        near = self.tokens >= self.limit - self.limit // 5
        if self.tokens >= self.limit or (near and new and self._whole() == len(self.text)
                                         and not self.text[-2:-1].isdigit()):
            return "limit"
        return ""

    def _whole(self) -> int:
        """Where the last whole sentence ends in what was said; 0: nowhere."""
        return max(last_whole_sentence(self.before + self.text) - len(self.before), 0)

    def heard(self, text: str) -> Event:
        """The event for a piece."""
        return {"event": "Said", "text": text, "tokens": self.tokens, "seconds": self.seconds, "first_token": self.first}

    def ended(self) -> Event:
        """The last event."""
        lore, voice = self.fitted.lore, self.voice
        fired = [{"name": one.entry.name, "reason": one.reason, "level": one.level, "tokens": one.tokens, "outcome": one.outcome,
                  "number": one.entry.number} for one in lore.fired]
        speed = (self.tokens - 1) / max(self.seconds - self.first, 1e-9) if self.tokens > 1 else 0.0
        return {"event": "Ended", "reason": self.reason, "text": self.text, "tokens": self.tokens,
                "prompt_tokens": self.timings.prompt_tokens, "reused_tokens": self.timings.reused,
                "dropped_turns": self.fitted.turns_dropped, "dropped_examples": self.fitted.examples_dropped,
                "seconds": self.seconds, "first_token": self.first, "tokens_per_second": speed,
                "seed": self.request.sampling.seed, "type": voice.type if voice else "", "engine": voice.engine if voice else "",
                **({"lore": fired} if fired else {}), **({"lore_faults": lore.faults} if lore.faults else {})}


async def warm(request: Request, voice: Voice, wanted: Callable[[], bool] = lambda: False) -> Event:
    """Read what every prompt of this card begins with, piece by piece; gives way as soon as it is `wanted`, or stopped."""
    prompt = await asyncio.to_thread(common_beginning, voice, request)
    start, known, reached = time.perf_counter(), None, 0
    while reached < len(prompt) and not request.stopped and not wanted():
        reached = min(reached + WARM_PIECE, len(prompt))
        async with voice.turn(reached, alone=True):
            reused = await voice.read(prompt[:reached])
        known = reused if known is None else known
    return {"event": "Warmed", "model": request.model, "tokens": reached, "reused_tokens": known or 0,
            "seconds": time.perf_counter() - start}


def common_beginning(voice: Voice, request: Request) -> list[int]:
    """The tokens of a prompt of this card that are the same whatever the player says next, at most half of the window."""
    asked = [replace(request, do="speak", turns=(*request.turns, ("user", said)), goes_on=False) for said in ("a", "0")]
    first, second = (encode(voice.vocabulary, one, one.fitted(tokenizer=voice.vocabulary).messages) for one in asked)
    same = next((place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), len(first))
    return first[:min(same, voice.window // 2)]


def show_prompt(request: Request, voice: Voice) -> Event:
    """The exact text that the model gets, and its number of tokens."""
    messages = request.fitted(tokenizer=voice.vocabulary).messages
    text = render_chat(voice.vocabulary, messages[:-1] if request.goes_on else messages)
    text += messages[-1]["content"].rstrip() if request.goes_on else ""
    return {"event": "Prompt", "text": text, "tokens": len(encode(voice.vocabulary, request, messages))}

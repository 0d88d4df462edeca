"""Asking a model: each of the player's lines is answered before the next.

About as in a chat: the greeting first, then the lines. The model is loaded for this alone. Before each conversation it is brought
back to what all of them begin with, so that an answer depends on its own conversation, and not on what was asked before.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, Self

from engine.base.errors import UserError
from engine.base.events import Step, Stream
from engine.base.ids import StageId
from engine.base.sampling import SamplingParams
from engine.cards.card import Card
from engine.cards.prompt import USUAL, Setting
from engine.serving.files import common_type, folder_of
from engine.serving.requests import Request
from engine.serving.speaking import WARM_PIECE, Event, answer, common_beginning, voice_for
from engine.serving.steps import HEARTBEAT, Loop
from engine.serving.voices import Tell, Voices

SILENCE = "..."  # stands for an empty answer in the rest of its conversation
Said = tuple[str, str]  # an answer, and why it ended (ids.FinishReason)


def shared_type(models: Sequence[str]) -> str:
    """The GGUF type at which all models speak; those that are not there are asked later, and say so themselves."""
    known = []
    for model in models:
        with suppress(UserError):
            folder_of(model)
            known.append(model)
    return common_type(*known)


def hear(loop: Loop, answer: AsyncGenerator[Event, None], loading: list[dict[str, Any]], beat: Step) -> Stream[Event]:
    """The last event of an answer. `loading`: where the events of loading its model arrive, which are passed on as steps.

    `beat` comes at least every HEARTBEAT seconds, so that the caller can stop.
    """
    last, ended = time.monotonic(), dict[str, Any]()
    for event in loop.each(answer):
        if event and event["event"] == "Ended":
            ended = event
        elif known := [one for one in loading if one.get("total")]:
            yield Step(StageId.FETCH, int(known[-1]["done"]), int(known[-1]["total"]), subject=beat.subject)
        elif time.monotonic() - last > HEARTBEAT:
            last = time.monotonic()
            yield replace(beat, time=time.time())
        loading.clear()
    return ended


class Interview:
    """A model that speaks as a card, loaded when it is first asked; the block around it frees its memory."""

    def __init__(self, model: str, card: Card, sampling: SamplingParams, type: str, setting: Setting = USUAL) -> None:
        self._request = Request("speak", "", model, card, setting=setting, sampling=sampling, type=type)
        self._voices, self._loop = Voices(keep=1, slots=1), Loop()
        self._opening: list[int] = []  # what it has read of what every conversation begins with

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free its memory."""
        self._voices.close()
        self._loop.close()

    def ask(self, lines: Sequence[str], beat: Step) -> Stream[list[Said]]:
        """The answers to the player's lines. See `answer`."""
        turns, answers = self.opening, list[Said]()
        for line in lines:
            turns.append(("user", line))
            answers.append((yield from self.answer(turns, beat, first=not answers)))
            turns.append(("assistant", answers[-1][0] or SILENCE))
        return answers

    @property
    def opening(self) -> list[tuple[str, str]]:
        """What every conversation begins with, as turns: the greeting, where the card has one."""
        assert self._request.card
        greeting = self._request.card.greeting
        return [("assistant", greeting)] if greeting.strip() else []

    def answer(self, turns: Sequence[tuple[str, str]], beat: Step, seed: int | None = None, first: bool = True) -> Stream[Said]:
        """The answer to the last of the turns; `first`: nothing of this conversation was asked before.

        `beat` comes at least every HEARTBEAT seconds, so that the caller can stop. Raises UserError where the model cannot be used.
        """
        sampling = self._request.sampling
        opening = replace(self._request, turns=tuple(self.opening),
                          sampling=sampling if seed is None else replace(sampling, seed=seed))
        loading: list[dict[str, Any]] = []
        ended = yield from hear(self._loop, self._answer(opening, tuple(turns), first, loading.append), loading, beat)
        return ended["text"].strip(), ended["reason"]

    async def _answer(self, opening: Request, turns: tuple[tuple[str, str], ...], first: bool,
                      tell: Tell) -> AsyncGenerator[Event, None]:
        """The events of an answer. `opening`: the conversation before its first line, which is read again before the `first`."""
        async with voice_for(opening, self._voices, tell) as voice:
            if first:
                target = common_beginning(voice, opening)
                pieces = range(WARM_PIECE, len(target), WARM_PIECE) if target != self._opening else ()
                for reached in (*pieces, len(target), len(target)):  # the last token is read alone, the first time too
                    await voice.read(target[:reached])
                self._opening = target
            async with aclosing(answer(replace(opening, turns=turns), voice)) as events:
                async for event in events:
                    yield event

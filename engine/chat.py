"""Chat in the terminal: the prompt, samplers and endings of the chat worker."""

import argparse
import json
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from engine.base.events import Step
from engine.base.sampling import SamplingParams
from engine.cards.card import Card
from engine.cards.prompt import render_greeting
from engine.running import ProgressPrinter
from engine.serving.requests import Request
from engine.serving.speaking import speak
from engine.serving.steps import Loop
from engine.serving.voices import Voices

HOW_TO_END = "(An empty line or Ctrl-D ends the chat.)"


class Speaker:
    """A character that answers with a model, which is kept in `voices`; `loop` does their work."""

    def __init__(self, card: Card, model: str, type: str, voices: Voices, loop: Loop) -> None:
        self.card, self.model, self.type, self.voices, self.loop = card, model, type, voices, loop
        self.history: list[tuple[str, str]] = []  # the turns so far, as (role, text)

    def load(self) -> None:
        """Load the model, fetching it and making its file where needed, with progress."""
        told: list[dict[str, Any]] = []

        async def get() -> AsyncGenerator[None, None]:
            await self.voices.get(self.model, self.type, told.append)
            return
            yield

        with ProgressPrinter() as printer:
            for _ in self.loop.each(get()):
                for event in told:
                    if event.get("total"):
                        printer.show(Step(event["stage"], event["done"], event["total"]))
                told.clear()

    def events(self, message: str, params: SamplingParams) -> Iterator[dict[str, Any]]:
        """The events of the reply, Said ... and Ended, as the chat worker tells them. The turn is kept when it ends."""
        message = message.encode("utf-8", "replace").decode()  # bytes that were no UTF-8 are surrogates here
        opening = [("assistant", self.card.greeting)] if render_greeting(self.card) else []

        async def reply() -> AsyncGenerator[dict[str, Any], None]:
            request = Request("speak", "chat", self.model, self.card, (*opening, *self.history, ("user", message)),
                              sampling=params.with_seed(), type=self.type)
            async with aclosing(speak(request, self.voices)) as events:
                async for event in events:
                    yield event

        for event in filter(None, self.loop.each(reply())):
            yield event
            if event["event"] == "Ended":
                self.history += [("user", message), ("assistant", event["text"].strip())]

    def print_reply(self, message: str, params: SamplingParams) -> None:
        """Print the reply (in a terminal as it comes, else its final text), then its speed on standard error."""
        ended: dict[str, Any] = {}
        for ended in self.events(message, params):
            if ended["event"] == "Said" and sys.stdout.isatty():
                print(ended["text"], end="", flush=True)
        print("" if sys.stdout.isatty() else ended["text"])
        print(f"({_facts(ended)})", file=sys.stderr)

    def whole_reply(self, message: str, params: SamplingParams) -> dict[str, Any]:
        """The reply and its measures as plain values."""
        *_, last = self.events(message, params)
        return {"character": self.card.char, "message": self.history[-2][1], "reply": self.history[-1][1],
                "tokens": last["tokens"], "seconds_to_first_token": last["first_token"] if last["tokens"] else None,
                "tokens_per_second": last["tokens_per_second"] if last["tokens"] else None, "ended": last["reason"]}


def chat(speaker: Speaker, params: SamplingParams, options: argparse.Namespace) -> int:
    """Answer --message, or whatever is typed until an empty line or the end of input."""
    speaker.load()
    if options.message is not None:
        _ask(speaker, options.message, params, options.json)
        return 0
    if greeting := render_greeting(speaker.card):
        print(f"{speaker.card.char}: {greeting}")
    print(HOW_TO_END)
    try:
        while message := input("You: ").strip():
            _ask(speaker, message, params, options.json, named=True)
    except EOFError:
        print()
    return 0


def _ask(speaker: Speaker, message: str, params: SamplingParams, as_json: bool, named: bool = False) -> None:
    if as_json:
        print(json.dumps(speaker.whole_reply(message, params), ensure_ascii=False))
        return
    print(f"{speaker.card.char}: " if named else "", end="", flush=True)
    speaker.print_reply(message, params)


def _facts(ended: dict[str, Any]) -> str:
    """The measures of an answer, and which part of the printed text is not kept."""
    facts = [f"{ended['tokens']} tokens, first after {ended['first_token']:.2f} s, {ended['tokens_per_second']:.1f} tokens/s"]
    if ended["reason"] == "loop":
        facts.append(f"it began to repeat itself; what is kept of it ends with “{ended['text'][-40:]}”")
    elif ended["reason"] == "limit":
        facts.append("cut at the longest answer (--max-tokens)")
    return "; ".join(facts)

"""A conversation with a character on any model, as the chat worker has it: the same prompt, samplers and endings.

For the command line; knows no storage.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.base.sampling import SamplingParams
from engine.cards.card import Card
from engine.cards.prompt import Setting, messages, render_greeting
from engine.console import ProgressPrinter
from engine.models.chat_format import encode_chat, token_counter
from engine.models.loading import load_model, load_tokenizer, locate, parse_dtype
from engine.serving.requests import Request
from engine.serving.shelf import Loaded
from engine.serving.speaking import answer, fit

HOW_TO_END = "(An empty line or Ctrl-D ends the chat.)"


@dataclass
class Speaker:
    """A character that answers; `history` holds the turns so far as (role, text)."""

    card: Card
    loaded: Loaded
    history: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def load(cls, model: str, card: Card, dtype: str, printer: ProgressPrinter) -> "Speaker":
        """Load the model (fetching it if need be, with progress)."""
        source = printer.finish(locate(model))
        loaded = load_model(source, parse_dtype(dtype, own=source.own_dtype))
        return cls(card, Loaded(source.name, loaded, load_tokenizer(source)))

    @property
    def greeting(self) -> str:
        """The character's first words."""
        return render_greeting(self.card)

    def request(self, message: str, params: SamplingParams) -> Request:
        """What a message asks of the model."""
        opening = [("assistant", self.card.greeting)] if self.greeting else []
        return Request("speak", "chat", self.loaded.name, self.card, (*opening, *self.history, ("user", _clean(message))),
                       sampling=params.with_seed())

    def prompt(self, message: str, params: SamplingParams) -> list[int]:
        """Ids of the conversation with one more message, without what leaves no room for an answer."""
        return fit(self.loaded.tokenizer, self.request(message, params), self.loaded.window)[0]

    def keep(self, message: str, said: str) -> None:
        """Keep a turn: what was asked and answered."""
        self.history = [*self.history, ("user", _clean(message)), ("assistant", said.strip())]

    def opening(self) -> list[int]:
        """Ids with which every prompt begins, but for the last few."""
        tokenizer = self.loaded.tokenizer
        return encode_chat(tokenizer, messages(self.card, [], Setting(count=token_counter(tokenizer))), False)

    def events(self, message: str, params: SamplingParams) -> Iterator[dict[str, Any]]:
        """The reply as the chat worker tells it: Said ..., Ended. The turn is kept when it ends."""
        for event in answer(self.request(message, params), self.loaded):
            if event:
                yield event
                if event["event"] == "Ended":
                    self.keep(message, event["text"])

    def print_reply(self, message: str, params: SamplingParams) -> None:
        """Print the reply (in a terminal as it comes, else what is kept of it), then its speed on standard error."""
        ended: dict[str, Any] = {}
        for ended in self.events(message, params):
            if ended["event"] == "Said" and sys.stdout.isatty():
                print(ended["text"], end="", flush=True)
        print("" if sys.stdout.isatty() else ended["text"])
        print(f"({_facts(ended)})", file=sys.stderr)

    def reply_whole(self, message: str, params: SamplingParams) -> dict[str, Any]:
        """The reply and its measures as plain values."""
        *_, last = self.events(message, params)
        return {"character": self.card.char, "message": self.history[-2][1], "reply": self.history[-1][1],
                "tokens": last["tokens"], "seconds_to_first_token": last["first_token"] if last["tokens"] else None,
                "tokens_per_second": last["tokens_per_second"] if last["tokens"] else None, "ended": last["reason"]}


def converse(ask: Callable[[str], None]) -> None:
    """Ask whoever sits there for messages, and give each to `ask`, until an empty line or the end of input."""
    while True:
        try:
            message = input("You: ").strip()
        except EOFError:
            print()
            return
        if not message:
            return
        ask(message)


def _clean(message: str) -> str:
    return message.encode("utf-8", "replace").decode()  # bytes that were no UTF-8 are surrogates here


def _facts(ended: dict[str, Any]) -> str:
    """How an answer came about, and what of the printed text is not kept."""
    facts = [f"{ended['tokens']} tokens, first after {ended['first_token']:.2f} s, {ended['tokens_per_second']:.1f} tokens/s"]
    if ended["reason"] == "loop":
        facts.append(f"it began to repeat itself; what is kept of it ends with “{ended['text'][-40:]}”")
    elif ended["reason"] == "limit":
        facts.append("cut at the longest answer (--max-tokens)")
    return "; ".join(facts)

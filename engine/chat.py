"""A conversation with a character on any model: the persona's prompt is encoded once and its cache kept.

For the command line; knows no storage.
"""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.base.errors import UserError
from engine.cards.card import Card
from engine.cards.prompt import Message, Setting, fit, messages, render_greeting
from engine.console import ProgressPrinter
from engine.models.chat_format import encode_chat, endings, token_counter
from engine.models.generation import Conversation, Spoken, speak
from engine.models.loading import load_model, load_tokenizer, locate, parse_dtype
from engine.models.sampling import Sampling

HOW_TO_END = "(An empty line or Ctrl-D ends the chat.)"


@dataclass
class Speaker:
    """A character that answers; `history` holds the turns so far as (role, text)."""

    card: Card
    tokenizer: Any
    conversation: Conversation
    history: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def load(cls, model: str, card: Card, dtype: str, printer: ProgressPrinter) -> "Speaker":
        """Load the model (fetching it if need be, with progress)."""
        source = printer.finish(locate(model))
        loaded = load_model(source, parse_dtype(dtype, own=source.own_dtype))
        return cls(card, load_tokenizer(source), Conversation(loaded))

    @property
    def greeting(self) -> str:
        """The character's first words."""
        return render_greeting(self.card)

    def asked(self, message: str, options: argparse.Namespace) -> tuple[list[int], Sampling]:
        """The prompt that a message makes, and how its answer is drawn. Raises UserError for settings that cannot be."""
        if not 0 <= options.temperature < math.inf or options.limit < 1 or not 0 <= options.seed < 2**32:
            raise UserError("The temperature and the seed must not be negative (nor huge), and the limit must be at least 1.")
        prompt = self._prompt([*self.history, ("user", _clean(message))], options.limit)
        return prompt, Sampling(endings(self.tokenizer), options.limit, options.temperature, 0.95, options.seed)

    def keep(self, message: str, said: str) -> None:
        """Keep a turn: what was asked and answered."""
        self.history = [*self.history, ("user", _clean(message)), ("assistant", said.strip())]

    def opening(self) -> list[int]:
        """Ids with which every prompt begins, but for the last few."""
        return encode_chat(self.tokenizer, messages(self.card, [], Setting(count=token_counter(self.tokenizer))), False)

    def pieces(self, message: str, options: argparse.Namespace) -> Any:
        """Stream the reply to a message; the turn is kept when it ends."""
        prompt, sampling = self.asked(message, options)
        said = ""
        for piece in speak(self.conversation, self.tokenizer, prompt, sampling):
            said += piece.text
            yield piece
        self.keep(message, said)

    def _prompt(self, turns: list[tuple[str, str]], limit: int) -> list[int]:
        """Ids of the conversation, without what leaves no room for `limit` tokens of an answer."""
        window = int(getattr(self.conversation.model.config, "max_position_embeddings", None) or 2048)
        setting = Setting(count=token_counter(self.tokenizer))
        opening = [("assistant", self.card.greeting)] if self.greeting else []

        def fits(prompt: list[Message]) -> bool:
            return len(encode_chat(self.tokenizer, prompt)) + min(limit, window // 2) <= window

        return encode_chat(self.tokenizer, fit(self.card, [*opening, *turns], setting, fits).messages)

    def print_reply(self, message: str, options: argparse.Namespace) -> None:
        """Print the reply as it comes, then its speed on standard error."""
        last: Spoken | None = None
        for last in self.pieces(message, options):
            print(last.text, end="", flush=True)
        print()
        if last:
            print(f"({last.tokens} tokens, first after {last.first_token:.2f} s, {_speed(last):.1f} tokens/s)", file=sys.stderr)

    def reply_whole(self, message: str, options: argparse.Namespace) -> dict[str, Any]:
        """The reply and its measures as plain values."""
        pieces = list(self.pieces(message, options))
        last = pieces[-1] if pieces else None
        return {"character": self.card.char, "message": self.history[-2][1], "reply": self.history[-1][1],
                "tokens": last.tokens if last else 0, "seconds_to_first_token": last.first_token if last else None,
                "tokens_per_second": _speed(last) if last else None}


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


def _speed(spoken: Spoken) -> float:
    """Tokens a second after the first one."""
    return (spoken.tokens - 1) / max(spoken.seconds - spoken.first_token, 1e-9) if spoken.tokens > 1 else 0.0

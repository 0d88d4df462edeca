"""One answer as a stream, over a conversation whose cache is kept between turns.

This module knows token ids and a tokenizer, not characters.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.cache import growing_cache
from engine.models.ffn import project_logits
from engine.models.sampling import Sampling, choose
from engine.models.steps import Reader


class Conversation:
    """A model's key-value cache over a growing conversation; what two prompts share is computed once."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.reader = Reader(model)
        self.cache: Any = growing_cache()
        self.tokens: list[int] = []

    @torch.inference_mode()
    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Logits (1, vocabulary) after `tokens`, the whole conversation so far; reuses the longest common prefix."""
        shared = 0
        limit = min(len(self.tokens), len(tokens) - 1)
        while shared < limit and self.tokens[shared] == tokens[shared]:
            shared += 1
        self.tokens = self.tokens[:shared]  # if what follows is interrupted, the next call cuts the cache to this
        for layer in self.cache.layers:
            layer.truncate(shared)
        last = self.reader.read(tokens[shared:], shared, self.cache)
        self.tokens = list(tokens)
        return project_logits(self.model, last)

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Generator[int, None, bool]:
        """Answer tokens one by one; returns whether the answer ended by itself."""
        generator = torch.Generator().manual_seed(sampling.seed)
        tokens = list(prompt)
        for _ in range(sampling.limit):
            token = int(choose(self.advance(tokens), sampling, generator))
            if token in sampling.endings:
                return True
            tokens.append(token)
            yield token
        return False


@dataclass(frozen=True)
class Spoken:
    """A piece of text of a streamed answer; `first_token` and `seconds` are seconds since its start."""

    text: str
    tokens: int
    seconds: float
    first_token: float


def speak(conversation: Conversation, tokenizer: Any, prompt: Sequence[int], sampling: Sampling) -> Iterator[Spoken]:
    """Stream an answer as text: each piece is what is new and whole (no half characters)."""
    start = time.perf_counter()
    tokens: list[int] = []
    shown, text, first = "", "", 0.0
    for token in conversation.stream(prompt, sampling):
        first = first or time.perf_counter() - start
        tokens.append(token)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            yield Spoken(text[len(shown):], len(tokens), time.perf_counter() - start, first)
            shown = text
    if tokens and len(text) > len(shown):
        yield Spoken(text[len(shown):], len(tokens), time.perf_counter() - start, first)

"""One answer as a stream, over a conversation whose cache is kept between turns: for measurements.

This module knows token ids, not characters.
"""

from collections.abc import Generator, Sequence
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

"""A conversation whose answers repeat to the bit, however much of the prompt was known before.

The last bits of a token's state depend on how many tokens were computed at once.
A prompt is therefore read in whole pieces of PIECE tokens, counted from its first
token, and a rest; only whole pieces are ever used again, or all of it when the
same prompt comes once more. What was reused thus changes the time that an answer
takes, and never the answer. This module knows token ids, not characters.
"""

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.cache import growing_cache
from engine.models.ffn import project_logits
from engine.models.steps import Reader

PIECE = 64  # tokens: reading 512 takes a tenth longer than in pieces of 128, and others wait half as long for their turn


class SteadyConversation:
    """A model's key-value cache over one prompt and the answer that grows behind it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.reader = Reader(model)
        self.clear()

    def clear(self) -> None:
        """Forget everything, and let go of the memory."""
        self.cache: Any = growing_cache()
        self.tokens: list[int] = []  # what the cache holds, the answer included
        self.whole = 0  # so many leading tokens were read in whole pieces
        self.prompt: list[int] = []  # the last prompt that was read to its end, and what it predicts
        self.predicted: Tensor | None = None

    def reusable(self, tokens: Sequence[int]) -> int:
        """How many leading tokens of a prompt need not be computed again."""
        if self.predicted is not None and list(tokens) == self.prompt:
            return len(tokens)
        limit = min(self.whole, (len(tokens) - 1) // PIECE * PIECE)
        shared = 0
        while shared < limit and self.tokens[shared] == tokens[shared]:
            shared += 1
        return shared // PIECE * PIECE

    def read(self, tokens: Sequence[int]) -> Generator[None, None, Tensor]:
        """Read a prompt piece by piece, a yield after each; the value is the logits (1, vocabulary) that follow it."""
        known = self.reusable(tokens)
        if known == len(tokens):
            assert self.predicted is not None
            self._keep(known)
            return self.predicted
        self._keep(known)
        while True:
            piece = tokens[len(self.tokens): len(self.tokens) + PIECE]
            logits = self._compute(piece)
            if len(self.tokens) == len(tokens):
                self.prompt, self.predicted = list(tokens), logits
                return logits
            yield

    def advance(self, token: int) -> Tensor:
        """Logits (1, vocabulary) after one more token of the answer."""
        return self._compute([token])

    def copy(self, length: int) -> "SteadyConversation":
        """A conversation of its own that begins with the first `length` tokens, whole pieces, of this one."""
        assert length % PIECE == 0 and length <= self.whole
        other = SteadyConversation(self.model)
        for index, layer in enumerate(self.cache.layers if length else []):
            other.cache.update(layer.keys[:, :, :length], layer.values[:, :, :length], index)
        other.tokens, other.whole = self.tokens[:length], length
        return other

    def _keep(self, length: int) -> None:
        """Forget what lies behind the first `length` tokens."""
        self.tokens = self.tokens[:length]
        self.whole = min(self.whole, length)
        if length < len(self.prompt):
            self.prompt, self.predicted = [], None
        for layer in self.cache.layers:
            layer.truncate(length)

    @torch.inference_mode()
    def _compute(self, fresh: Sequence[int]) -> Tensor:
        start = len(self.tokens)
        for layer in self.cache.layers:
            layer.truncate(start)  # an earlier call may have failed half-way
        logits = project_logits(self.model, self.reader.read(fresh, start, self.cache))
        self.tokens += fresh
        if len(fresh) == PIECE and self.whole == start:
            self.whole = len(self.tokens)
        return logits

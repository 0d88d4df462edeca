"""Drawing the tokens of a chat's answer: llama.cpp's samplers against repetition and nonsense, before `choose`.

This module knows token ids and a tokenizer, no characters. Calibration draws by `choose` alone.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from engine.base.sampling import SamplingParams
from engine.models.sampling import Sampling, choose

BREAKERS = frozenset('\n:"*')  # llama.cpp's: a phrase that DRY knows again does not run across these
_LONGEST = 50  # tokens of a phrase: longer ones are not told apart


def dry_lengths(tokens: Sequence[int], breaks: Sequence[bool], vocabulary: int) -> Tensor:
    """For each token of the vocabulary, (V,): the longest end of `tokens` that it has followed before, in tokens.

    `breaks`: tokens at which a phrase ends; they may follow anything. Source: DRY,
    github.com/oobabooga/text-generation-webui/pull/5677.
    """
    said, last = torch.tensor(list(tokens), dtype=torch.long), len(tokens) - 1
    lengths = torch.zeros(vocabulary, dtype=torch.long)
    goes_on = ~torch.tensor(list(breaks), dtype=torch.bool)[1:]
    ends = goes_on.nonzero()[:, 0]  # where an earlier phrase ends; the token after it is the one to avoid
    for length in range(min(_LONGEST, len(tokens))):  # tokens that match so far
        place = last - length
        ends = ends[ends >= length]
        ends = ends[said[ends - length] == said[place]] if not breaks[place] else ends[:0]
        if not len(ends):
            break
        lengths[said[ends + 1]] = length + 1
    return lengths


class Sampler:
    """Draws one answer's tokens, one after another; a seed decides all of them."""

    def __init__(self, params: SamplingParams, tokenizer: Any, endings: frozenset[int], prompt: Sequence[int]) -> None:
        assert params.seed is not None
        self.params, self.endings, self.tokenizer = params, endings, tokenizer
        self.sampling = Sampling(endings, params.max_tokens, params.temperature, params.top_p, params.seed)
        self.generator = torch.Generator().manual_seed(params.seed)
        self.control = endings | set(tokenizer.all_special_ids)
        self.recent: deque[int] = deque(maxlen=params.repeat_last_n)  # what the repetition penalty reads
        self.phrases: deque[int] = deque(maxlen=params.dry_penalty_last_n)  # what DRY reads, and where phrases end
        self.breaks: deque[bool] = deque(maxlen=params.dry_penalty_last_n)
        for token in prompt[-max(params.repeat_last_n, params.dry_penalty_last_n, 1):]:
            self._remember(token)

    def choose(self, logits: Tensor) -> int:
        """The next token, from logits (1, vocabulary) in fp32."""
        token = int(choose(self._adjusted(logits), self.sampling, self.generator))
        self._remember(token)
        return token

    def _remember(self, token: int) -> None:
        self.recent.append(token)
        self.phrases.append(token)
        self.breaks.append(token in self.control or not BREAKERS.isdisjoint(self.tokenizer.decode([token])))

    def _adjusted(self, logits: Tensor) -> Tensor:
        """The logits after the repetition penalty, DRY and min-p. Control tokens are never made less likely: they end answers."""
        params, scores = self.params, logits
        words = [token for token in self.recent if token not in self.control]
        if params.repeat_penalty != 1 and words:
            scores = RepetitionPenaltyLogitsProcessor(params.repeat_penalty)(torch.tensor([words], device=logits.device), scores)
        if params.dry_multiplier:
            lengths = dry_lengths(self.phrases, self.breaks, scores.shape[-1])
            penalty = params.dry_multiplier * params.dry_base ** (lengths - params.dry_allowed_length).double()
            scores = scores - penalty.where(lengths >= params.dry_allowed_length, 0.0).to(scores)
        if params.min_p:
            scores = scores.masked_fill(scores < scores.amax(-1, keepdim=True) + math.log(params.min_p), -math.inf)
        return scores

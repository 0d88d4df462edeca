"""Sampling many answers at once after one shared prefix, for calibration. Chats are llama.cpp's (engine/serving).

The persona's prompt is computed once and its keys are kept once; the rows of the batch hold only what is
their own. transformers' `generate` would copy the prompt's cache into every row, which on two cores costs more than the
answers. llama.cpp's slots side by side write fewer tokens a second, and without steps.py a batch takes a third longer.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.base.sampling import TOP_K
from engine.models.attention import Prefix, after_prefix, attend_once
from engine.models.ffn import compute_dtype, decoder, project_logits
from engine.models.kv_cache import growing_cache
from engine.models.packing import additive_mask
from engine.models.steps import TokenSteps, can_step

PART = 4  # tokens


@dataclass(frozen=True)
class Sampling:
    """How to sample: temperature 0 is greedy; `limit` is the longest answer in tokens; `endings` end it."""

    endings: frozenset[int]
    limit: int
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0


@dataclass
class Sampled:
    """An answer's token ids without its ending, and whether it ended by itself."""

    tokens: list[int] = field(default_factory=list)
    complete: bool = False

    def take(self, token: int, sampling: Sampling) -> bool:
        """Add a token; whether the answer goes on."""
        self.complete = token in sampling.endings
        if not self.complete:
            self.tokens.append(token)
        return not self.complete and len(self.tokens) < sampling.limit


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """One token a row, (B,), from logits (B, vocabulary) in fp32."""
    if sampling.temperature <= 0:
        return logits.argmax(-1)
    values, tokens = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1)
    probability = (values / sampling.temperature).softmax(-1)
    before = probability.cumsum(-1) - probability  # mass of the likelier tokens
    probability = probability.masked_fill(before >= sampling.top_p, 0.0).cpu()
    drawn = torch.multinomial(probability, 1, generator=generator)
    return tokens.gather(-1, drawn.to(tokens.device))[:, 0]


class _Batch:
    """The rows of a batch: their own keys, which of these count, and the position of each key."""

    def __init__(self, model: nn.Module, prefix: Sequence[int]) -> None:
        self.model: Any = model
        self.device = next(model.parameters()).device
        cache: Any = growing_cache()
        tokens = torch.tensor([list(prefix)], device=self.device)
        decoder(model)(input_ids=tokens, past_key_values=cache, use_cache=True)
        self.prefix = Prefix([layer.keys[0].contiguous() for layer in cache.layers],
                             [layer.values[0].contiguous() for layer in cache.layers])
        self.cache = growing_cache()
        self.positions = torch.zeros(0, 0, dtype=torch.long, device=self.device)  # (B, S); -1: padding
        self.steps = TokenSteps(model) if can_step(model) else None

    def advance(self, tokens: Tensor) -> Tensor:
        """Append one token (B,) to each row; final hidden states (B, d)."""
        positions = self.positions[:, -1:] + 1
        if self.steps is None:
            return self.run(tokens[:, None], positions)[:, -1]
        self.positions = torch.cat([self.positions, positions], dim=1)
        mask = torch.zeros(self.positions.shape, dtype=compute_dtype(self.model)).masked_fill_(self.positions < 0, float("-inf"))
        return self.steps.step(tokens, positions[:, 0], attend_once(self.prefix, self.cache, mask[:, None, None]))

    def run(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Append tokens (B, T) at `positions` (-1: padding); their final hidden states (B, T, d)."""
        self.positions = torch.cat([self.positions, positions], dim=1) if len(self.positions) else positions
        config, dtype = self.model.config, compute_dtype(self.model)
        mask = additive_mask(positions, self.positions, (self.positions >= 0)[:, None], config, dtype)
        self.prefix.see(positions, getattr(config, "sliding_window", None), dtype)
        output = decoder(self.model)(input_ids=tokens, position_ids=positions.clamp_min(0), attention_mask=mask,
                                     past_key_values=self.cache, use_cache=True)
        return output.last_hidden_state

    def keep_rows(self, rows: list[int]) -> None:
        """Continue with some of the rows only."""
        index = torch.tensor(rows, device=self.device)
        self.positions = self.positions[index]
        for layer in self.cache.layers:
            layer.keep_rows(index)  # type: ignore[union-attr]


def sample_together(model: nn.Module, prefix: Sequence[int], prompts: Sequence[Sequence[int]],
                    sampling: Sampling) -> list[Sampled]:
    """An answer to each prompt (token ids after the shared, non-empty `prefix`; at least one each), in order.

    Deterministic for equal arguments, thread count and device.
    """
    return to_the_end(sample_in_parts(model, prefix, prompts, sampling))


Parts = Generator[list[Sampled], None, list[Sampled]]


def to_the_end(parts: Parts) -> list[Sampled]:
    """The answers, once they are written."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            return end.value


@torch.inference_mode()
def sample_in_parts(model: nn.Module, prefix: Sequence[int], prompts: Sequence[Sequence[int]], sampling: Sampling) -> Parts:
    """As sample_together; yields the answers so far, after each PART tokens. Until the end the model is for nothing else."""
    generator = torch.Generator().manual_seed(sampling.seed)
    batch = _Batch(model, prefix)
    longest = max(len(prompt) for prompt in prompts)
    # Padded on the left, so that every row's last token is the last column.
    padding = [longest - len(prompt) for prompt in prompts]
    tokens = torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)], device=batch.device)
    offsets = torch.arange(longest, device=batch.device)[None] - torch.tensor(padding, device=batch.device)[:, None]
    positions = torch.where(offsets >= 0, offsets + len(prefix), -1)
    answers = [Sampled() for _ in prompts]
    alive = list(range(len(prompts)))
    with after_prefix(model, batch.prefix):
        hidden = batch.run(tokens, positions)[:, -1]
        while True:
            chosen = choose(project_logits(model, hidden), sampling, generator).tolist()
            going = [row for row, token in enumerate(chosen) if answers[alive[row]].take(token, sampling)]
            if not going:
                return answers
            if len(going) < len(alive):
                batch.keep_rows(going)
                alive = [alive[row] for row in going]
            if len(answers[alive[0]].tokens) % PART == 0:
                yield answers
            hidden = batch.advance(torch.tensor([answers[index].tokens[-1] for index in alive], device=batch.device))

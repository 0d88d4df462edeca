"""Sampling: many answers at once behind one shared prefix, and one answer as a stream.

Batched sampling uses the same packing as learning: one row, one key-value cache
in which the persona prompt stands once, every answer a segment of its own. On
two cores this decodes several times the tokens a second of a padded batch, whose
cache repeats the persona prompt in every row. transformers' `generate` has no
such layout, hence the loop here. This module knows token ids, not characters.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.cache import growing_cache
from engine.models.ffn import decoder, project_logits
from engine.models.packing import attention_mask

_CANDIDATES = 64  # tokens among which top_p chooses: sorting a whole vocabulary costs more than it changes


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


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """One token a row, (B,), from logits (B, vocabulary) in fp32."""
    if sampling.temperature <= 0:
        return logits.argmax(-1)
    values, tokens = logits.topk(min(_CANDIDATES, logits.shape[-1]), dim=-1)
    probability = (values / sampling.temperature).softmax(-1)
    before = probability.cumsum(-1) - probability  # mass of the likelier tokens
    probability = probability.masked_fill(before >= sampling.top_p, 0.0).cpu()
    drawn = torch.multinomial(probability, 1, generator=generator)
    return tokens.gather(-1, drawn.to(tokens.device))[:, 0]


class _PackedCache:
    """The key-value cache of a packed row, with the segment and position of every key."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.cache = growing_cache()
        self.segments = torch.zeros(0, dtype=torch.long, device=self.device)
        self.positions = torch.zeros(0, dtype=torch.long, device=self.device)

    def run(self, tokens: list[int], segments: list[int], positions: list[int]) -> Tensor:
        """Append tokens; their final hidden states (T, d)."""
        segment = torch.tensor(segments, device=self.device)
        position = torch.tensor(positions, device=self.device)
        self.segments = torch.cat([self.segments, segment])
        self.positions = torch.cat([self.positions, position])
        mask = attention_mask(segment, position, self.segments, self.positions, self.model.config,
                              self.model.dtype)  # type: ignore[arg-type]
        output = decoder(self.model)(input_ids=torch.tensor([tokens], device=self.device), position_ids=position[None],
                                     attention_mask=mask, past_key_values=self.cache, use_cache=True)
        return output.last_hidden_state[0]

    def drop_finished(self, alive: list[int]) -> None:
        """Forget the keys of finished segments once they are a third of the cache."""
        keep = torch.isin(self.segments, torch.tensor([0, *alive], device=self.device))
        if keep.float().mean() > 0.67:
            return
        index = keep.nonzero()[:, 0]
        self.segments, self.positions = self.segments[index], self.positions[index]
        for layer in self.cache.layers:
            layer.keep(index)  # type: ignore[union-attr]


@torch.inference_mode()
def sample_together(model: nn.Module, prefix: Sequence[int], prompts: Sequence[Sequence[int]],
                    sampling: Sampling) -> list[Sampled]:
    """An answer to each prompt (token ids behind the shared `prefix`, at least one each), in order.

    Deterministic for equal arguments, thread count and device.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    packed = _PackedCache(model)
    if prefix:
        packed.run(list(prefix), [0] * len(prefix), list(range(len(prefix))))
    tokens = [token for prompt in prompts for token in prompt]
    segments = [number for number, prompt in enumerate(prompts, start=1) for _ in prompt]
    positions = [len(prefix) + offset for prompt in prompts for offset in range(len(prompt))]
    ends = torch.tensor([len(prompt) for prompt in prompts]).cumsum(0) - 1
    hidden = packed.run(tokens, segments, positions)[ends.to(packed.device)]
    answers = [Sampled() for _ in prompts]
    alive = list(range(len(prompts)))
    while True:
        chosen = choose(project_logits(model, hidden), sampling, generator).tolist()
        following = []
        for index, token in zip(alive, chosen, strict=True):
            answers[index].complete = token in sampling.endings
            if not answers[index].complete:
                answers[index].tokens.append(token)
                if len(answers[index].tokens) < sampling.limit:
                    following.append(index)
        if not following:
            return answers
        alive = following
        packed.drop_finished([index + 1 for index in alive])
        hidden = packed.run([answers[index].tokens[-1] for index in alive], [index + 1 for index in alive],
                            [len(prefix) + len(prompts[index]) + len(answers[index].tokens) - 1 for index in alive])


class Conversation:
    """A model's key-value cache over a growing conversation; what two prompts share is computed once."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.cache: Any = growing_cache()
        self.tokens: list[int] = []

    @torch.inference_mode()
    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Logits (1, vocabulary) after `tokens`, the whole conversation so far; reuses the longest common prefix."""
        shared = 0
        limit = min(len(self.tokens), len(tokens) - 1)
        while shared < limit and self.tokens[shared] == tokens[shared]:
            shared += 1
        if shared < len(self.tokens):
            for layer in self.cache.layers:
                layer.truncate(shared)
        device = next(self.model.parameters()).device
        fresh = torch.tensor([list(tokens[shared:])], device=device)
        position = torch.arange(shared, len(tokens), device=device)[None]
        output = decoder(self.model)(input_ids=fresh, position_ids=position, past_key_values=self.cache, use_cache=True)
        self.tokens = list(tokens)
        return project_logits(self.model, output.last_hidden_state[0, -1:])

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

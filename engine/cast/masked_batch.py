"""Masked batch: many characters in one forward pass of the dense model, each row under its own mask and correction.

The weights are read once for all rows; a row costs its own arithmetic, its keys
and values, and its character's delta (memory.py counts the bytes). What a row
says is what its character's standalone cut model says, up to rounding. The
beginning of a character's prompt is read once and kept. Knows token ids, deltas
and names, not cards.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.cast.delta import Delta
from engine.cast.row_attention import Segment, rows_apart
from engine.models.cache import growing_cache
from engine.models.ffn import decoder, feed_forwards, project_logits
from engine.models.sampling import Sampled, Sampling, choose

REMOVED = -128  # no code of a scale


class StackedDeltas:
    """C characters' deltas as a step reads them, a tensor a layer and kind: narrow numbers, widened a layer at a time.

    codes: (C, d_ff) int8, REMOVED where a channel is, else the scale's code, and code_step: (C, 1) in fp32; right: (C, r, d_ff)
    and left: (C, r, d), both int8, and step: (C, r) in fp32; r is the largest rank of them.
    """

    def __init__(self, deltas: Sequence[Delta], device: torch.device) -> None:
        self.rank = max(delta.rank for delta in deltas)
        layers, channels = deltas[0].mask.shape
        self.codes: list[Tensor] = []
        self.code_step: list[Tensor] = []
        self.right: list[Tensor] = []
        self.left: list[Tensor] = []
        self.step: list[Tensor] = []
        for layer in range(layers):
            codes = torch.full((len(deltas), channels), REMOVED, dtype=torch.int8)
            code_step = torch.stack([delta.scale_step[layer: layer + 1] for delta in deltas])
            right = torch.zeros(len(deltas), self.rank, channels, dtype=torch.int8)
            left = torch.zeros(len(deltas), self.rank, deltas[0].left.shape[-1], dtype=torch.int8)
            step = torch.zeros(len(deltas), self.rank)
            for number, delta in enumerate(deltas):
                index = delta.indices(layer)
                codes[number, index] = delta.scales[layer]
                right[number, : delta.rank, index] = delta.right[layer]
                left[number, : delta.rank] = delta.left[layer]
                step[number, : delta.rank] = delta.factor_step[layer]
            for kind, tensor in zip(self._kinds, (codes, code_step, right, left, step), strict=True):
                kind.append(tensor.to(device))

    @property
    def _kinds(self) -> tuple[list[Tensor], ...]:
        return self.codes, self.code_step, self.right, self.left, self.step

    def scales(self, layer: int, owner: Tensor) -> Tensor:
        """What each token's channels are multiplied by, (N, d_ff) in fp32: its character's scale, or 0. owner: (N,)."""
        codes = self.codes[layer].index_select(0, owner)
        scales = torch.addcmul(torch.ones((), device=codes.device), codes.float(), self.code_step[layer].index_select(0, owner))
        return scales.masked_fill_(codes == REMOVED, 0.0)

    @property
    def bytes(self) -> int:
        """Bytes of all characters together."""
        return sum(tensor.nbytes for kind in self._kinds for tensor in kind)


@dataclass(frozen=True)
class _Step:
    """Which tokens of a step belong to which character: places begin to end, in order."""

    characters: list[int]
    bounds: list[tuple[int, int]]

    @property
    def single(self) -> bool:
        """Whether every row has one token."""
        return self.bounds[-1][1] == len(self.bounds)


@contextmanager
def _corrected(model: nn.Module, stacked: StackedDeltas, step: _Step) -> Iterator[None]:
    """While the block runs, every token passes the FFNs of its own character. Sequences are (1, N, ...)."""
    device = next(model.parameters()).device
    owner = torch.tensor([character for character, (begin, end) in zip(step.characters, step.bounds, strict=True)
                          for _ in range(begin, end)], device=device)
    waiting: list[Tensor] = []

    def before(layer: int, activation: Tensor) -> Tensor:
        if stacked.rank:
            waiting.append(_correction(stacked, layer, activation[0], step, owner))
        return activation * stacked.scales(layer, owner).to(activation.dtype)

    def after(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        return output + waiting.pop() if stacked.rank else None

    handles = []
    for ffn in feed_forwards(model):
        handles.append(ffn.down.register_forward_pre_hook(lambda _module, inputs, index=ffn.index: (before(index, inputs[0]),)))
        handles.append(ffn.down.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _correction(stacked: StackedDeltas, layer: int, activation: Tensor, step: _Step, owner: Tensor) -> Tensor:
    """U V a (1, N, d) of each token's character, from the raw activations (N, d_ff)."""
    right, left, size = stacked.right[layer], stacked.left[layer], stacked.step[layer]
    kind = activation.dtype
    if step.single:
        right, left = right.index_select(0, owner).to(kind), left.index_select(0, owner).to(kind)
        inner = torch.bmm(activation[:, None], right.transpose(1, 2)) * size.index_select(0, owner).to(kind)[:, None]
        return torch.bmm(inner, left).transpose(0, 1)
    parts = []
    for character, (begin, end) in zip(step.characters, step.bounds, strict=True):
        inner = activation[begin:end] @ right[character].to(kind).T * size[character].to(kind)
        parts.append(inner @ left[character].to(kind))
    return torch.cat(parts)[None]


@dataclass
class Row:
    """One conversation of a batch: whose it is, its keys and values, and how many tokens these hold."""

    character: int
    cache: Any
    length: int = 0


@dataclass(frozen=True)
class _Prefix:
    """The beginning of a character's prompt, with its keys and values."""

    tokens: list[int]
    cache: Any


class MaskedBatch:
    """A dense model with the deltas of its characters, by number; rows are made by `open_row` and need no closing."""

    def __init__(self, model: nn.Module, deltas: Sequence[Delta]) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.deltas = StackedDeltas(deltas, self.device)
        self.prefixes: dict[int, _Prefix] = {}

    @torch.inference_mode()
    def run(self, rows: Sequence[Row], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens (at least one each) to some rows; logits (rows, vocabulary) in fp32 of what follows the last ones."""
        ends = torch.tensor([len(one) for one in tokens]).cumsum(0).tolist()
        bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        segments = [Segment(row.cache, begin, end) for row, (begin, end) in zip(rows, bounds, strict=True)]
        for row in rows:  # an earlier step may have failed half-way
            for layer in row.cache.layers:
                layer.truncate(row.length)
        places = [place for row, one in zip(rows, tokens, strict=True) for place in range(row.length, row.length + len(one))]
        flat = torch.tensor([[token for one in tokens for token in one]], device=self.device)
        step = _Step([row.character for row in rows], bounds)
        with _corrected(self.model, self.deltas, step), rows_apart(self.model, segments):
            hidden = decoder(self.model)(input_ids=flat, position_ids=torch.tensor([places], device=self.device),
                                         use_cache=False).last_hidden_state[0]
        for row, one in zip(rows, tokens, strict=True):
            row.length += len(one)
        return project_logits(self.model, hidden[torch.tensor(ends, device=self.device) - 1])

    def keep_prefix(self, character: int, tokens: Sequence[int]) -> None:
        """Read the beginning of a character's prompts, once; a row that begins with it goes on from there."""
        known = self.prefixes.get(character)
        if known is None or known.tokens != list(tokens):
            row = Row(character, growing_cache())
            self.run([row], [tokens])
            self.prefixes[character] = _Prefix(list(tokens), row.cache)

    def open_row(self, character: int, prompt: Sequence[int]) -> Row:
        """A row of a character, with as much of the prompt read as its kept beginning covers; never the last token."""
        row = Row(character, growing_cache())
        known = self.prefixes.get(character)
        if known is None:
            return row
        limit = min(len(known.tokens), len(prompt) - 1)
        while row.length < limit and known.tokens[row.length] == prompt[row.length]:
            row.length += 1
        for index, layer in enumerate(known.cache.layers if row.length else []):
            row.cache.update(layer.keys[:, :, : row.length], layer.values[:, :, : row.length], index)
        return row


@dataclass
class _Speaking:
    """A row under way, with the number of its request."""

    number: int
    row: Row
    answer: Sampled
    generator: torch.Generator
    sampling: Sampling
    fresh: list[int] = field(default_factory=list)


def answer_together(batch: MaskedBatch, requests: Sequence[tuple[int, Sequence[int]]], sampling: Sequence[Sampling]) -> Generator[
        dict[int, int], None, list[Sampled]]:
    """An answer to each request (a character's number, a prompt's token ids), drawn as `sampling` says, one a request.

    Yields after each step the tokens that were added, by the request's number; the value is the answers. An answer is the
    one that its row would get alone, up to rounding: each draws from its own seed.
    """
    answers = [Sampled() for _ in requests]
    going: list[_Speaking] = []
    for number, ((character, prompt), wish) in enumerate(zip(requests, sampling, strict=True)):
        row, generator = batch.open_row(character, prompt), torch.Generator().manual_seed(wish.seed)
        going.append(_Speaking(number, row, answers[number], generator, wish, list(prompt[row.length:])))
    while going:
        logits = batch.run([one.row for one in going], [one.fresh for one in going])
        chosen = _choose(logits, going)
        added = {}
        for one, token in zip(going, chosen, strict=True):
            one.answer.complete = token in one.sampling.endings
            if not one.answer.complete:
                one.answer.tokens.append(token)
                added[one.number] = token
            one.fresh = [token]
        going = [one for one in going if not one.answer.complete and len(one.answer.tokens) < one.sampling.limit]
        yield added
    return answers


def _choose(logits: Tensor, going: Sequence[_Speaking]) -> list[int]:
    """One token a row."""
    if all(one.sampling.temperature <= 0 for one in going):
        return logits.argmax(-1).tolist()
    return [int(choose(logits[place: place + 1], one.sampling, one.generator)) for place, one in enumerate(going)]

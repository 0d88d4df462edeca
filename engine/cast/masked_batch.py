"""Masked batch: many characters in one forward pass of the dense model, each row under its own mask and correction.

The weights are read once for all rows; a row costs its own arithmetic, its keys
and values, and its character's delta (memory.py counts the bytes). What a row
says is what its character's standalone cut model says, up to rounding. The
beginning of a character's prompt is read once and kept. Knows token ids, deltas
and names, not cards.
"""

import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.cast.delta import Delta
from engine.cast.key_values import KeyValues
from engine.cast.row_attention import Segment, rows_apart
from engine.models.ffn import decoder, feed_forwards, hooked, project_logits
from engine.models.sampling import Sampled, Sampling, choose
from engine.models.steps import TokenSteps, can_step

REMOVED = -128  # no code of a scale


class StackedDeltas:
    """C characters' deltas as a step reads them, a tensor a layer and kind: narrow numbers, widened a layer at a time.

    codes: (C, d_ff) int8, REMOVED where a channel is, else the scale's code, and code_step: (C, 1) in fp32; right: (C, r, d_ff)
    and left: (C, r, d), both int8, and step: (C, r) in fp32; r is the largest rank of them.
    """

    def __init__(self, deltas: Sequence[Delta], device: torch.device) -> None:
        self.rank = max(delta.rank for delta in deltas)
        self.everyone = torch.arange(len(deltas), device=device)
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
        codes = self._of(self.codes[layer], owner)
        scales = torch.addcmul(torch.ones((), device=codes.device), codes.float(), self._of(self.code_step[layer], owner))
        return scales.masked_fill_(codes == REMOVED, 0.0)

    @property
    def bytes(self) -> int:
        """Bytes of all characters together."""
        return sum(tensor.nbytes for kind in self._kinds for tensor in kind)

    def _of(self, kept: Tensor, owner: Tensor) -> Tensor:
        """The rows `owner` of (C, ...); as they are where the batch is every character once, in order."""
        if len(owner) == len(kept) and torch.equal(owner, self.everyone):
            return kept
        return kept.index_select(0, owner)

    def correction(self, layer: int, activation: Tensor, owner: Tensor) -> Tensor:
        """U V a (N, d) of each token's character, from raw activations (N, d_ff). owner: (N,)."""
        right, left, step = (self._of(kept[layer], owner).to(activation.dtype) for kept in (self.right, self.left, self.step))
        inner = torch.bmm(activation[:, None], right.transpose(1, 2)) * step[:, None]
        return torch.bmm(inner, left)[:, 0]

    def correction_of(self, layer: int, activation: Tensor, character: int) -> Tensor:
        """The same for tokens (N, d_ff) that are all of one character."""
        right, left, step = (kept[layer][character].to(activation.dtype) for kept in (self.right, self.left, self.step))
        return activation @ right.T * step @ left


@dataclass
class Row:
    """One conversation of a batch: whose it is, the slot of its keys and values, and how many tokens these hold."""

    character: int
    slot: int
    length: int = 0


@dataclass(frozen=True)
class _Prefix:
    """The beginning of a character's prompt, with its keys and values, (key heads, P, head size) a layer."""

    tokens: list[int]
    states: list[tuple[Tensor, Tensor]]


class MaskedBatch:
    """A dense model with the deltas of its characters, by number; rows are made by `open_row` and need no closing."""

    def __init__(self, model: nn.Module, deltas: Sequence[Delta]) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.deltas = StackedDeltas(deltas, self.device)
        self.steps = TokenSteps(model) if can_step(model) else None
        self.store = KeyValues()
        self.prefixes: dict[int, _Prefix] = {}

    @torch.inference_mode()
    def run(self, rows: Sequence[Row], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens (at least one each) to some rows; logits (rows, vocabulary) in fp32 of what follows the last ones."""
        hidden: list[Tensor | None] = [None] * len(rows)
        alone = [place for place, one in enumerate(tokens) if self.steps is None or len(one) > 1 or not rows[place].length]
        together = [place for place in range(len(rows)) if place not in alone]
        for places, compute in ((alone, self._read), (together, self._step)):
            if places:
                found = compute([rows[place] for place in places], [tokens[place] for place in places])
                for place, state in zip(places, found, strict=True):
                    hidden[place] = state
        for row, one in zip(rows, tokens, strict=True):
            row.length += len(one)
        return project_logits(self.model, torch.stack(hidden))  # type: ignore[arg-type]

    def _read(self, rows: Sequence[Row], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Final hidden states (rows, d) of the last of any numbers of tokens, through transformers' own layers."""
        ends = torch.tensor([len(one) for one in tokens]).cumsum(0).tolist()
        segments = [Segment(self.store, row.slot, row.length, end - len(one), end)
                    for row, one, end in zip(rows, tokens, ends, strict=True)]
        places = [place for row, one in zip(rows, tokens, strict=True) for place in range(row.length, row.length + len(one))]
        flat = torch.tensor([[token for one in tokens for token in one]], device=self.device)
        with self._corrected(rows, segments), rows_apart(self.model, segments):
            hidden = decoder(self.model)(input_ids=flat, position_ids=torch.tensor([places], device=self.device),
                                         use_cache=False).last_hidden_state[0]
        return hidden[torch.tensor(ends, device=self.device) - 1]

    @contextmanager
    def _corrected(self, rows: Sequence[Row], segments: Sequence[Segment]) -> Iterator[None]:
        """While the block runs, every token of a sequence (1, N) passes the FFNs of its own row's character."""
        sizes = torch.tensor([one.end - one.begin for one in segments], device=self.device)
        owner = torch.tensor([row.character for row in rows], device=self.device).repeat_interleave(sizes)
        waiting: list[Tensor] = []

        def before(layer: int, activation: Tensor) -> Tensor:
            if self.deltas.rank:
                waiting.append(torch.cat([self.deltas.correction_of(layer, activation[0, one.begin: one.end], row.character)
                                          for row, one in zip(rows, segments, strict=True)]))
            return activation * self.deltas.scales(layer, owner).to(activation.dtype)

        def after(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
            return output + waiting.pop() if waiting else None

        handles = [ffn.down.register_forward_hook(after) for ffn in feed_forwards(self.model)]
        try:
            with hooked(self.model, before):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _step(self, rows: Sequence[Row], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Final hidden states (rows, d) of one more token each, in few operations (models/steps.py)."""
        owner = torch.tensor([row.character for row in rows])
        places = torch.tensor([row.length for row in rows])
        attend = self.store.attend(torch.tensor([row.slot for row in rows]), places)

        def alter(layer: int, activation: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
            if self.deltas.rank:
                stream = stream + self.deltas.correction(layer, activation, owner)
            return activation * self.deltas.scales(layer, owner).to(activation.dtype), stream

        assert self.steps is not None
        return self.steps.step(torch.tensor([one[0] for one in tokens]), places, attend, alter)

    @torch.inference_mode()
    def keep_prefix(self, character: int, tokens: Sequence[int]) -> None:
        """Read the beginning of a character's prompts, once; a row that begins with it goes on from there."""
        known = self.prefixes.get(character)
        if known is None or known.tokens != list(tokens):
            row = self._new_row(character)
            self.run([row], [tokens])
            states = [self.store.read(layer, row.slot, row.length) for layer in range(len(self.store.layers))]
            self.prefixes[character] = _Prefix(list(tokens), states)

    @torch.inference_mode()
    def open_row(self, character: int, prompt: Sequence[int]) -> Row:
        """A row of a character, with as much of the prompt read as its kept beginning covers; never the last token."""
        row = self._new_row(character)
        known = self.prefixes.get(character)
        if known is None:
            return row
        limit = min(len(known.tokens), len(prompt) - 1)
        while row.length < limit and known.tokens[row.length] == prompt[row.length]:
            row.length += 1
        for layer, states in enumerate(known.states if row.length else []):
            self.store.write(layer, row.slot, 0, *(kept[None, :, : row.length] for kept in states))
        return row

    def _new_row(self, character: int) -> Row:
        row = Row(character, self.store.take())
        weakref.finalize(row, self.store.give, row.slot)  # whoever forgets a row has closed it
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
    batch.store.reserve(len(requests), max((len(prompt) + wish.limit for (_, prompt), wish in zip(requests, sampling, strict=True)),
                                           default=0))
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

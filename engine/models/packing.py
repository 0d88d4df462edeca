"""Shared-prefix packing: one persona prompt and many examples after it in one row.

All examples of a persona begin with the same tokens. A row holds that prefix once and many segments after it; positions
start again after the prefix in each segment, and the attention mask lets a segment see the prefix and itself only. Hidden
states equal those of the padded batch up to rounding, since a token's state depends only on what it may see.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.attention import Layout, can_divide, divided, lay_out
from engine.models.ffn import compute_dtype, decoder, project_logits

CHUNK = 256  # positions whose logits are held at once
CANDIDATES = 64  # likeliest tokens among which one is drawn


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt (persona, question, opening of the reply) and of its answer (may be empty)."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """A packed row of T tokens that predicts N answer tokens.

    tokens, positions: (1, T); segments: (T,), 0 for the prefix, else 1, 2, ...;
    predict: (N,) indices of the states that predict; labels: (N,) the tokens to
    predict; owner: (N,) index of the example, in the order given to `pack`;
    last: (examples of this row,) index of each prompt's last token; members: their
    example indices.
    """

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    predict: Tensor
    labels: Tensor
    owner: Tensor
    last: Tensor
    members: tuple[int, ...]

    @property
    def size(self) -> int:
        """T, tokens that the model computes."""
        return self.tokens.shape[1]


def shared_prefix(examples: Sequence[Example]) -> int:
    """Length of the longest common prefix of all prompts, at least one token short of the shortest prompt."""
    first, last = min(e.prompt for e in examples), max(e.prompt for e in examples)
    limit = min(len(e.prompt) for e in examples) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return length


Prefix = int | Sequence[int]  # of all examples, or of each


def pack(examples: Sequence[Example], row_tokens: int, prefix: Prefix | None = None) -> list[Row]:
    """Rows of at most `row_tokens` tokens (an example that is longer alone gets a row of its own), in order.

    `prefix` is the number of shared leading tokens; by default the longest that all examples share. One for each example
    where they are of several prompts: neighbours with the same leading tokens then share rows.
    """
    if not examples:
        return []
    if prefix is None:
        prefix = shared_prefix(examples)
    prefixes = [prefix] * len(examples) if isinstance(prefix, int) else prefix
    rows: list[Row] = []
    group: list[int] = []
    used, own = prefixes[0], prefixes[0]
    for index, example in enumerate(examples):
        length = len(example.prompt) + len(example.answer) - prefixes[index]
        if group and (used + length > row_tokens or not _alike(examples, prefixes, group[0], index)):
            rows.append(_make_row(examples, group, own))
            group, used, own = [], prefixes[index], prefixes[index]
        group.append(index)
        used += length
    rows.append(_make_row(examples, group, own))
    return rows


def _alike(examples: Sequence[Example], prefixes: Sequence[int], one: int, other: int) -> bool:
    """Whether two examples begin with the same prefix; all do where there is one for all."""
    if prefixes[one] != prefixes[other]:
        return False
    return examples[one].prompt[:prefixes[one]] == examples[other].prompt[:prefixes[other]]


def _make_row(examples: Sequence[Example], group: list[int], prefix: int) -> Row:
    tokens = list(examples[group[0]].prompt[:prefix])
    positions, segments = list(range(prefix)), [0] * prefix
    predict: list[int] = []
    labels: list[int] = []
    owner: list[int] = []
    last: list[int] = []
    for segment, index in enumerate(group, start=1):
        prompt, answer = examples[index].prompt, examples[index].answer
        # The last answer token predicts nothing that is supervised: it is not computed.
        body = prompt[prefix:] + answer[:-1]
        last.append(len(tokens) + len(prompt) - prefix - 1)
        predict += range(last[-1], last[-1] + len(answer))
        labels += answer
        owner += [index] * len(answer)
        tokens += body
        positions += range(prefix, prefix + len(body))
        segments += [segment] * len(body)
    as_tensor = lambda values: torch.tensor(values, dtype=torch.long)
    return Row(as_tensor([tokens]), as_tensor([positions]), as_tensor(segments), as_tensor(predict),
               as_tensor(labels), as_tensor(owner), as_tensor(last), tuple(group))


def additive_mask(positions: Tensor, key_positions: Tensor, allowed: Tensor, config: Any, dtype: torch.dtype) -> Any:
    """Zeros where queries at `positions` (B, Q) see keys at `key_positions` (B, K), the dtype's lowest number elsewhere:
    (B, 1, Q, K), or a dict of masks by kind where only some layers slide.

    A query sees keys that are `allowed` (B, Q, K) at positions up to its own; with a sliding window of w tokens, no further
    back than w - 1 positions.
    """
    distance = (positions[:, :, None] - key_positions[:, None, :])[:, None]
    seen = allowed[:, None] & (distance >= 0)

    def fill(visible: Tensor) -> Tensor:
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)

    window, kinds = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or [])
    if not window or (kinds and "sliding_attention" not in kinds):
        return fill(seen)
    sliding = fill(seen & (distance < window))
    return {"full_attention": fill(seen), "sliding_attention": sliding} if kinds else sliding  # no kinds: every layer slides


def run_row(model: nn.Module, row: Row) -> Tensor:
    """Final hidden states (T, d) of a packed row."""
    device, dtype = next(model.parameters()).device, compute_dtype(model)
    if can_divide(model):
        return _run_divided(model, row, lay_out(row.segments, dtype))
    segments, positions = row.segments.to(device), row.positions.to(device)
    allowed = (segments[None] == 0) | (segments[None] == segments[:, None])  # the prefix, and the own segment
    mask = additive_mask(positions, positions, allowed[None], model.config, dtype)
    output = decoder(model)(input_ids=row.tokens.to(device), position_ids=positions, attention_mask=mask, use_cache=False)
    return output.last_hidden_state[0]


def _run_divided(model: nn.Module, row: Row, layout: Layout) -> Tensor:
    with divided(model, layout) as mask:
        output = decoder(model)(input_ids=row.tokens, position_ids=row.positions, attention_mask=mask, use_cache=False)
    return output.last_hidden_state[0]


def split_prefix(row: Row) -> tuple[Row, Row]:
    """A row's prefix as a row of its own, which predicts nothing, and the rest, whose prefix is to be lent."""
    size = int((row.segments == 0).sum())
    none = row.labels[:0]
    prefix = Row(row.tokens[:, :size], row.positions[:, :size], row.segments[:size], none, none, none, none, ())
    return prefix, replace(row, tokens=row.tokens[:, size:], positions=row.positions[:, size:], segments=row.segments[size:],
                           predict=row.predict - size, last=row.last - size)


def answer_states(model: nn.Module, rows: Sequence[Row]) -> Iterator[Tensor]:
    """For each row the final hidden states (N, d) from which its answer tokens are predicted.

    As states_that_predict, but a prefix that rows share is computed once, where that can be: for reading only.
    """
    prefix: Row | None = None
    kept = lay_out(torch.zeros(0, dtype=torch.long), compute_dtype(model))
    for row in rows:
        if not can_divide(model):
            yield states_that_predict(model, row)
            continue
        head, rest = split_prefix(row)
        if prefix is None or not torch.equal(head.tokens, prefix.tokens):
            prefix, kept = head, lay_out(head.segments, compute_dtype(model))
            _run_divided(model, head, kept)
        layout = replace(lay_out(rest.segments, compute_dtype(model)), keys=kept.keys, values=kept.values)
        yield _run_divided(model, rest, layout)[rest.predict]


def states_that_predict(model: nn.Module, row: Row) -> Tensor:
    """Final hidden states (N, d) from which the row's N answer tokens are predicted."""
    hidden = run_row(model, row)
    return hidden[row.predict.to(hidden.device)]


@torch.inference_mode()
def resample_tokens(model: nn.Module, row: Row, control: Collection[int], seed: int) -> Tensor:
    """The row's tokens (1, T), each replaced by one that the model might have said after the original ones before it.

    It gives further rows for one forward pass each: hardly sentences, but words, contexts and activations like the
    character's, for readers that need states and no sense (layer tuning, the fit of W_down). It is the first step of a Jacobi
    iteration (Song et al. 2021, arXiv 2002.03629). The shared prefix stays, and so do in each segment the first token, the
    ids in `control` (a template's own tokens) and what follows one directly. No token in `control` is drawn. Deterministic
    for equal arguments, thread count and device.
    """
    hidden = run_row(model, row)
    drawn = torch.cat([_draw(project_logits(model, part), control, seed * 1_009 + number)
                       for number, part in enumerate(hidden[:-1].split(CHUNK))])
    fixed = torch.isin(row.tokens[0], torch.tensor(sorted(control), dtype=torch.long))
    inside = (row.segments > 0) & (row.segments == row.segments.roll(1))  # the first token's state is in the prefix
    open_positions = inside & ~fixed & ~fixed.roll(1)
    fresh = torch.where(open_positions[1:], drawn, row.tokens[0, 1:])
    return torch.cat([row.tokens[:, :1], fresh[None]], dim=1)


def relabelled(row: Row, tokens: Tensor) -> Row:
    """The row with other tokens (1, T), and labels that are these; an answer's last token is not in the row and stays."""
    following = (row.predict + 1).clamp_max(row.size - 1)
    inside = (following > row.predict) & (row.segments[following] == row.segments[row.predict])
    return replace(row, tokens=tokens, labels=torch.where(inside, tokens[0, following], row.labels))


def _draw(logits: Tensor, control: Collection[int], seed: int) -> Tensor:
    """One token (N,) a position, on the CPU, from logits (N, vocabulary)."""
    logits[:, sorted(control)] = -torch.inf
    values, ids = logits.topk(min(CANDIDATES, logits.shape[-1]), dim=-1)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(values.softmax(-1).cpu(), 1, generator=generator)
    return ids.cpu().gather(-1, chosen)[:, 0]

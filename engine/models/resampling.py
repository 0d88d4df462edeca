"""Parallel resampling: further rows of tokens from rows that are there, for one forward pass each.

At every position of a row the model has computed what could stand next. A token
drawn from that at each position gives a row in which every token is one that the
model might have said there, behind the words that stood there before: hardly a
sentence, but words, contexts and activations as the character will have them,
and nobody has to write them or sample them one after the other. (It is the first
step of a Jacobi iteration: Song et al. 2021, arXiv 2002.03629, solve for the exact
sample by repeating it.) For readers that need states and no sense: layer
tuning, or the refit of W_down. This module knows token ids, not characters.
"""

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from engine.models.ffn import project_logits
from engine.models.packing import Row, run_row

CHUNK = 256  # positions whose logits are held at once
CANDIDATES = 64  # likeliest tokens among which one is drawn


@torch.inference_mode()
def resample_tokens(model: nn.Module, row: Row, control: Collection[int], seed: int) -> Tensor:
    """The row's tokens (1, T), each drawn anew from the model's distribution at temperature 1 behind the original ones.

    The shared prefix stays, and so do in each segment: the first token, the ids in `control` (a template's own tokens)
    and what stands directly behind one. No token in `control` is drawn. Deterministic for equal arguments, thread count
    and device.
    """
    hidden = run_row(model, row)
    drawn = torch.cat([_draw(project_logits(model, part), control, seed * 1_009 + number)
                       for number, part in enumerate(hidden[:-1].split(CHUNK))])
    fresh = torch.where(_open_positions(row, control)[1:], drawn, row.tokens[0, 1:])
    return torch.cat([row.tokens[:, :1], fresh[None]], dim=1)


def relabelled(row: Row, tokens: Tensor) -> Row:
    """The row with other tokens (1, T), and labels that are these; an answer's last token is not in the row and stays."""
    following = (row.predict + 1).clamp_max(row.size - 1)
    inside = (following > row.predict) & (row.segments[following] == row.segments[row.predict])
    return replace(row, tokens=tokens, labels=torch.where(inside, tokens[0, following], row.labels))


def _open_positions(row: Row, control: Collection[int]) -> Tensor:
    """Which positions (T,) get a new token."""
    fixed = torch.isin(row.tokens[0], torch.tensor(sorted(control), dtype=torch.long))
    inside = (row.segments > 0) & (row.segments == row.segments.roll(1))  # the first token's state lies in the prefix
    return inside & ~fixed & ~fixed.roll(1)


def _draw(logits: Tensor, control: Collection[int], seed: int) -> Tensor:
    """One token (N,) a position, on the CPU, from logits (N, vocabulary)."""
    logits[:, sorted(control)] = -torch.inf
    values, ids = logits.topk(min(CANDIDATES, logits.shape[-1]), dim=-1)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(values.softmax(-1).cpu(), 1, generator=generator)
    return ids.cpu().gather(-1, chosen)[:, 0]


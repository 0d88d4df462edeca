"""The correction of a character: scales and thin factors found layer by layer, or from the refit that is there.

Where a family allows it, the layers are refitted once more from the lowest up
(pruning/propagation.py), each to what its correction can hold, so that the layers
above mend what is left over below: on the starter that read better than taking
the refitted W_down apart layer by layer (docs/cast.md). Elsewhere W_down is taken
apart. What is read are player lines with their neutral answers behind the
persona's prompt; no answer in character is needed.
"""

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.base.events import Event, Step
from engine.calibration.lines import read_queries
from engine.calibration.queries import of_split, spread
from engine.calibration.rewriting import Voice, encode_line
from engine.cards.card import Card
from engine.cast.delta import Delta, Fitted, fit_layer, stack
from engine.models.ffn import feed_forwards
from engine.models.packing import Example, Row, pack
from engine.pruning.compensation import gram_matrices, kept_indices, layer_groups
from engine.pruning.propagation import can_propagate, refit_propagated

STAGE = "correct"
LINES = 48  # as many as a refit reads in the quick preset
ANSWER = 40  # tokens of an answer at most
ROW = 1536  # tokens
RIDGE, SHARE = 0.03, 0.7  # of the refit, as in stages/repair.py


def correction_rows(tokenizer: Any, card: Card, lines: int) -> list[Row]:
    """Packed rows of player lines with neutral answers behind the card's prompt; of those lines that may teach."""
    voice = Voice.of(card, tokenizer)
    pool = [query for query in of_split(read_queries(), "train") if query.neutral.strip()]
    examples = [encode_line(tokenizer, voice, query.question, query.neutral, True) for query in spread(pool, lines, 0)]
    return pack([Example(one.prompt, one.answer[:ANSWER]) for one in examples], ROW)


def correct(dense: Any, cut: Any | None, mask: Tensor, rows: Sequence[Row], rank: int) -> Generator[
        Event, None, tuple[Delta, float]]:
    """The delta of a mask (L, d_ff) at a rank, and the share of what a whole refit changes that it leaves out, over layers.

    cut: the pruned model with its refitted W_down; None: there is none, and a family that cannot be refitted again gets
    scales and factors of zero.
    """
    if can_propagate(dense):
        layers = yield from _refit(dense, mask, rows, rank)
    elif cut is not None:
        layers = yield from _take_apart(dense, cut, mask, rows, rank)
    else:
        raise ValueError("there is nothing to correct towards")
    return stack(mask, layers), sum(layer.left_out for layer in layers) / len(layers)


def _refit(dense: Any, mask: Tensor, rows: Sequence[Row], rank: int) -> Generator[Event, None, list[Fitted]]:
    found: list[Fitted] = []
    kept, ffns = kept_indices(mask), feed_forwards(dense)

    def nearest(layer: int, columns: Tensor, gram: Tensor) -> Tensor:
        own = ffns[layer].down.weight[:, kept[layer]].float()
        found.append(fit_layer(columns.float(), own, gram, rank))
        return found[-1].applied(own)

    steps = len(ffns) * (len(rows) + 1)
    for number, _ in enumerate(refit_propagated(dense, rows, kept, RIDGE, SHARE, nearest), start=1):
        yield Step(STAGE, number, steps, {"layer": len(found)})
    return found


def _take_apart(dense: Any, cut: Any, mask: Tensor, rows: Sequence[Row], rank: int) -> Generator[Event, None, list[Fitted]]:
    ffns, refitted, kept = feed_forwards(dense), feed_forwards(cut), kept_indices(mask)
    found: list[Fitted] = []
    for group in layer_groups(len(ffns), refitted[0].size):
        grams: dict[int, Tensor] = {}
        for sums in gram_matrices(cut, rows, group):
            grams = sums
            yield Step(STAGE, len(found), len(ffns))
        for layer in group:
            own = ffns[layer].down_weight()[:, kept[layer]]
            found.append(fit_layer(refitted[layer].down_weight(), own, grams.pop(layer), rank))
            yield Step(STAGE, len(found), len(ffns))
    return found


@torch.no_grad()
def is_refitted(dense: Any, cut: Any, mask: Tensor) -> bool:
    """Whether any layer's W_down is more than the dense model's kept columns."""
    return any(not torch.equal(ffn.down.weight[:, index].to(own.down.weight), own.down.weight)
               for ffn, own, index in zip(feed_forwards(dense), feed_forwards(cut), kept_indices(mask), strict=True))

"""The correction of a character: scales and thin factors, by refitting the layers or by taking the refit that is there apart.

With lines of the run the layers are refitted once more from the lowest up
(pruning/reconstruction.py), each to what its correction can hold, so that the layers
above mend what is left over below. A refit learns from what it reads: with
neutral lines alone it came out worse than taking the folder's own W_down apart,
for which such lines serve as well as the run's, since they only say which
activations count (docs/cast.md has the figures).
"""

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.base.events import Event, Step
from engine.calibration.lines import Line, of_split, read_queries, spread
from engine.calibration.rewriting import Voice, encode_line
from engine.cards.card import Card
from engine.cast.delta import Delta, Fitted, fit_layer, stack
from engine.models.ffn import feed_forwards
from engine.models.packing import Example, Row, pack
from engine.pruning.cutting import kept_indices
from engine.pruning.reconstruction import can_propagate, gram_matrices, layer_groups, refit_propagated

STAGE = "correct"
LINES = 48  # as many as a refit reads in the quick preset
ANSWER = 40  # tokens of an answer at most
ROW = 1536  # tokens
ROWS = 3
RIDGE, SHARE = 0.03, 0.7  # of the refit, as in stages/repair.py


def correction_rows(tokenizer: Any, card: Card, own: Sequence[Line], lines: int) -> list[Row]:
    """Up to ROWS packed rows behind the card's prompt: the train lines of `own`, else player lines with neutral answers."""
    voice = Voice.of(card, tokenizer)
    if own:
        examples = [encode_line(tokenizer, voice, line.question, line.answer, line.complete)
                    for line in own if line.split == "train"]
    else:
        pool = [query for query in of_split(read_queries(), "train") if query.neutral.strip()]
        examples = [encode_line(tokenizer, voice, query.question, query.neutral, True) for query in spread(pool, lines, 0)]
    return pack([Example(one.prompt, one.answer[:ANSWER]) for one in examples], ROW)[:ROWS]


def correct(dense: Any, cut: Any, mask: Tensor, rows: Sequence[Row], rank: int, again: bool) -> Generator[
        Event, None, tuple[Delta, float]]:
    """The delta of a mask (L, d_ff) at a rank, and the share of what a whole refit changes that it leaves out, over layers.

    cut: the pruned model with its refitted W_down, which is taken apart; again: the layers are refitted, where the family
    allows it.
    """
    if again and can_propagate(dense):
        layers = yield from _refit(dense, mask, rows, rank)
    else:
        layers = yield from _take_apart(dense, cut, mask, rows, rank)
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

"""The rungs between plain least squares and the whole recipe: the propagated refit, and what unlike widths would bring to it.

Both refit the Wanda-structured mask on the rows that `+ls` reads, train lines and neutral ones; no copies, no learning.
"""

from collections.abc import Generator

import torch
from torch import Tensor

from benchmarks import oneshot, widths
from benchmarks.cells import Cell
from benchmarks.meter import Spent, metered
from benchmarks.pruned import Pruned
from engine.base.events import Event, Step
from engine.base.ids import StageId
from engine.evaluation.fidelity import dense_states, measure
from engine.models.ffn import masked
from engine.pruning import cutting
from engine.pruning.importance import top_channels
from engine.stages.context import JobContext
from engine.stages.reconstruction import refit_layers

PROBE_ROWS = 2  # packed train rows on which each layer is pruned alone


def uniform(cell: Cell) -> Generator[Event, None, Pruned]:
    """The Wanda-structured mask with propagated least squares."""
    mask, spent = yield from oneshot.wanda(cell)
    return (yield from _refitted(cell, mask, spent, "propagated"))


def unlike(cell: Cell) -> Generator[Event, None, Pruned]:
    """The same with as many channels in all, but widths by layer."""
    found, price = yield from cell.keep(cell.folder, "widths", _probe(cell))
    _, lesson = yield from cell.lesson(cell.subject.folder / "lines", cell.recipe)
    multiple = cell.recipe.multiple
    costs = widths.foretell(lesson.importance, found["kl"], cell.kept, multiple)
    mask = widths.top_by_width(lesson.importance, widths.share_out(costs, len(costs) * cell.kept // multiple), multiple)
    return (yield from _refitted(cell, mask, price + cell.subject.dense_pass(), "widths-propagated"))


def _probe(cell: Cell) -> Generator[Event, None, dict[str, Tensor]]:
    """The KL of each layer pruned alone, (L,), on a few train rows."""
    _, lesson = yield from cell.lesson(cell.subject.folder / "lines", cell.recipe)
    rows = cell.subject.train[:PROBE_ROWS]
    dense = dense_states(cell.model, rows)
    alone = top_channels(lesson.importance, cell.kept)
    readings = []
    for layer in range(len(alone)):
        mask = torch.ones_like(alone)
        mask[layer] = alone[layer]
        with masked(cell.model, mask):
            readings.append(measure(cell.model, rows, dense).kl)
        yield Step(StageId.BENCHMARK, layer + 1, len(alone), subject="each layer alone")
    return {"kl": torch.tensor(readings)}


def _refitted(cell: Cell, mask: Tensor, spent: Spent, name: str) -> Generator[Event, None, Pruned]:
    bench, _ = yield from cell.lesson(cell.subject.folder / "lines", cell.recipe)
    cost = cell.folder / f"{name}.cost.json"
    columns = yield from metered(_propagate(cell, bench, mask, name), cell.counter, cost)
    return Pruned(spent + Spent.read(cost), mask, columns)


def _propagate(cell: Cell, bench: JobContext, mask: Tensor, name: str) -> Generator[Event, None, list[Tensor]]:
    columns: list[Tensor] = []
    for column in refit_layers(bench, cell.subject.refit_rows, cutting.kept_indices(mask)):
        if column is not None:
            columns.append(column.to(bench.weight_dtype))
        yield Step(StageId.BENCHMARK, len(columns), bench.layers, subject=name)
    return columns

"""A width for each layer: how many channels each one keeps, under one budget for all layers.

Layers do not matter alike. The KL of pruning one layer alone says how expensive its channels are; how its importance is spread
over the channels says how fast that grows. Both give an estimated cost of every width of every layer, as if the costs added
up, and channels are taken where that costs least. Widths by measured sensitivity are the idea of OWL (arXiv 2310.05175) and
BESA (arXiv 2402.16880); the rule is our own. No stock engine loads such a model (its configuration has one intermediate size),
so this measures what uniform widths cost.
"""

from collections.abc import Generator

import torch
from torch import Tensor

from benchmarks.cells import Cell
from benchmarks.meter import Spent, metered
from benchmarks.methods import Kind, Rung, method
from benchmarks.pruned import Pruned
from engine.base.errors import UserError
from engine.base.events import Event, Step
from engine.base.ids import StageId
from engine.evaluation.fidelity import dense_states, measure
from engine.models.ffn import masked
from engine.pruning import cutting
from engine.pruning.importance import top_channels
from engine.stages.context import JobContext
from engine.stages.reconstruction import refit_layers

PROBE_ROWS = 2  # packed train rows on which each layer is pruned alone
FEWEST = 4  # a layer keeps at least this fraction, 1 / FEWEST, of its channels


def estimate_costs(importance: Tensor, layer_kl: Tensor, kept: int, multiple: int) -> Tensor:
    """Costs (L, B + 1) of keeping b blocks of `multiple` channels, b from 0 to B = d_ff / multiple, in nats a token.

    `importance`: (L, d_ff), not negative; `layer_kl`: (L,), the KL of each layer pruned alone to its `kept` most important
    channels. A layer's cost is in proportion to the squared importance that it loses.
    """
    energy = importance.double().square().sort(dim=1, descending=True).values
    blocks = importance.shape[1] // multiple
    sums = energy.cumsum(1)
    lost = torch.stack([sums[:, -1], *(sums[:, -1] - sums[:, multiple * block - 1] for block in range(1, blocks + 1))], dim=1)
    reference = (sums[:, -1] - sums[:, kept - 1]).clamp_min(1e-30)
    return lost * (layer_kl.double() / reference)[:, None]


def share_out(costs: Tensor, budget: int) -> list[int]:
    """Blocks that each layer keeps, `budget` in all, so that the costs (L, B + 1) sum to the least.

    Takes one block after the other where it costs least, which is exact for convex costs. Raises UserError where the
    budget is below what the layers keep at least, or above what there is.
    """
    layers, blocks = costs.shape[0], costs.shape[1] - 1
    floor = max(1, blocks // FEWEST)
    if not layers * floor <= budget <= layers * blocks:
        raise UserError(f"{budget} blocks cannot be shared out over {layers} layers that keep {floor} to {blocks} each.",
                        "Choose a lower sparsity.")
    widths = [blocks] * layers
    for _ in range(layers * blocks - budget):
        prices = [float(costs[layer, width - 1] - costs[layer, width]) if width > floor else float("inf")
                  for layer, width in enumerate(widths)]
        widths[prices.index(min(prices))] -= 1
    return widths


def top_by_width(importance: Tensor, widths: list[int], multiple: int) -> Tensor:
    """The mask (L, d_ff) of ones and zeros that keeps each layer's most important widths[layer] * multiple channels."""
    mask = torch.zeros_like(importance)
    for layer, width in enumerate(widths):
        mask[layer, importance[layer].topk(width * multiple).indices] = 1
    return mask


@method("wanda+propagated", "Wanda, propagated least squares", Kind.FURTHER)
def uniform(cell: Cell) -> Rung:
    """The Wanda-structured mask with propagated least squares."""
    _, data = yield from cell.data(cell.subject.folder / "lines", cell.recipe)
    return (yield from _refitted(cell, top_channels(data.importance, cell.kept), cell.subject.dense_pass(), "propagated"))


@method("wanda+widths+propagated", "Layers of different widths, propagated least squares", Kind.FURTHER)
def by_layer(cell: Cell) -> Rung:
    """The same with as many channels in all, but widths by layer."""
    found, price = yield from cell.keep(cell.folder, "widths", _probe(cell))
    _, data = yield from cell.data(cell.subject.folder / "lines", cell.recipe)
    multiple = cell.recipe.multiple
    costs = estimate_costs(data.importance, found["kl"], cell.kept, multiple)
    mask = top_by_width(data.importance, share_out(costs, len(costs) * cell.kept // multiple), multiple)
    return (yield from _refitted(cell, mask, price + cell.subject.dense_pass(), "widths-propagated"))


def _probe(cell: Cell) -> Generator[Event, None, dict[str, Tensor]]:
    """The KL of each layer pruned alone, (L,), on a few train rows."""
    _, data = yield from cell.data(cell.subject.folder / "lines", cell.recipe)
    rows = cell.subject.train[:PROBE_ROWS]
    dense = dense_states(cell.model, rows)
    alone = top_channels(data.importance, cell.kept)
    readings = []
    for layer in range(len(alone)):
        mask = torch.ones_like(alone)
        mask[layer] = alone[layer]
        with masked(cell.model, mask):
            readings.append(measure(cell.model, rows, dense).kl)
        yield Step(StageId.BENCHMARK, layer + 1, len(alone), subject="each layer alone")
    return {"kl": torch.tensor(readings)}


def _refitted(cell: Cell, mask: Tensor, spent: Spent, name: str) -> Generator[Event, None, Pruned]:
    ctx, _ = yield from cell.data(cell.subject.folder / "lines", cell.recipe)
    cost = cell.folder / f"{name}.cost.json"
    columns = yield from metered(_propagate(cell, ctx, mask, name), cell.counter, cost)
    return Pruned(spent + Spent.read(cost), mask, columns)


def _propagate(cell: Cell, ctx: JobContext, mask: Tensor, name: str) -> Generator[Event, None, list[Tensor]]:
    columns: list[Tensor] = []
    for found in refit_layers(ctx.model, cell.subject.refit_rows, cutting.kept_indices(mask)):
        if found is not None:
            columns.append(found.columns.to(ctx.weight_dtype))
        yield Step(StageId.BENCHMARK, len(columns), ctx.layers, subject=name)
    return columns

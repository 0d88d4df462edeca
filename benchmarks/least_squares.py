"""Plain least squares for any mask, on the rows that the whole recipe reads; validation KL chooses the ridge."""

from collections.abc import Callable, Generator

from torch import Tensor

from benchmarks.cells import Cell
from benchmarks.meter import Spent, metered
from benchmarks.pruned import Pruned
from engine.base.events import Event, Step
from engine.base.ids import StageId
from engine.evaluation.fidelity import measure
from engine.models.ffn import feed_forwards
from engine.pruning import cutting, reconstruction
from engine.stages.context import JobContext
from engine.stages.mask import DistillationData

RIDGES = (0.03, 0.1, 0.3)  # shares of the mean diagonal; validation chooses


def with_least_squares(cell: Cell, mask: Tensor, spent: Spent, price_of_dense: bool, price_of_grams: bool = True) -> Generator[
        Event, None, Pruned]:
    """A mask with refitted W_down columns, the ridge chosen by validation KL; the two prices are those not yet within `spent`."""
    ctx, data = yield from cell.data(cell.subject.folder / "lines", cell.recipe)
    reading = yield from read_grams(cell)
    cost = cell.folder / "least-squares.cost.json"
    columns = yield from metered(_refit(cell, ctx, data, mask), cell.counter, cost)
    dense = cell.subject.dense_pass() if price_of_dense else Spent()
    return Pruned(spent + Spent.read(cost) + dense + (reading if price_of_grams else Spent()), mask, columns)


def _refit(cell: Cell, ctx: JobContext, data: DistillationData, mask: Tensor) -> Generator[Event, None, list[Tensor]]:
    kept, weights = cutting.kept_indices(mask), [ffn.down.weight for ffn in feed_forwards(cell.model)]
    trials: dict[float, list[Tensor]] = {ridge: [] for ridge in RIDGES}

    def solve(index: int, gram: Tensor) -> None:
        for ridge, columns in trials.items():
            columns.append(reconstruction.refit(weights[index], gram, kept[index], ridge).to(ctx.weight_dtype).cpu())

    yield from each_layer(cell, "least squares", solve)
    found: dict[float, float] = {}
    for ridge, columns in trials.items():
        with cutting.as_if_cut(cell.model, mask, columns):
            found[ridge] = measure(cell.model, data.validation, data.validation_dense).kl
        yield Step(StageId.BENCHMARK, len(found), len(RIDGES), {"kl": found[ridge]}, "least squares")
    return trials[min(found, key=lambda ridge: found[ridge])]


def each_layer(cell: Cell, stage: str, visit: Callable[[int, Tensor], None]) -> Generator[Event, None, None]:
    """Give every layer's index and Gram matrix (d_ff, d_ff) to `visit`, in order."""
    layers = len(feed_forwards(cell.model))
    for group in reconstruction.layer_groups(layers, cell.channels):
        grams = cell.subject.grams or (yield from _grams_of(cell, stage, group))
        for index in group:
            visit(index, grams[index])
            yield Step(StageId.BENCHMARK, index + 1, layers, subject=f"{stage}: solve")


def _grams_of(cell: Cell, stage: str, group: range) -> Generator[Event, None, dict[int, Tensor]]:
    """The Gram matrices of some layers over the rows that the whole recipe refits on: train lines and neutral ones."""
    rows, grams = cell.subject.refit_rows, dict[int, Tensor]()
    for number, sums in enumerate(reconstruction.gram_matrices(cell.model, rows, group), start=1):
        grams = sums
        yield Step(StageId.BENCHMARK, number, len(rows), subject=f"{stage}: read")
    return grams


def read_grams(cell: Cell) -> Generator[Event, None, Spent]:
    """Read all layers' Gram matrices once for the subject, where they fit into memory together; what that cost, or nothing."""
    groups = reconstruction.layer_groups(len(feed_forwards(cell.model)), cell.channels)
    if len(groups) > 1:
        return Spent()  # every method reads them again, and its price holds that
    cost = cell.subject.folder / "grams.cost.json"
    if not cell.subject.grams:
        cell.subject.grams = yield from metered(_grams_of(cell, "least squares", groups[0]), cell.counter, cost)
    return Spent.read(cost)

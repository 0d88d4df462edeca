"""The one-shot rungs of the ladder: masks found without learning, and the plain least squares behind any mask.

All read the same train lines of the cell and keep the same k. Every function is
a generator of events. Scores that no sparsity changes are kept for the
character and the seed, masks in the cell. Calibrated on what, and measured how,
is the business of cells.py and readings.py.
"""

from collections.abc import Callable, Generator

import torch
from torch import Tensor

from benchmarks import depth
from benchmarks import flap as flap_
from benchmarks.brain_surgeon import remove_greedily
from benchmarks.cells import Cell
from benchmarks.meter import Spent, metered, watched
from benchmarks.pruned import Pruned
from benchmarks.taylor import iterative_taylor_masks, taylor_scores
from engine.base.events import Event, Step
from engine.base.ids import StageId
from engine.evaluation.fidelity import measure
from engine.models.ffn import feed_forwards
from engine.pruning import cutting, importance, reconstruction
from engine.pruning.importance import top_channels
from engine.stages.context import JobContext
from engine.stages.mask import DistillationData

Found = Generator[Event, None, tuple[Tensor, Spent]]  # a mask (L, d_ff) and its price
RIDGES = (0.03, 0.1, 0.3)  # of plain least squares, as shares of the mean diagonal; validation chooses
SURGEON_RIDGE, SURGEON_BLOCK = 0.03, 4
ROUNDS = 4  # of iterative Taylor; each reads all train lines forward and backward


def random(cell: Cell) -> Found:
    """Noise, by the cell's seed."""
    yield from ()
    layers = len(feed_forwards(cell.model))
    return top_channels(importance.random_scores(layers, cell.channels, cell.subject.seed), cell.kept), Spent()


def magnitude(cell: Cell) -> Found:
    """The weights alone."""
    yield from ()
    return top_channels(importance.magnitude_scores(cell.model), cell.kept), Spent()


def wanda(cell: Cell) -> Found:
    """Wanda-structured, on the norms of the shared dense pass."""
    _, lesson = yield from cell.lesson(cell.subject.folder / "lines", cell.recipe)
    return top_channels(lesson.importance, cell.kept), cell.subject.dense_pass()


def flap(cell: Cell) -> Found:
    """FLAP's fluctuation score."""
    rows = cell.subject.train

    def read() -> Generator[Event, None, dict[str, Tensor]]:
        variances = torch.zeros(0)
        for number, sums in enumerate(flap_.read_variances(cell.model, rows), start=1):
            variances = sums
            yield Step(StageId.BENCHMARK, number, len(rows), subject="flap")
        return {"scores": flap_.flap_scores(cell.model, variances)}

    found, spent = yield from cell.keep(cell.subject.folder, "flap", read())
    return top_channels(found["scores"], cell.kept), spent


def taylor(cell: Cell) -> Found:
    """LLM-Pruner's first-order score."""
    rows, size = cell.subject.train, sum(row.size for row in cell.subject.train)

    def read() -> Generator[Event, None, dict[str, Tensor]]:
        return {"scores": (yield from watched("taylor", size, cell.counter, lambda: taylor_scores(cell.model, rows)))}

    found, spent = yield from cell.keep(cell.subject.folder, "taylor", read())
    return top_channels(found["scores"], cell.kept), spent


def iterative_taylor(cell: Cell) -> Found:
    """GISP's rounds of the same score."""
    rows, size = cell.subject.train, sum(row.size for row in cell.subject.train)

    def read() -> Generator[Event, None, dict[str, Tensor]]:
        mask = torch.zeros(0)
        rounds = iterative_taylor_masks(cell.model, rows, cell.kept, ROUNDS)
        for number in range(ROUNDS):
            mask = yield from watched(f"iterative-taylor {number + 1}/{ROUNDS}", size, cell.counter, lambda: next(rounds))
        return {"mask": mask}

    found, spent = yield from cell.keep(cell.folder, "iterative-taylor", read())
    return found["mask"], spent


def surgeon(cell: Cell) -> Found:
    """The brain surgeon's mask; the columns it would put in place are left aside (`with_least_squares` does that)."""

    def read() -> Generator[Event, None, dict[str, Tensor]]:
        mask = torch.zeros(len(feed_forwards(cell.model)), cell.channels)
        weights = [ffn.down.weight for ffn in feed_forwards(cell.model)]

        def remove(index: int, gram: Tensor) -> None:
            kept, _ = remove_greedily(weights[index], gram, cell.kept, SURGEON_RIDGE, SURGEON_BLOCK)
            mask[index, kept.cpu()] = 1

        yield from _each_layer(cell, "obs", remove)
        return {"mask": mask}

    reading = yield from _read_grams(cell)
    found, spent = yield from cell.keep(cell.folder, "obs", read())
    return found["mask"], reading + spent


def blocks(cell: Cell) -> Generator[Event, None, Pruned]:
    """Whole blocks, as many as come nearest to the parameters that go with the channels; at least one, or nothing is pruned."""
    rows, size = cell.subject.train, sum(row.size for row in cell.subject.train)

    def read() -> Generator[Event, None, dict[str, Tensor]]:
        return {"influence": (yield from watched("depth", size, cell.counter, lambda: depth.block_influence(cell.model, rows)))}

    found, spent = yield from cell.keep(cell.subject.folder, "depth", read())
    count = max(1, depth.blocks_for(cell.model, cell.kept))
    return Pruned(spent, dropped=depth.blocks_to_drop(found["influence"], count))


def with_least_squares(cell: Cell, mask: Tensor, spent: Spent, price_of_dense: bool, price_of_grams: bool = True) -> Generator[
        Event, None, Pruned]:
    """A mask with refitted W_down columns, the ridge chosen by validation KL; the two prices are those not yet within `spent`."""
    bench, lesson = yield from cell.lesson(cell.subject.folder / "lines", cell.recipe)
    reading = yield from _read_grams(cell)
    cost = cell.folder / "least-squares.cost.json"
    columns = yield from metered(_refit(cell, bench, lesson, mask), cell.counter, cost)
    dense = cell.subject.dense_pass() if price_of_dense else Spent()
    return Pruned(spent + Spent.read(cost) + dense + (reading if price_of_grams else Spent()), mask, columns)


def _refit(cell: Cell, bench: JobContext, lesson: DistillationData, mask: Tensor) -> Generator[Event, None, list[Tensor]]:
    kept, weights = cutting.kept_indices(mask), [ffn.down.weight for ffn in feed_forwards(cell.model)]
    trials: dict[float, list[Tensor]] = {ridge: [] for ridge in RIDGES}

    def solve(index: int, gram: Tensor) -> None:
        for ridge, columns in trials.items():
            columns.append(reconstruction.refit(weights[index], gram, kept[index], ridge).to(bench.weight_dtype).cpu())

    yield from _each_layer(cell, "least squares", solve)
    found: dict[float, float] = {}
    for ridge, columns in trials.items():
        with cutting.as_if_cut(cell.model, mask, columns):
            found[ridge] = measure(cell.model, lesson.validation, lesson.validation_dense).kl
        yield Step(StageId.BENCHMARK, len(found), len(RIDGES), {"kl": found[ridge]}, "least squares")
    return trials[min(found, key=lambda ridge: found[ridge])]


def _each_layer(cell: Cell, stage: str, visit: Callable[[int, Tensor], None]) -> Generator[Event, None, None]:
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


def _read_grams(cell: Cell) -> Generator[Event, None, Spent]:
    """Read all layers' Gram matrices once for the subject, where they fit into memory together; what that cost, or nothing."""
    groups = reconstruction.layer_groups(len(feed_forwards(cell.model)), cell.channels)
    if len(groups) > 1:
        return Spent()  # every method reads them again, and its price holds that
    cost = cell.subject.folder / "grams.cost.json"
    if not cell.subject.grams:
        cell.subject.grams = yield from metered(_grams_of(cell, "least squares", groups[0]), cell.counter, cost)
    return Spent.read(cost)

"""The two ends of every comparison: the dense model itself, and the one-shot baselines in every report."""

from collections.abc import Callable

from benchmarks.cells import Cell
from benchmarks.meter import Spent
from benchmarks.methods import DENSE, Found, Kind, Rung, method, one_shot
from benchmarks.pruned import Pruned
from engine import labels
from engine.pruning.importance import BASELINES, Baseline, top_channels


@method(DENSE, "Dense", Kind.DENSE)
def dense(_cell: Cell) -> Rung:
    """The dense model."""
    yield from ()
    return Pruned(Spent())


def _finder(baseline: Baseline) -> Callable[[Cell], Found]:
    def find(cell: Cell) -> Found:
        _, data = yield from cell.data(cell.subject.folder / "lines", cell.recipe)
        scores = baseline.score(cell.model, data.norms, cell.subject.seed)
        return top_channels(scores, cell.kept), cell.subject.dense_pass() if baseline.reads_lines else Spent()

    return find


for _id, _baseline in BASELINES.items():
    one_shot(_id.value, labels.reading(_id).capitalize(), reads_dense=_baseline.reads_lines)(_finder(_baseline))

"""What `prune` makes of the lines, with and without recovery: the one place of the bench that knows the order of those stages.

Their results are large (all of W_down, all weights): `tidy` removes them once
they are measured. What stays is the mask that is exported, its curve, and prices.
"""

import copy
import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from engine.base.events import Event
from engine.base.files import read_json, write_json
from engine.base.recipe import Recipe
from engine.bench.cells import Cell
from engine.bench.meter import Spent, metered
from engine.bench.plan import fingerprint
from engine.bench.pruned import Pruned
from engine.pruning.compensation import kept_indices
from engine.pruning.surgery import cut
from engine.stages.mask import find_mask, save_tensors
from engine.stages.recovery import recover
from engine.stages.repair import refit_learned, refit_start
from engine.stages.tuning import tune
from engine.stages.workbench import Workbench, round_weights

T = TypeVar("T")
START, LEARNING, REPAIR, TUNING, RECOVERY = (f"{name}.cost.json" for name in (
    "start", "learning", "repair", "tuning", "recovery"))
CHOSEN, CURVE = "chosen.safetensors", "curve.json"
STAYING = {CHOSEN, CURVE, "mask.safetensors", "learning.json", LEARNING}


def folder_of(cell: Path, recipe: Recipe) -> Path:
    """Where, in a cell's folder, the stages of the whole recipe leave their results; recovery has the same one."""
    knobs = {name: value for name, value in recipe.to_dict().items() if not name.startswith("recover")}
    return cell / "default" / fingerprint(knobs)


def default(cell: Cell) -> Generator[Event, None, Pruned]:
    """Exactly what the preset exports."""
    recipe = dataclasses.replace(cell.recipe, recover=False)
    folder = folder_of(cell.folder, recipe)
    bench, lesson = yield from cell.lesson(folder, recipe)
    start = yield from _paid(cell, refit_start(bench, lesson), folder / "start.json", folder / START)
    learning = find_mask(bench, lesson, start.swap if start else None)
    learned = yield from _paid(cell, learning, folder / "mask.safetensors", folder / LEARNING, resumes=True)
    work: Generator[Event, None, tuple[Tensor, list[Tensor] | None]] = refit_learned(bench, lesson, learned, start)
    mask, columns = yield from _paid(cell, work, folder / "columns.json", folder / REPAIR)
    weights = yield from _paid(cell, tune(bench, lesson, mask, columns), folder / "tuned.json", folder / TUNING, resumes=True)
    write_json(folder / CURVE, curve_of(bench, folder, cell.subject.dense_pass().tokens))
    save_tensors(folder / CHOSEN, {"mask": mask})
    spent = sum((Spent.read(folder / name) for name in (START, LEARNING, REPAIR, TUNING)), cell.subject.dense_pass())
    return Pruned(spent, mask, weights.columns, weights.gates)


def curve_of(bench: Workbench, folder: Path, tokens: int) -> list[dict[str, Any]]:
    """Validation KL and the tokens spent until then, from the first mask to the tuned layers: points in their order.

    `tokens`: those of the dense pass. What was read and did not go on stands in it, too: it has been paid for.
    """
    points: list[dict[str, Any]] = []

    def add(stage: str, kl: float, more: int = 0) -> None:
        points.append({"stage": stage, "tokens": tokens + more, "validation_kl": kl})

    if start := bench.notes.get("least_squares_on_the_start"):
        add("start", start["kl_before"])
        tokens += Spent.read(folder / START).tokens
    for point in read_json(folder / "learning.json"):
        if "validation_kl" in point:
            add("learning", point["validation_kl"], point["tokens"])
    tokens += Spent.read(folder / LEARNING).tokens + Spent.read(folder / REPAIR).tokens
    if "kl_before" in (refitted := bench.notes.get("least_squares", {})):
        add("refit", refitted["kl"])
    if tuned := bench.notes.get("layer_tuning"):
        tokens += Spent.read(folder / TUNING).tokens
        add("tuning", tuned["kl"])
    return points


def recovered(cell: Cell) -> Generator[Event, None, Pruned]:
    """What the preset exports with --recover: a cut copy of the model, fine-tuned."""
    before = yield from default(cell)
    assert before.mask is not None
    recipe = dataclasses.replace(cell.recipe, recover=True)
    folder = folder_of(cell.folder, recipe)
    bench, lesson = yield from cell.lesson(folder, recipe)
    bench.model = copy.deepcopy(cell.model)
    cut(bench.model, kept_indices(before.mask), before.columns, before.gates)
    yield from _paid(cell, recover(bench, lesson), folder / "recovered.safetensors", folder / RECOVERY, resumes=True)
    round_weights(bench)
    return Pruned(before.spent + Spent.read(folder / RECOVERY), model=bench.model)


def tidy(cell: Cell, recovered: bool) -> None:
    """Remove what only going on needed; `recovered`: whether recovery, too, has been measured."""
    if not recovered and any((cell.folder / "default").glob("*/recovery.safetensors")):
        return  # it was stopped midway and goes on from all of this
    for file in (cell.folder / "default").glob("*/*"):
        if file.name not in STAYING and (file.parent / CHOSEN).exists():  # else a killed run is still to go on there
            file.unlink()


def _paid(cell: Cell, work: Generator[Event, None, T], result: Path, cost: Path, resumes: bool = False) -> Generator[
        Event, None, T]:
    """A stage's value, its price booked once: a result that is there already was paid for by an earlier run."""
    if result.exists() and cost.exists():
        return (yield from work)
    return (yield from metered(work, cell.counter, cost, resumes))

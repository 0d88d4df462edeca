"""What `prune` makes of the lines, with and without recovery: the one benchmark that knows the order of the stages.

Their results are large (all of W_down, all weights): `tidy` removes them once
they are measured. What stays is the mask that is exported, its curve, and prices.
"""

import copy
import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from benchmarks.cells import Cell
from benchmarks.meter import Spent, metered
from benchmarks.methods import OURS, RECOVERED, Kind, Rung, method
from benchmarks.plan import fingerprint
from benchmarks.pruned import Pruned
from engine.base.events import Event
from engine.base.files import read_json, write_json
from engine.base.ids import StageId
from engine.base.job import Recipe
from engine.pruning.cutting import cut, kept_indices
from engine.stages.context import JobContext, round_to
from engine.stages.mask import DistillationData, find_mask
from engine.stages.reconstruction import Reconstructed, learns_mask, reconstruct_learned, reconstruct_start, take_start
from engine.stages.tuning import Weights, read_dense_again, recover, tune, tune_again
from engine.stages.work_folder import save_tensors

T = TypeVar("T")
START, LEARNING, RECONSTRUCTION, TUNING, RETUNING, READING, RECOVERY = (f"{name}.cost.json" for name in (
    "start", "learning", "reconstruction", "tuning", "retuning", "reading", "recovery"))
CHOSEN, CURVE = "chosen.safetensors", "curve.json"
STAYING = {CHOSEN, CURVE, "mask.safetensors", "learning.json", LEARNING}


def folder_of(cell: Path, recipe: Recipe) -> Path:
    """Where, in a cell's folder, the stages of the whole recipe leave their results; recovery has the same one."""
    knobs = {name: value for name, value in recipe.former().items() if not name.startswith("recover")}
    return cell / "default" / fingerprint(knobs)


@method(OURS, "<b>The whole recipe</b>", Kind.OURS)
def default(cell: Cell) -> Rung:
    """Exactly what the preset exports."""
    made = yield from _make(cell)
    return Pruned(made.spent, made.mask, made.weights.columns, made.weights.gates)


@dataclasses.dataclass(frozen=True)
class _Made:
    folder: Path
    mask: Tensor
    weights: Weights
    spent: Spent


def _make(cell: Cell) -> Generator[Event, None, _Made]:
    recipe = cell.recipe.changed(recover=False)
    folder = folder_of(cell.folder, recipe)
    ctx, data = yield from cell.data(folder, recipe)
    start = yield from _paid(cell, reconstruct_start(ctx, data), folder / "start.json", folder / START)
    mask, columns = yield from _choose_mask(cell, ctx, data, start, folder)
    weights = yield from _paid(cell, tune(ctx, data, mask, columns), folder / "tuned.json", folder / TUNING, resumes=True)
    write_json(folder / CURVE, curve_of(ctx, folder, cell.subject.dense_pass().tokens))
    save_tensors(folder / CHOSEN, {"mask": mask})
    spent = sum((Spent.read(folder / name) for name in (START, LEARNING, RECONSTRUCTION, TUNING)), cell.subject.dense_pass())
    return _Made(folder, mask, weights, spent)


def _choose_mask(cell: Cell, ctx: JobContext, data: DistillationData, start: Reconstructed | None, folder: Path) -> Generator[
        Event, None, tuple[Tensor, list[Tensor] | None]]:
    """The learned mask and its columns, or the start's, as the job would choose."""
    if not learns_mask(cell.recipe, start):
        assert start is not None
        return (yield from _paid(cell, take_start(ctx, data, start), folder / "mask.safetensors", folder / LEARNING))
    learning = find_mask(ctx, data, start.swap if start else None)
    learned = yield from _paid(cell, learning, folder / "mask.safetensors", folder / LEARNING, resumes=True)
    work: Generator[Event, None, tuple[Tensor, list[Tensor] | None]] = reconstruct_learned(ctx, data, learned, start)
    return (yield from _paid(cell, work, folder / "columns.json", folder / RECONSTRUCTION))


def curve_of(ctx: JobContext, folder: Path, tokens: int) -> list[dict[str, Any]]:
    """Validation KL and the tokens spent until then, from the first mask to the tuned layers: points in their order.

    `tokens`: those of the dense pass. What was read and not used is included: it has been paid for.
    """
    points: list[dict[str, Any]] = []

    def add(stage: str, kl: float, more: int = 0) -> None:
        points.append({"stage": stage, "tokens": tokens + more, "validation_kl": kl})

    if start := ctx.notes.get(StageId.RECONSTRUCT_START):
        add("start", start["kl_before"])
        tokens += Spent.read(folder / START).tokens
    for point in read_json(folder / "learning.json"):
        if "validation_kl" in point:
            add("learning", point["validation_kl"], point["tokens"])
    tokens += Spent.read(folder / LEARNING).tokens + Spent.read(folder / RECONSTRUCTION).tokens
    if "kl_before" in (refitted := ctx.notes.get(StageId.RECONSTRUCT, {})):
        add("refit", refitted["kl"])
    if tuned := ctx.notes.get(StageId.TUNE):
        tokens += Spent.read(folder / TUNING).tokens
        add("tuning", tuned["kl"])
    return points


@method(RECOVERED, "<b>The recipe, recovered</b>", Kind.OURS)
def recovered(cell: Cell) -> Rung:
    """What the preset exports with --recover: the layers tuned again on answers written for it, and a cut copy fine-tuned."""
    made = yield from _make(cell)
    recipe, folder = cell.recipe.changed(recover=True), made.folder
    written = yield from cell.subject.answer(recipe)
    ctx, data = yield from cell.data(folder, recipe)
    again = tune_again(ctx, data, made.mask, made.weights)
    weights = yield from _paid(cell, again, folder / "retuned.json", folder / RETUNING, resumes=True)
    yield from _paid(cell, read_dense_again(ctx), folder / "recovery_dense.safetensors", folder / READING)
    ctx.model = copy.deepcopy(cell.model)
    cut(ctx.model, kept_indices(made.mask), weights.columns, weights.gates)
    yield from _paid(cell, recover(ctx, data), folder / "recovered.safetensors", folder / RECOVERY, resumes=True)
    round_to(ctx.model, ctx.weight_dtype)
    spent = sum((Spent.read(folder / name) for name in (RETUNING, READING, RECOVERY)), made.spent + written)
    return Pruned(spent, model=ctx.model)


def tidy(cell: Cell, recovered: bool) -> None:
    """Remove what only going on needed; `recovered`: whether recovery, too, has been measured."""
    begun = ("retuned-0000.safetensors", "recovery.safetensors")
    if not recovered and any(list((cell.folder / "default").glob(f"*/{name}")) for name in begun):
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

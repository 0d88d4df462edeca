"""Least-squares W_down: the stages in which the kept channels take over what the removed ones did.

The start mask is refitted before the mask is learned, so that learning knows
what repairs it; the learned mask is refitted after, and the better of the two on
the validation lines is what goes on. All on the original 16-bit weights. What a
refit reads stands in refit_rows.py.

Leaves start.safetensors and columns.safetensors (the mask, and W_down of its kept
channels, a layer each, unless the plain slice read better) and what was read, in
JSON. mask.safetensors then holds the mask that goes on.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.base.events import Event, MaskSnapshot, Stage, Step
from engine.base.files import read_json, write_json
from engine.base.recipe import Recipe
from engine.evaluation.fidelity import measure
from engine.models.ffn import feed_forwards, masked
from engine.models.packing import Row
from engine.pruning import compensation, masks
from engine.pruning.importance import top_channels
from engine.pruning.propagation import can_propagate, refit_propagated
from engine.stages.mask import Lesson, measured, save_tensors, start_scores
from engine.stages.refit_rows import make_refit_rows
from engine.stages.workbench import Workbench

RIDGE = 0.03  # lambda, as a share of the mean diagonal; .01 and .1 read no better on held-out lines (benchmarks/readings.md)
SHARE = 0.7  # of the stream's error that a layer takes on; .5 and 1 read alike, 0 much worse


@dataclass(frozen=True)
class Repaired:
    """A mask (L, d_ff), its W_down columns (d, k) a layer in 16 bit (None: the plain slice), and its validation KL."""

    mask: Tensor
    columns: list[Tensor] | None
    kl: float

    @property
    def swap(self) -> tuple[Tensor, list[Tensor]] | None:
        """The mask and its columns, where there are any."""
        return None if self.columns is None else (self.mask, self.columns)


def refit_start(bench: Workbench, lesson: Lesson) -> Generator[Event, None, Repaired | None]:
    """The start mask with its refit; None where nothing is refitted, or the weights are quantised while learning."""
    recipe = bench.job.recipe
    if not recipe.least_squares or recipe.load_in != "16bit":
        return None
    return (yield from _refit(bench, lesson, top_channels(start_scores(bench, lesson), bench.kept), "start"))


def refit_learned(bench: Workbench, lesson: Lesson, mask: Tensor, start: Repaired | None) -> Generator[
        Event, None, tuple[Tensor, list[Tensor] | None]]:
    """The learned mask with its refit, or the start with its own where that reads better on the validation lines."""
    if not bench.job.recipe.least_squares:
        return mask, None
    if start is not None and (reading := _last_reading(bench)) > bench.job.recipe.refit_within * start.kl:
        yield Stage("least squares", reused=True)  # the start's
        bench.notes["least_squares"] = {"used": False, "kl": reading}
        return (yield from _keep_start(bench, lesson, mask, start, bench.job.recipe.steps))
    learned = yield from _refit(bench, lesson, mask, "columns")
    if start is not None and learned.kl > start.kl:
        return (yield from _keep_start(bench, lesson, mask, start, bench.job.recipe.steps))
    bench.notes["mask"] = "learned"
    return learned.mask, learned.columns


def _last_reading(bench: Workbench) -> float:
    """The validation KL of the learned mask with the columns on which it learned: the start's."""
    return next(point["validation_kl"] for point in reversed(read_json(bench.path("learning.json"))) if "validation_kl" in point)


def learns_mask(recipe: Recipe, start: Repaired | None) -> bool:
    """Whether a mask is learned: where learning pays, and wherever there is no refitted start to take instead."""
    return start is None or recipe.sparsity >= recipe.mask_from


def take_start(bench: Workbench, lesson: Lesson, start: Repaired) -> Generator[Event, None, tuple[Tensor, list[Tensor] | None]]:
    """Go on with the start without learning a mask; leaves mask.safetensors and learning.json as learning would."""
    write_json(bench.path("learning.json"), [{"step": 0, "validation_kl": start.kl, "tokens": 0}])
    save_tensors(bench.path("mask.safetensors"), {"scores": start_scores(bench, lesson)})
    return (yield from _keep_start(bench, lesson, start.mask, start, 0))


def _keep_start(bench: Workbench, lesson: Lesson, learned: Tensor, start: Repaired, step: int) -> Generator[
        Event, None, tuple[Tensor, list[Tensor] | None]]:
    """Go on with the start after `step` steps: the mask shown here and kept in the work folder is the one that is exported."""
    bench.notes |= {"mask": "start", "best_step": 0}
    yield MaskSnapshot(step, 1 - bench.kept / bench.channels,
                       masks.kept_by_importance(start.mask, lesson.importance), masks.changes(learned, start.mask))
    found = load_file(bench.path("mask.safetensors"))
    save_tensors(bench.path("mask.safetensors"), {**found, "mask": start.mask.to(torch.uint8), "best_step": torch.tensor(0)})
    return start.mask, start.columns


def _refit(bench: Workbench, lesson: Lesson, mask: Tensor, name: str) -> Generator[Event, None, Repaired]:
    """The mask with its refit, or the one that an earlier process refitted: columns belong to the mask they were made for."""
    saved, choice = bench.path(f"{name}.safetensors"), bench.path(f"{name}.json")
    stage, about = ("least squares", "mask") if name == "columns" else ("least squares on the start", "start")
    if choice.exists():
        yield Stage(stage, reused=True)
        notes = read_json(choice)
    else:
        yield Stage(stage, bench.layers + 2)
        notes = yield from _refit_and_choose(bench, lesson, mask, saved, stage, about)
        write_json(choice, notes)
    bench.notes[stage.replace(" ", "_")] = notes
    found = load_file(saved)
    mask = found.pop("mask").float()
    return Repaired(mask, [found[name] for name in sorted(found)] or None, notes["kl"])


def _refit_and_choose(bench: Workbench, lesson: Lesson, mask: Tensor, saved: Path, stage: str, about: str) -> Generator[
        Event, None, dict[str, object]]:
    """Refit, and keep the columns where they read better than the plain slice."""
    kept = compensation.kept_indices(mask)
    with masked(bench.model, mask):
        before = measure(bench.model, lesson.validation, lesson.validation_dense)
    yield measured(f"{about}, before least squares", "validation", before)
    yield Step(stage, 1, bench.layers + 2)
    read = yield from make_refit_rows(bench, lesson.train, stage, copied=not bench.tunes_layers)
    columns: list[Tensor] = []
    for column in refit_layers(bench, read.rows, kept):
        if column is not None:
            columns.append(column.to(bench.weight_dtype))
        yield Step(stage, len(columns) + 1, bench.layers + 2)
    with compensation.repaired(bench.model, mask, columns):
        after = measure(bench.model, lesson.validation, lesson.validation_dense)
    yield measured(f"{about}, after least squares", "validation", after)
    yield Step(stage, bench.layers + 2, bench.layers + 2)
    layers = {f"{index:04d}": column for index, column in enumerate(columns)} if after.kl < before.kl else {}
    save_tensors(saved, {"mask": mask.to(torch.uint8), **layers})
    return {"ridge": RIDGE, "share": SHARE, "propagated": can_propagate(bench.model),
            **read.beside, "tokens": sum(row.size for row in read.rows),
            "used": after.kl < before.kl, "kl": min(after.kl, before.kl), "kl_before": before.kl}


def refit_layers(bench: Workbench, rows: list[Row], kept: list[Tensor]) -> Iterator[Tensor | None]:
    """Columns (d, k) layer by layer: propagated where the family allows it, else each layer by itself.

    After each row that was read, it yields None: a place to stop.
    """
    if can_propagate(bench.model):
        yield from refit_propagated(bench.model, rows, kept, RIDGE, SHARE)
        return
    ffns = feed_forwards(bench.model)
    for group in compensation.layer_groups(len(ffns), bench.channels):
        grams: dict[int, Tensor] = {}
        for sums in compensation.gram_matrices(bench.model, rows, group):
            grams = sums
            yield None
        for index in group:
            yield compensation.refit(ffns[index].down.weight, grams.pop(index), kept[index], RIDGE).cpu()

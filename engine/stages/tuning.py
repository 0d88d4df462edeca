"""Layer tuning: the stage after the refit, in which the kept channels of each layer are trained by themselves, and once more
on answers written for it, where recovery is asked for.

Every layer is written as soon as it is done, so that a stopped job loses one at most. The validation lines decide twice:
layer by layer, so that one that got worse keeps what it began with, and on the whole. Leaves tuned-0000.safetensors and so
on (gate, up, down of the kept channels, and the errors that decided) and tuned.json: what was read, and whether the tuned
layers are used. The second time leaves retuned-0000 and so on.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.base.events import Event, LayerTuned, Stage, Step, Warned
from engine.base.files import read_json, write_json
from engine.calibration.lines import Line
from engine.evaluation.fidelity import measure
from engine.models.packing import pack
from engine.pruning.compensation import Gates, kept_indices, repaired
from engine.pruning.layer_tuning import LOSSES, LayerResult, TunedLayer, Tuning, plain_layers, tune_layers
from engine.stages.further_answers import recovery_lines
from engine.stages.mask import Lesson, measured, save_tensors
from engine.stages.refit_rows import RefitRows, make_refit_rows
from engine.stages.repair import RIDGE, SHARE
from engine.stages.workbench import Workbench

STAGE, STAGE_AGAIN = "tune the layers", "tune the layers again"
ERRORS = "errors"  # a layer's on held-out rows, before and after; NaN: not tried


@dataclass(frozen=True)
class Weights:
    """What takes the place of the plain slices: W_down (d, k), and W_gate and W_up (k, d), a layer each; None: nothing.

    refit: the W_down that the tuned layers once began with, where they were tuned.
    """

    columns: list[Tensor] | None
    gates: Gates | None = None
    refit: list[Tensor] | None = None


@dataclass(frozen=True)
class _Course:
    """One time of tuning: its stage, the names of its files and of its note, how, and what each layer begins with
    (None: its least squares)."""

    stage: str
    name: str
    note: str
    tuning: Tuning
    starts: list[TunedLayer] | None = None


def tune(bench: Workbench, lesson: Lesson, mask: Tensor, columns: list[Tensor] | None) -> Generator[Event, None, Weights]:
    """The mask's tuned layers, or its refit `columns` where nothing is to be tuned or where they read better."""
    if columns is None or not bench.tunes_layers:
        return Weights(columns)
    recipe = bench.job.recipe
    tuning = Tuning(recipe.layer_epochs, recipe.layer_rate, recipe.seed, RIDGE, SHARE, bench.weight_dtype)
    course = _Course(STAGE, "tuned", "layer_tuning", tuning)
    rows = make_refit_rows(bench, lesson.train, STAGE, copied=True)
    return (yield from _take(bench, lesson, mask, Weights(columns), course, rows)) or Weights(columns)


def tune_again(bench: Workbench, lesson: Lesson, mask: Tensor, weights: Weights) -> Generator[Event, None, Weights]:
    """The same layers tuned on, on answers that nothing has read (benchmarks/readings.md), or `weights` where they read better."""
    recipe = bench.job.recipe
    lines, _ = recovery_lines(bench)
    if weights.columns is None or not recipe.recovery_epochs or not lines:
        return weights
    starts = plain_layers(bench.model, kept_indices(mask), weights.columns, weights.gates)
    tuning = Tuning(recipe.recovery_epochs, recipe.layer_rate, recipe.seed + 1, RIDGE, SHARE, bench.weight_dtype)
    course = _Course(STAGE_AGAIN, "retuned", "layer_tuning_again", tuning, starts)
    return (yield from _take(bench, lesson, mask, weights, course, _pack(bench, lines))) or weights


def _pack(bench: Workbench, lines: Sequence[Line]) -> Generator[Event, None, RefitRows]:
    """The rows of recovery's answers, once they are asked for."""
    yield from ()
    examples = bench.encode(lines)
    return RefitRows(pack(examples, bench.job.recipe.row_tokens), {"further_answers": len(examples)})


def _take(bench: Workbench, lesson: Lesson, mask: Tensor, before: Weights, course: _Course,
          rows: Generator[Event, None, RefitRows]) -> Generator[Event, None, Weights | None]:
    """What a course makes of the weights before it; None where these read better."""
    choice = bench.path(f"{course.name}.json")
    if choice.exists():
        yield Stage(course.stage, reused=True)
    else:
        yield Stage(course.stage, bench.layers + 2)
        write_json(choice, (yield from _tune_and_choose(bench, lesson, mask, before, course, rows)))
    notes = bench.notes[course.note] = read_json(choice)
    if not notes["used"]:
        return None
    layers = [one.layer for one in _known(bench, course.name)]
    return Weights([layer.down for layer in layers], [(layer.gate, layer.up) for layer in layers], before.refit or before.columns)


def _tune_and_choose(bench: Workbench, lesson: Lesson, mask: Tensor, weights: Weights, course: _Course,
                     rows: Generator[Event, None, RefitRows]) -> Generator[Event, None, dict[str, object]]:
    with repaired(bench.model, mask, weights.columns, weights.gates):
        before = measure(bench.model, lesson.validation, lesson.validation_dense)
    yield measured(f"before {_doing(course)}", "validation", before)
    yield Step(course.stage, 1, bench.layers + 2)
    read = yield from rows
    yield from _write_layers(bench, lesson, mask, course, read)
    known = _known(bench, course.name)
    written = [one.layer for one in known]
    with repaired(bench.model, mask, [layer.down for layer in written], [(layer.gate, layer.up) for layer in written]):
        after = measure(bench.model, lesson.validation, lesson.validation_dense)
    yield measured(f"after {_doing(course)}", "validation", after)
    yield Step(course.stage, bench.layers + 2, bench.layers + 2)
    return {"epochs": course.tuning.epochs, "rate": course.tuning.rate, "tokens": sum(row.size for row in read.rows),
            **read.beside, "layers_better": sum(one.better for one in known),
            "used": after.kl < before.kl, "kl": min(after.kl, before.kl), "kl_before": before.kl}


def _doing(course: _Course) -> str:
    """A course in the midst of a sentence: tuning the layers (again)."""
    return course.stage.replace("tune", "tuning", 1)


def _write_layers(bench: Workbench, lesson: Lesson, mask: Tensor, course: _Course, read: RefitRows) -> Generator[Event, None, None]:
    """Tune the layers that are not written yet, and write each one with the errors that decided."""
    known = _known(bench, course.name)
    done, stopped = 0, any(one.after is None for one in known)
    for result in tune_layers(bench.model, read.rows, lesson.validation, kept_indices(mask), course.tuning, known, course.starts):
        if result is not None:
            if done >= len(known):
                parts = {name: part.to(bench.weight_dtype) for name, part in vars(result.layer).items()}
                errors = [result.before, float("nan") if result.after is None else result.after]
                save_tensors(bench.path(f"{course.name}-{done:04d}.safetensors"),
                             {**parts, ERRORS: torch.tensor(errors, dtype=torch.float64)})
                yield LayerTuned(course.stage, done, bench.layers, result.before, result.after, result.better)
                if result.after is None and not stopped:
                    stopped = True
                    yield Warned(f"Tuning made the last {LOSSES} layers no better on held-out lines. "
                                 "The others keep what they have.")
            done += 1
        yield Step(course.stage, done + 1, bench.layers + 2)


def _known(bench: Workbench, name: str) -> list[LayerResult]:
    """The layers that are written, from the lowest on."""
    layers: list[LayerResult] = []
    while (file := bench.path(f"{name}-{len(layers):04d}.safetensors")).exists():
        found = load_file(file)
        before, after = found.pop(ERRORS).tolist()
        layers.append(LayerResult(TunedLayer(**found), before, None if after != after else after))
    return layers

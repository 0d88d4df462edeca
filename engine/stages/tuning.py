"""Layer tuning: the stage after the refit, in which the kept channels of each layer are trained by themselves.

Every layer is written as soon as it is done, so that a stopped job loses one at most. Leaves tuned-0000.safetensors and so
on (gate, up, down of the kept channels) and tuned.json: what was read, and whether the tuned layers read better on the
validation lines than the refit that they began with; where they do not, the refit goes on.
"""

from collections.abc import Generator
from dataclasses import dataclass

from safetensors.torch import load_file
from torch import Tensor

from engine.base.events import Event, Stage, Step
from engine.base.files import read_json, write_json
from engine.evaluation.fidelity import measure
from engine.pruning import compensation
from engine.pruning.compensation import Gates
from engine.pruning.layer_tuning import TunedLayer, Tuning, tune_layers
from engine.stages.mask import Lesson, measured, save_tensors
from engine.stages.refit_rows import make_refit_rows, will_tune
from engine.stages.repair import RIDGE, SHARE
from engine.stages.workbench import Workbench

STAGE = "tune the layers"


@dataclass(frozen=True)
class Weights:
    """What takes the place of the plain slices: W_down (d, k), and W_gate and W_up (k, d), a layer each; None: nothing.

    refit: the W_down that the tuned layers began with, where they were tuned.
    """

    columns: list[Tensor] | None
    gates: Gates | None = None
    refit: list[Tensor] | None = None


def tune(bench: Workbench, lesson: Lesson, mask: Tensor, columns: list[Tensor] | None) -> Generator[Event, None, Weights]:
    """The mask's tuned layers, or its refit `columns` where nothing is to be tuned or where they read better."""
    if columns is None or not will_tune(bench):
        return Weights(columns)
    choice = bench.path("tuned.json")
    if choice.exists():
        yield Stage(STAGE, reused=True)
    else:
        yield Stage(STAGE, bench.layers + 2)
        write_json(choice, (yield from _tune_and_choose(bench, lesson, mask, columns)))
    bench.notes["layer_tuning"] = read_json(choice)
    if not bench.notes["layer_tuning"]["used"]:
        return Weights(columns)
    layers = _known(bench)
    return Weights([layer.down for layer in layers], [(layer.gate, layer.up) for layer in layers], columns)


def _tune_and_choose(bench: Workbench, lesson: Lesson, mask: Tensor, columns: list[Tensor]) -> Generator[
        Event, None, dict[str, object]]:
    recipe = bench.job.recipe
    with compensation.repaired(bench.model, mask, columns):
        before = measure(bench.model, lesson.validation, lesson.validation_dense)
    yield measured("before tuning the layers", "validation", before)
    yield Step(STAGE, 1, bench.layers + 2)
    read = yield from make_refit_rows(bench, lesson.train, STAGE, copied=True)
    tuning = Tuning(recipe.layer_epochs, recipe.layer_rate, recipe.seed, RIDGE, SHARE, bench.weight_dtype)
    layers: list[TunedLayer] = []
    known = _known(bench)
    for layer in tune_layers(bench.model, read.rows, compensation.kept_indices(mask), tuning, known):
        if layer is not None:
            if len(layers) >= len(known):
                parts = {name: part.to(bench.weight_dtype) for name, part in vars(layer).items()}
                save_tensors(bench.path(f"tuned-{len(layers):04d}.safetensors"), parts)
            layers.append(layer)
        yield Step(STAGE, len(layers) + 1, bench.layers + 2)
    written = _known(bench)
    gates = [(layer.gate, layer.up) for layer in written]
    with compensation.repaired(bench.model, mask, [layer.down for layer in written], gates):
        after = measure(bench.model, lesson.validation, lesson.validation_dense)
    yield measured("after tuning the layers", "validation", after)
    yield Step(STAGE, bench.layers + 2, bench.layers + 2)
    return {"epochs": recipe.layer_epochs, "rate": recipe.layer_rate, "tokens": sum(row.size for row in read.rows),
            **read.beside, "used": after.kl < before.kl, "kl": min(after.kl, before.kl), "kl_before": before.kl}


def _known(bench: Workbench) -> list[TunedLayer]:
    """The layers that are written, from the lowest on."""
    layers: list[TunedLayer] = []
    while (file := bench.path(f"tuned-{len(layers):04d}.safetensors")).exists():
        layers.append(TunedLayer(**load_file(file)))
    return layers

"""Least-squares W_down: the stage that refits what a mask leaves, and chooses how far to trust the fit.

Works on the original 16-bit weights. Leaves columns.safetensors (W_down of the
kept channels, a layer each; absent where the plain slice read better).
"""

from collections.abc import Generator

from safetensors.torch import load_file
from torch import Tensor

from engine.base.events import Event, Stage, Step
from engine.base.files import read_json, write_json
from engine.evaluation.fidelity import measure
from engine.models.ffn import feed_forwards, masked
from engine.models.packing import pack
from engine.pruning import compensation
from engine.stages.mask import Lesson, measured, save_tensors
from engine.stages.workbench import Workbench

RIDGES = (0.03, 0.1, 0.3)  # lambda, as a share of the mean diagonal
BLENDS = (0.75, 1.0)  # alpha


def refit_down(bench: Workbench, lesson: Lesson, mask: Tensor) -> Generator[Event, None, list[Tensor] | None]:
    """W_down columns (d, k) of each layer with the lowest validation KL, in 16 bit; None: the plain slice is best."""
    saved, choice = bench.path("columns.safetensors"), bench.path("least_squares.json")
    if not bench.job.recipe.least_squares:
        return None
    if choice.exists():
        yield Stage("least squares", reused=True)
        bench.notes["least_squares"] = read_json(choice)
        return _load_columns(bench) if saved.exists() else None
    yield Stage("least squares", len(RIDGES) + len(BLENDS) + 2)
    validation, dense = lesson.validation, lesson.validation_dense
    kept = compensation.kept_indices(mask)
    with masked(bench.model, mask):
        best = measure(bench.model, validation, dense)
    yield measured("mask, before least squares", "validation", best)
    refits = {ridge: list[Tensor]() for ridge in RIDGES}
    yield from _solve(bench, lesson, kept, refits)
    chosen: dict[str, float] = {"ridge": 0.0, "alpha": 0.0, "kl": best.kl, "kl_before": best.kl}
    columns: list[Tensor] | None = None
    done = 2
    trials = [(ridge, 1.0) for ridge in RIDGES]
    for ridge, alpha in trials:
        found = [compensation.blend(ffn.down.weight, column, index, alpha).to(bench.weight_dtype) for ffn, index, column
                 in zip(feed_forwards(bench.model), kept, refits[ridge], strict=True)]
        with masked(bench.model, mask), compensation.swapped_down(bench.model, kept, found):
            reading = measure(bench.model, validation, dense)
        yield measured(f"least squares, lambda {ridge:g}, alpha {alpha:g}", "validation", reading)
        if reading.kl < chosen["kl"]:
            chosen = {**chosen, "ridge": ridge, "alpha": alpha, "kl": reading.kl}
            columns = found
        done += 1
        yield Step("least squares", done, len(RIDGES) + len(BLENDS) + 2)
        if len(trials) == len(RIDGES) and ridge == RIDGES[-1] and chosen["alpha"]:
            trials += [(chosen["ridge"], alpha) for alpha in BLENDS if alpha < 1.0]
    if columns is not None:
        save_tensors(saved, {f"{index:04d}": column for index, column in enumerate(columns)})
    write_json(choice, chosen)
    bench.notes["least_squares"] = chosen
    return columns


def _solve(bench: Workbench, lesson: Lesson, kept: list[Tensor], refits: dict[float, list[Tensor]]) -> Generator[Event, None, None]:
    """Fill `refits` with each layer's least-squares W_down for each ridge, a group of layers at a time."""
    rows = pack(lesson.train, bench.job.recipe.row_tokens, lesson.prefix)
    ffns = feed_forwards(bench.model)
    for group in compensation.layer_groups(len(ffns), bench.channels):
        grams: dict[int, Tensor] = {}
        for sums in compensation.gram_matrices(bench.model, rows, group):
            grams = sums
            yield Step("least squares", 1, len(RIDGES) + len(BLENDS) + 2)
        for index in group:
            for ridge, columns in refits.items():
                columns.append(compensation.refit(ffns[index].down.weight, grams[index], kept[index], ridge).cpu())
            del grams[index]


def _load_columns(bench: Workbench) -> list[Tensor]:
    found = load_file(bench.path("columns.safetensors"))
    return [found[name] for name in sorted(found)]

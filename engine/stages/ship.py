"""From final weights to a folder that is proven to load: measure, cut, export, prove.

The test lines are read here for the first time. The folder gets its name only
after a fresh process has loaded it with plain transformers.
"""

from collections.abc import Generator
from pathlib import Path

from torch import Tensor

from engine.base.events import Event, Measured, Saved, Stage, Step
from engine.base.files import (
    explain_write_errors,
    folder_size,
    read_json,
    remove_leftovers,
    require_space,
    staged_folder,
    write_json,
)
from engine.evaluation.fidelity import compare, dense_states, measure
from engine.export.folder import Contents, write_folder
from engine.export.verify import prove, write_reference
from engine.models.ffn import masked
from engine.models.packing import Row, pack
from engine.pruning import compensation, importance
from engine.pruning.surgery import cut
from engine.stages.mask import Lesson, encode_lesson
from engine.stages.recovery import recover
from engine.stages.tuning import Weights
from engine.stages.workbench import Workbench, round_weights


def measure_ladder(bench: Workbench, lesson: Lesson, mask: Tensor, weights: Weights) -> Generator[
        Event, None, tuple[list[Row], list[Tensor]]]:
    """Read the dense model, the one-shot baselines, the mask and its repair on the test lines; returns rows and dense states."""
    _, _, test, prefix = encode_lesson(bench)
    rows = pack(test, bench.job.recipe.row_tokens, prefix)
    masks = {"random": importance.random_scores(mask.shape[0], mask.shape[1], bench.job.recipe.seed),
             "magnitude": importance.magnitude_scores(bench.model), "wanda": lesson.importance}
    ladder = {name: importance.top_channels(scores, bench.kept) for name, scores in masks.items()}
    yield Stage("measure", len(ladder) + 4)
    dense = dense_states(bench.model, rows)
    known = _known_readings(bench)
    yield from _read(bench, known, "dense", lambda: compare(bench.model, rows, dense, dense))
    for name, baseline in {**ladder, "mask": mask}.items():
        with masked(bench.model, baseline):
            yield from _read(bench, known, name, lambda: measure(bench.model, rows, dense))
    if weights.refit is not None:
        with compensation.repaired(bench.model, mask, weights.refit):
            yield from _read(bench, known, "mask + least squares", lambda: measure(bench.model, rows, dense))
    if weights.columns is not None:
        with compensation.repaired(bench.model, mask, weights.columns, weights.gates):
            yield from _read(bench, known, _name(weights), lambda: measure(bench.model, rows, dense))
    return rows, dense


def _name(weights: Weights) -> str:
    """What a mask with these weights is called among the readings."""
    return "mask" if weights.columns is None else "mask + least squares" + (" + tuned layers" if weights.gates else "")


def _known_readings(bench: Workbench) -> dict[str, dict]:
    saved = bench.path("readings.json")
    return read_json(saved) if saved.exists() else {}


def _read(bench: Workbench, known: dict[str, dict], name: str, read) -> Generator[Event, None, None]:  # type: ignore[no-untyped-def]
    """Read once, keep it in readings.json, and say it."""
    if name not in known:
        known[name] = vars(read())
        write_json(bench.path("readings.json"), known)
    yield Measured(name, "test", **known[name])
    yield Step("measure", len(known), max(len(known), 7))


def finish_model(bench: Workbench, lesson: Lesson, mask: Tensor, weights: Weights, rows: list[Row],
                 dense: list[Tensor]) -> Generator[Event, None, None]:
    """Cut the dense model on the bench, recover it if asked for, and write the reference for the proof."""
    kept = compensation.kept_indices(mask)
    reference = bench.path("reference.safetensors")
    if bench.job.recipe.recover:
        cut(bench.model, kept, weights.columns, weights.gates)
        yield from recover(bench, lesson)
        round_weights(bench)
        known = _known_readings(bench)
        yield from _read(bench, known, f"{_name(weights)} + recovery", lambda: measure(bench.model, rows, dense))
        write_reference(bench.model, rows[0], reference)
        return
    with compensation.repaired(bench.model, mask, weights.columns, weights.gates):
        write_reference(bench.model, rows[0], reference)
    cut(bench.model, kept, weights.columns, weights.gates)


def require_export_space(bench: Workbench) -> None:
    """Raise UserError when the disk of `out` cannot hold the model on the bench in 16 bit."""
    require_space(bench.job.out.parent, int(2.2 * sum(parameter.numel() for parameter in bench.model.parameters()) + 50e6))


def export(bench: Workbench, mask: Tensor, contents: Contents) -> Generator[Event, None, Path]:
    """Write the folder under a hidden name, prove it in a fresh process, then give it its name."""
    out = bench.job.out
    with explain_write_errors(out):
        require_export_space(bench)
        remove_leftovers(out)
        with staged_folder(out) as staging:
            yield Stage("export")
            write_folder(staging, bench.model.to(bench.weight_dtype), bench.tokenizer, mask, contents)
            bench.model = None  # the proof needs the memory
            yield Stage("prove")
            proof = prove(staging, bench.path("reference.safetensors"), bench.dtype)
            contents.finish(staging, proof)
    yield Saved("pruned model", str(out), folder_size(out))
    return out


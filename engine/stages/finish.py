"""From final weights to a folder that is proven to load: measure, cut, export, prove, and write as GGUF.

The test lines are read here for the first time. The folder gets its place and its name only
after a fresh process has loaded it with plain transformers.
"""

import shutil
from contextlib import suppress

from torch import Tensor

from engine.base.cast_folder import places
from engine.base.errors import UserError
from engine.base.events import Saved, Stage, Step, Stream
from engine.base.families import FAMILIES
from engine.base.files import (
    check_manifest,
    explain_write_errors,
    folder_size,
    move_folder,
    read_json,
    remove_leftovers,
    require_space,
    staged_folder,
    update_manifest,
    write_json,
)
from engine.base.ids import ArtifactId, ReadingId, StageId
from engine.base.pruning_events import Measured
from engine.evaluation.fidelity import compare_lines, dense_states, measure
from engine.export.cast import write_gguf_adapters
from engine.export.folder import GGUF, Contents, write_folder
from engine.export.importance_matrix import MATRIX, ColumnSums, some_of
from engine.export.verify import prove, write_reference
from engine.models.ffn import masked
from engine.models.packing import Row, pack
from engine.pruning import cutting
from engine.pruning.cutting import cut
from engine.pruning.importance import BASELINES, top_channels
from engine.stages.baking import ADAPTER, bake_model, held_lines, held_talks, short_lines, short_voice
from engine.stages.context import JobContext, round_to
from engine.stages.gguf_files import write_files
from engine.stages.mask import DistillationData, encode_lines
from engine.stages.tuning import Weights, recover

PROVEN = "proven"  # in the work folder: the folder to be delivered
BYTES_WRITTEN = 5.2  # a parameter: 16 bit twice, 8 bit once
RUNGS = len(BASELINES) + 4  # the dense model, the mask, reconstructed, tuned
_RECOVERED = {ReadingId.MASK: ReadingId.RECOVERED, ReadingId.RECONSTRUCTED: ReadingId.RECONSTRUCTED_RECOVERED,
              ReadingId.TUNED: ReadingId.TUNED_RECOVERED}


def measure_ladder(ctx: JobContext, data: DistillationData, mask: Tensor, weights: Weights) -> Stream[
        tuple[list[Row], list[Tensor]]]:
    """Measure the dense model, the one-shot baselines, the mask and its reconstruction on the test lines: rows, dense states."""
    rows = [row for own in test_rows(ctx) for row in own]
    ladder: dict[ReadingId, Tensor] = {id: top_channels(one.score(ctx.model, data.norms, ctx.job.recipe.seed), ctx.kept)
                                 for id, one in BASELINES.items()}
    yield Stage(StageId.MEASURE, RUNGS)
    dense = dense_states(ctx.model, rows)
    known = _known_readings(ctx)
    yield from _read(ctx, known, ReadingId.DENSE, lambda: compare_lines(ctx.model, rows, dense, dense).reading())
    if ctx.job.baked:
        short = held_lines(ctx, short_voice(ctx), rows, dense, 2)
        yield from _read(ctx, known, ReadingId.DENSE_SHORT, lambda: short.read(ctx.model))
    if not ctx.job.recipe.sparsity:
        return rows, dense
    for name, baseline in {**ladder, ReadingId.MASK: mask}.items():
        with masked(ctx.model, baseline):
            yield from _read(ctx, known, name, lambda: measure(ctx.model, rows, dense))
    if weights.refit is not None:
        with cutting.as_if_cut(ctx.model, mask, weights.refit):
            yield from _read(ctx, known, ReadingId.RECONSTRUCTED, lambda: measure(ctx.model, rows, dense))
    if weights.columns is not None:
        with cutting.as_if_cut(ctx.model, mask, weights.columns, weights.gates):
            yield from _read(ctx, known, _reading_of(weights), lambda: measure(ctx.model, rows, dense))
    return rows, dense


def test_rows(ctx: JobContext) -> list[list[Row]]:
    """The test lines as rows, character by character."""
    found = []
    for part in ctx.parts:
        _, _, test, prefix = encode_lines(part)
        found.append(pack(test, part.job.recipe.row_tokens, prefix))
    return found


def _reading_of(weights: Weights) -> ReadingId:
    """What the mask with these weights is called among the readings."""
    if weights.columns is None:
        return ReadingId.MASK
    return ReadingId.TUNED if weights.gates else ReadingId.RECONSTRUCTED


def _known_readings(ctx: JobContext) -> dict[str, dict]:
    saved = ctx.path("readings.json")
    return read_json(saved) if saved.exists() else {}


def _read(ctx: JobContext, known: dict[str, dict], name: ReadingId, read) -> Stream[None]:  # type: ignore[no-untyped-def]
    """Read once, keep it in readings.json, and say it."""
    if name not in known:
        known[name] = vars(read())
        write_json(ctx.path("readings.json"), known)
    yield Measured(name, "test", **known[name])
    yield Step(StageId.MEASURE, len(known), max(len(known), RUNGS))


def finish_model(ctx: JobContext, data: DistillationData, mask: Tensor, weights: Weights, rows: list[Row],
                 dense: list[Tensor]) -> Stream[None]:
    """Cut the dense model on the ctx, recover and bake it if asked for, and write the reference for the proof.

    The characters of a cast recover by their adapters, beside the model.
    """
    kept = cutting.kept_indices(mask)
    reference = ctx.path("reference.safetensors")
    if ctx.job.baked or (ctx.job.recipe.recover and not ctx.job.members):
        cut(ctx.model, kept, weights.columns, weights.gates)
        if ctx.job.recipe.recover:
            yield from _recover(ctx, data, weights, rows, dense)
        if ctx.job.baked:
            yield from _bake(ctx, data, rows, dense)
        write_reference(ctx.model, rows[0], reference)
        return
    with cutting.as_if_cut(ctx.model, mask, weights.columns, weights.gates):
        if ctx.job.recipe.recover:
            known = _known_readings(ctx)
            yield from _read(ctx, known, _RECOVERED[_reading_of(weights)], lambda: measure(ctx.model, rows, dense))
        write_reference(ctx.model, rows[0], reference)
    cut(ctx.model, kept, weights.columns, weights.gates)


def _recover(ctx: JobContext, data: DistillationData, weights: Weights, rows: list[Row], dense: list[Tensor]) -> Stream[None]:
    yield from recover(ctx, data)
    round_to(ctx.model, ctx.weight_dtype)
    yield from _read(ctx, _known_readings(ctx), _RECOVERED[_reading_of(weights)], lambda: measure(ctx.model, rows, dense))


def _bake(ctx: JobContext, data: DistillationData, rows: list[Row], dense: list[Tensor]) -> Stream[None]:
    yield from bake_model(ctx, data)
    round_to(ctx.model, ctx.weight_dtype)
    known, voice = _known_readings(ctx), short_voice(ctx)
    if (talks := held_talks(ctx, voice, 2)).rows:
        yield from _read(ctx, known, ReadingId.BAKED_TURNS, lambda: talks.read(ctx.model))
    yield from _read(ctx, known, ReadingId.BAKED, lambda: held_lines(ctx, voice, rows, dense, 2).read(ctx.model))


def read_importance(ctx: JobContext, data: DistillationData) -> Stream[ColumnSums | None]:
    """The importance matrix of the final model, from some of the train lines; None where llama.cpp has no such family."""
    if FAMILIES[ctx.model.config.model_type].gguf is None:
        yield Stage(StageId.IMPORTANCE)
        return None
    rows = pack(short_lines(ctx), ctx.job.recipe.row_tokens) if ctx.job.baked else pack(
        data.train, ctx.job.recipe.row_tokens, data.prefix)  # with the prompt that the model will have
    rows = list(some_of(rows))
    yield Stage(StageId.IMPORTANCE, len(rows))
    sums = ColumnSums(ctx.model.config)
    for number in sums.read(ctx.model, rows):
        yield Step(StageId.IMPORTANCE, number, len(rows))
    return sums


def require_export_space(ctx: JobContext, removed: int = 0) -> None:
    """Raise UserError when the disks cannot hold the model in `ctx` without `removed` parameters: in 16 bit, and as GGUF."""
    parameters = sum(parameter.numel() for parameter in ctx.model.parameters()) - removed
    for folder in (ctx.job.out.parent, ctx.folder):
        require_space(folder, int(BYTES_WRITTEN * parameters) + 60_000_000)


def export(ctx: JobContext, mask: Tensor, contents: Contents, importance: ColumnSums | None = None) -> Stream[None]:
    """Write the folder into the work folder, and prove it in a fresh process. `importance`: for its importance matrix."""
    proven = ctx.path(PROVEN)
    with explain_write_errors(ctx.job.out):
        require_export_space(ctx)
        remove_leftovers(proven)
        shutil.rmtree(proven, ignore_errors=True)  # damaged, see is_proven
        with staged_folder(proven) as staging:
            yield Stage(StageId.EXPORT)
            write_folder(staging, ctx.model.to(ctx.weight_dtype), ctx.tokenizer, mask, contents)
            if importance:
                importance.write(staging / MATRIX, f"lines of {ctx.job.card.name}")
            if ctx.job.baked:
                shutil.copytree(ctx.path(ADAPTER), staging / ADAPTER)
            ctx.model = None  # the proof needs the memory
            yield Stage(StageId.PROVE)
            proof = prove(staging, ctx.path("reference.safetensors"), ctx.dtype)
            contents.finish(staging, proof)


def is_proven(ctx: JobContext) -> bool:
    """Whether an earlier process left the proven folder: what remains is to write the GGUF files."""
    folder = ctx.path(PROVEN)
    with suppress(UserError):
        return folder.is_dir() and not check_manifest(folder)
    return False


def deliver(ctx: JobContext) -> Stream[None]:
    """Add the GGUF files to the proven folder, and give it its place and name."""
    proven, out = ctx.path(PROVEN), ctx.job.out
    with explain_write_errors(out):
        yield from write_files(proven)
        files = sorted((proven / GGUF).glob("*.gguf"), key=lambda file: "Q8_0" in file.name)
        if ctx.job.adapters and files:
            yield from write_gguf_adapters(proven, files[0], places(proven))
        report = read_json(proven / "report.json")
        report["stages"] = read_json(ctx.path("meter.json"))
        report["after"]["folder_bytes"] = folder_size(proven)
        write_json(proven / "report.json", report)
        update_manifest(proven, "report.json")
        remove_leftovers(out)
        move_folder(proven, out)
    yield Saved(ArtifactId.MODEL, str(out), folder_size(out))

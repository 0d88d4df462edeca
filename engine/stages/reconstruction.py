"""Stage 3, least-squares W_down: the kept channels take over what the removed ones did.

The start mask is reconstructed before the mask is learned, so that learning knows what reconstructs it; the learned mask after,
and the better of the two on the validation lines goes on. All on the original 16-bit weights. Leaves start.safetensors and
columns.safetensors (the mask, and W_down of its kept channels, a layer each, unless the plain slice read better) and what was
read, in JSON. mask.safetensors then holds the mask that goes on.

What it reads needs no label: beside the train lines it reads extra samples, player lines with their neutral answers after the
persona's prompt, and copies of all these rows with their tokens sampled again (models/packing.py): two forward passes each, and
nothing to write. Leaves the copies' tokens in resampled.safetensors."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.base.events import UNDER_WAY, Stage, Step, Stream
from engine.base.files import read_json, write_json
from engine.base.ids import ReadingId, StageId
from engine.base.job import Recipe
from engine.base.pruning_events import LayerTuned
from engine.calibration.lines import Line, spread
from engine.evaluation.fidelity import measure
from engine.models.chat_format import endings
from engine.models.ffn import masked
from engine.models.packing import Example, Row, pack, relabelled, resample_tokens
from engine.pruning import cutting
from engine.pruning.importance import top_channels
from engine.pruning.reconstruction import RIDGE, SHARE, Refit, can_propagate, refit_apart, refit_propagated
from engine.stages.context import RESAMPLED, JobContext
from engine.stages.lines import extra_lines, unanswered
from engine.stages.mask import DistillationData, measured, snapshot, start_scores
from engine.stages.picture import answer
from engine.stages.work_folder import save_tensors

_READINGS = {StageId.RECONSTRUCT_START: (ReadingId.START_BEFORE, ReadingId.START_AFTER),
             StageId.RECONSTRUCT: (ReadingId.MASK_BEFORE, ReadingId.MASK_AFTER)}
MaskedWeights = tuple[Tensor, list[Tensor] | None]  # a mask (L, d_ff), and W_down (d, k) of its kept channels, a layer each


@dataclass(frozen=True)
class Reconstructed:
    """A mask (L, d_ff), its W_down columns (d, k) a layer in 16 bit (None: the plain slice), and its validation KL."""

    mask: Tensor
    columns: list[Tensor] | None
    kl: float

    @property
    def swap(self) -> tuple[Tensor, list[Tensor]] | None:
        """The mask and its columns, where there are any."""
        return None if self.columns is None else (self.mask, self.columns)


def reconstruct_start(ctx: JobContext, data: DistillationData) -> Stream[Reconstructed | None]:
    """The start mask with its refit; None where nothing is refitted, or the weights are quantised while learning."""
    recipe = ctx.job.recipe
    if not recipe.reconstruct or recipe.load_in != "16bit":
        return None
    mask = top_channels(start_scores(ctx, data), ctx.kept)
    yield snapshot(ctx, data, mask, torch.ones_like(mask), 0)
    return (yield from _refit(ctx, data, mask, "start"))


def reconstruct_learned(ctx: JobContext, data: DistillationData, mask: Tensor, start: Reconstructed | None) -> Stream[
        MaskedWeights]:
    """The learned mask with its refit, or the start with its own where that reads better on the validation lines."""
    if not ctx.job.recipe.reconstruct:
        return mask, None
    if start is not None and (reading := _last_reading(ctx)) > ctx.job.recipe.max_kl_ratio * start.kl:
        yield Stage(StageId.RECONSTRUCT, reused=True)  # the start's
        ctx.notes[StageId.RECONSTRUCT] = {"used": False, "kl": reading}
        return (yield from _keep_start(ctx, data, mask, start, ctx.job.recipe.steps))
    learned = yield from _refit(ctx, data, mask, "columns")
    if start is not None and learned.kl > start.kl:
        return (yield from _keep_start(ctx, data, mask, start, ctx.job.recipe.steps))
    ctx.notes["mask"] = "learned"
    return learned.mask, learned.columns


def _last_reading(ctx: JobContext) -> float:
    """The validation KL of the learned mask with the columns on which it learned: the start's."""
    return next(point["validation_kl"] for point in reversed(read_json(ctx.path("learning.json"))) if "validation_kl" in point)


def learns_mask(recipe: Recipe, start: Reconstructed | None) -> bool:
    """Whether a mask is learned: where learning pays, and wherever there is no refitted start to take instead."""
    return start is None or recipe.sparsity >= recipe.mask_from


def take_start(ctx: JobContext, data: DistillationData, start: Reconstructed) -> Stream[MaskedWeights]:
    """Go on with the start without learning a mask; leaves mask.safetensors and learning.json as learning would."""
    write_json(ctx.path("learning.json"), [{"step": 0, "validation_kl": start.kl, "tokens": 0}])
    save_tensors(ctx.path("mask.safetensors"), {"scores": start_scores(ctx, data)})
    return (yield from _keep_start(ctx, data, start.mask, start, 0))


def _keep_start(ctx: JobContext, data: DistillationData, learned: Tensor, start: Reconstructed, step: int) -> Stream[MaskedWeights]:
    """Go on with the start after `step` steps: the mask shown here and kept in the work folder is the one that is exported."""
    ctx.notes |= {"mask": "start", "best_step": 0}
    if step:
        yield snapshot(ctx, data, start.mask, learned, step)
    found = load_file(ctx.path("mask.safetensors"))
    save_tensors(ctx.path("mask.safetensors"), {**found, "mask": start.mask.to(torch.uint8), "best_step": torch.tensor(0)})
    return start.mask, start.columns


def _refit(ctx: JobContext, data: DistillationData, mask: Tensor, name: str) -> Stream[Reconstructed]:
    """The mask with its refit, or the one that an earlier process refitted: columns belong to the mask they were made for."""
    saved, choice = ctx.path(f"{name}.safetensors"), ctx.path(f"{name}.json")
    stage = StageId.RECONSTRUCT if name == "columns" else StageId.RECONSTRUCT_START
    if choice.exists():
        yield Stage(stage, reused=True)
        notes = read_json(choice)
    else:
        yield Stage(stage, ctx.layers + 2)
        notes = yield from _refit_and_choose(ctx, data, mask, saved, stage)
        write_json(choice, notes)
    ctx.notes[stage] = notes
    found = load_file(saved)
    mask = found.pop("mask").float()
    return Reconstructed(mask, [found[name] for name in sorted(found)] or None, notes["kl"])


def _refit_and_choose(ctx: JobContext, data: DistillationData, mask: Tensor, saved: Path,
                      stage: StageId) -> Stream[dict[str, object]]:
    """Refit, and keep the columns where they read better than the plain slice."""
    before_id, after_id = _READINGS[stage]
    kept = cutting.kept_indices(mask)
    with masked(ctx.model, mask):
        before = measure(ctx.model, data.validation, data.validation_dense)
        yield measured(before_id, "validation", before)
        yield from answer(ctx, before_id)
    yield Step(stage, 1, ctx.layers + 2)
    read = yield from make_rows(ctx, stage, copied=not ctx.tunes_layers)
    columns: list[Tensor] = []
    passed, rows = 0, len(read.rows) + len(data.validation)
    for found in refit_layers(ctx.model, read.rows, kept, data.validation):
        passed = passed + 1 if found is None else 0
        if found is not None:
            columns.append(found.columns.to(ctx.weight_dtype))
            if found.before is not None:
                yield LayerTuned(stage, len(columns) - 1, ctx.layers, found.before, found.after, True)
        yield Step(stage, len(columns) + 1, ctx.layers + 2, {UNDER_WAY: round(min(passed / rows, 1.0), 2)} if passed else {})
    with cutting.as_if_cut(ctx.model, mask, columns):
        after = measure(ctx.model, data.validation, data.validation_dense)
        yield measured(after_id, "validation", after)
        yield from answer(ctx, after_id)
    yield Step(stage, ctx.layers + 2, ctx.layers + 2)
    layers = {f"{index:04d}": column for index, column in enumerate(columns)} if after.kl < before.kl else {}
    save_tensors(saved, {"mask": mask.to(torch.uint8), **layers})
    return {"ridge": RIDGE, "share": SHARE, "propagated": can_propagate(ctx.model),
            **read.beside, "tokens": sum(row.size for row in read.rows),
            "used": after.kl < before.kl, "kl": min(after.kl, before.kl), "kl_before": before.kl}


def refit_layers(model: nn.Module, rows: list[Row], kept: list[Tensor], held_out: Sequence[Row] = ()) -> Iterator[Refit | None]:
    """The refit layer by layer: propagated where the family allows it, else each layer by itself.

    After each row that was read, it yields None: a place to stop.
    """
    if can_propagate(model):
        yield from refit_propagated(model, rows, kept, RIDGE, SHARE, held_out)
    else:
        yield from refit_apart(model, rows, kept, RIDGE, held_out)


@dataclass(frozen=True)
class ReconstructionRows:
    """Packed rows, and what of them are no train lines: `extra_samples`, `neutral_lines`, and `copied_rows`."""

    rows: list[Row]
    beside: dict[str, int]


def make_rows(ctx: JobContext, stage: StageId, copied: bool) -> Stream[ReconstructionRows]:
    """The written rows and, where `copied`, `recipe.resampled_copies` copies of them; a Step for each row that is sampled again."""
    recipe = ctx.job.recipe
    written = written_rows(ctx)
    if not copied:
        return written
    copies = written.rows * recipe.resampled_copies
    saved = ctx.path(RESAMPLED)
    if not saved.exists():
        control = {*ctx.tokenizer.all_special_ids, *endings(ctx.tokenizer)}
        drawn: dict[str, Tensor] = {}
        for number, row in enumerate(copies):
            drawn[f"{number:06d}"] = resample_tokens(ctx.model, row, control, recipe.seed * 1_000_003 + number)
            yield Step(stage, 1, ctx.layers + 2, {"rows sampled again": number + 1})
        save_tensors(saved, drawn)
    found = load_file(saved)
    fresh = [relabelled(row, found[f"{number:06d}"]) for number, row in enumerate(copies)]
    return ReconstructionRows([*written.rows, *fresh], {**written.beside, "copied_rows": len(fresh)})


def written_rows(ctx: JobContext) -> ReconstructionRows:
    """The rows of train lines, extra samples and neutral lines; of a cast character by character."""
    rows: list[Row] = []
    beside = Counter(extra_samples=0, neutral_lines=0, copied_rows=0)
    for part in ctx.parts:
        train, extra, neutral = part.encode(part.split_lines()[0]), part.encode(extra_lines(part)), neutral_examples(part)
        rows += pack([*train, *extra, *neutral], part.job.recipe.row_tokens)
        beside.update(extra_samples=len(extra), neutral_lines=len(neutral))
    return ReconstructionRows(rows, dict(beside))


def neutral_lines(ctx: JobContext) -> list[Line]:
    """Player lines that no train line answers, with their neutral answers, up to `recipe.neutral_lines`."""
    left = [query for query in unanswered(ctx) if query.neutral.strip()]
    return [Line(query.question, query.neutral, query.neutral, query.category, query.source, True)
            for query in spread(left, ctx.job.recipe.neutral_lines, ctx.job.recipe.seed)]


def neutral_examples(ctx: JobContext) -> list[Example]:
    """The neutral lines as tokens, no answer longer than the character's own may be."""
    recipe = ctx.job.recipe
    examples = (replace(example, answer=example.answer[: recipe.answer_tokens]) for example in ctx.encode(neutral_lines(ctx)))
    return [example for example in examples if len(example.prompt) + len(example.answer) <= recipe.row_tokens]

"""Stage 2, sub-network discovery: from lines.jsonl to mask.safetensors.

First the dense model reads all lines once: activation norms and the likeliest
tokens of each answer position are kept, so that every learning step needs the
masked model alone. Then the mask is learned; where nothing is reconstructed, the
validation lines choose the best step. The learning state is written after every step.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.base.events import Stage, Step, Stream
from engine.base.files import read_json, write_json
from engine.base.ids import ReadingId, StageId
from engine.base.pruning_events import MaskSnapshot, Measured
from engine.evaluation.fidelity import Reading, dense_states, measure
from engine.models.ffn import masked
from engine.models.memory_saving import narrowed
from engine.models.packing import Example, Prefix, Row, pack
from engine.pruning import masks
from engine.pruning.cutting import kept_indices, with_columns
from engine.pruning.importance import by_importance, random_scores, rank_normalised, read_activations, top_channels, wanda_scores
from engine.pruning.masks import Learning, Lessons, Target
from engine.stages.context import JobContext
from engine.stages.picture import answer, is_shown, read_others
from engine.stages.work_folder import save_tensors


@dataclass
class DistillationData:
    """What learning needs, encoded: train examples with their targets, validation rows with the dense states."""

    train: list[Example]
    targets: list[Target] | None
    prefix: Prefix
    validation: list[Row]
    validation_dense: list[Tensor]
    norms: Tensor  # (L, d_ff), 2-norms of the dense model's activations on the train lines
    importance: Tensor  # (L, d_ff), Wanda-structured
    others: Tensor  # (L, d_ff), the same by what others than the character say
    parts: list["DistillationData"] = field(default_factory=list)  # of a cast: what each character has of its own

    @property
    def lessons(self) -> Lessons:
        """The train examples with their targets."""
        return Lessons(self.train, self.targets, self.prefix)


def encode_lines(ctx: JobContext) -> tuple[list[Example], list[Example], list[Example], int]:
    """Train, validation and test examples, and the prefix that all of them share."""
    train, choosing, reporting, _ = ctx.split_lines()
    groups = [ctx.encode(lines) for lines in (train, choosing, reporting)]
    return groups[0], groups[1], groups[2], ctx.prefix(*groups)


def read_dense(ctx: JobContext) -> Stream[DistillationData]:
    """One pass of the dense model over all lines; its result is kept in dense.safetensors, that of a cast with each character."""
    if not ctx.job.members:
        return (yield from _read_one(ctx))
    found: list[DistillationData] = []
    for part in ctx.parts:
        found.append((yield from _read_one(part)))
    ctx.notes["train_tokens"] = sum(len(example.answer) for one in found for example in one.train)
    return _joined(found)


def _joined(parts: list[DistillationData]) -> DistillationData:
    """A cast's data. Importances are added up once each is normalised, so that no character counts more than another."""
    every = [one.targets for one in parts]
    return DistillationData(
        [example for one in parts for example in one.train],
        None if None in every else [target for one in every for target in one or ()],
        [prefix for one in parts for prefix in _prefixes(one)], [row for one in parts for row in one.validation],
        [states for one in parts for states in one.validation_dense],
        torch.stack([one.norms for one in parts]).square().sum(0).sqrt(),
        torch.stack([rank_normalised(one.importance) for one in parts]).sum(0),
        torch.stack([rank_normalised(one.others) for one in parts]).sum(0), parts)


def _prefixes(data: DistillationData) -> Sequence[int]:
    return [data.prefix] * len(data.train) if isinstance(data.prefix, int) else data.prefix


def _read_one(ctx: JobContext) -> Stream[DistillationData]:
    """The pass over the lines of one character."""
    recipe = ctx.job.recipe
    train, choosing, _, prefix = encode_lines(ctx)
    validation = pack(choosing, recipe.row_tokens, prefix)
    saved = ctx.path("dense.safetensors")
    if not saved.exists():
        rows = pack(train, recipe.row_tokens, prefix)
        yield Stage(StageId.DENSE, len(rows) + 2)
        others = yield from read_others(ctx, len(rows) + 2)
        found: dict[str, Tensor] = {}
        tokens = 0
        for number, read in enumerate(read_activations(ctx.model, rows), start=1):
            found["norms"] = read.norms
            if recipe.loss == "kl":
                found |= targets_of(ctx, read.row, read.hidden)
            tokens += len(read.row.labels)
            if is_shown(number, len(rows)):
                yield others.beside(ctx, read.spoken, tokens, number, len(rows))
            yield Step(StageId.DENSE, number + 1, len(rows) + 2)
        for number, hidden in enumerate(dense_states(ctx.model, validation)):
            found[f"validation.{number}"] = hidden.float()
        save_tensors(saved, found)
        yield from answer(ctx, ReadingId.DENSE)
    else:
        yield Stage(StageId.DENSE, reused=True)
        others = yield from read_others(ctx, 0)
    found = load_file(saved)
    targets = kept_targets(found, len(train)) if recipe.loss == "kl" else None
    dense = [found[f"validation.{number}"] for number in range(len(validation))]
    ctx.notes["train_tokens"] = sum(len(example.answer) for example in train)
    return DistillationData(train, targets, prefix, validation, dense, found["norms"],
                            wanda_scores(ctx.model, found["norms"]), wanda_scores(ctx.model, others.squares.sqrt()))


def targets_of(ctx: JobContext, row: Row, hidden: Tensor) -> dict[str, Tensor]:
    """The targets of a row's lines under the names that kept_targets reads, from the dense model's final states (N, d)."""
    target = masks.dense_target(ctx.model, hidden, ctx.job.recipe.teacher_top)
    found: dict[str, Tensor] = {}
    for index in row.members:
        own = row.owner == index
        found |= {f"ids.{index}": target.tokens[own], f"logs.{index}": target.log_probability[own]}
    return found


def kept_targets(found: dict[str, Tensor], lines: int) -> list[Target]:
    """The targets of the first `lines` lines, in order."""
    return [Target(found[f"ids.{index}"], found[f"logs.{index}"]) for index in range(lines)]


def whole_mask(ctx: JobContext) -> Tensor:
    """The mask (L, d_ff) of a model from which nothing is removed; leaves mask.safetensors."""
    mask = torch.ones(ctx.layers, ctx.channels)
    save_tensors(ctx.path("mask.safetensors"), {"mask": mask.to(torch.uint8)})
    return mask


def start_scores(ctx: JobContext, data: DistillationData) -> Tensor:
    """The scores (L, d_ff) before the first step, rank-normalised: Wanda's, or random ones."""
    if ctx.job.recipe.start == "wanda":
        return rank_normalised(data.importance)
    return rank_normalised(random_scores(ctx.layers, ctx.channels, ctx.job.recipe.seed))


def find_mask(ctx: JobContext, data: DistillationData,
              reconstructed: tuple[Tensor, Sequence[Tensor]] | None = None) -> Stream[Tensor]:
    """Learn the mask (L, d_ff); leaves mask.safetensors and learning.json.

    Without `reconstructed` it is the mask with the lowest validation KL. With it, the start mask and its W_down columns (d, k)
    a layer, the mask is learned with its reconstruction: on a model that holds these columns. Then the last mask is taken: a
    channel that has come in still has its own column, so the mask reads worse than after a refit of its own.
    """
    target = ctx.path("mask.safetensors")
    if target.exists():
        yield Stage(StageId.LEARN_MASK, reused=True)
        found = load_file(target)
        ctx.notes["best_step"] = int(found["best_step"])
        return found["mask"].float()
    with ExitStack() as stack:
        if reconstructed is not None:
            stack.enter_context(with_columns(ctx.model, kept_indices(reconstructed[0]), reconstructed[1]))
        stack.enter_context(narrowed(ctx.model, ctx.weight_dtype))
        return (yield from _learn(ctx, data, takes_last=reconstructed is not None))


def _learn(ctx: JobContext, data: DistillationData, takes_last: bool) -> Stream[Tensor]:
    recipe = ctx.job.recipe
    yield Stage(StageId.LEARN_MASK, recipe.steps)
    state = _restore(ctx, data)
    curve = read_json(ctx.path("learning.json")) if state.step else []
    curve = [point for point in curve if point["step"] <= state.step]  # it is written just before the state
    if state.best_step < 0:
        yield from _check(ctx, data, state, curve)
    shown, lessons = top_channels(state.scores, ctx.kept), data.lessons
    while state.step < recipe.steps:
        channels = masks.channels_at(state.step, recipe.steps, ctx.kept, ctx.channels, recipe.ramp)
        chosen = masks.order_of_lines(len(data.train), recipe.step_lines, state.step, recipe.seed)
        rows, targets = lessons.step(chosen, recipe.row_tokens)
        loss = masks.learn_step(ctx.model, state, rows, targets, channels, recipe.learning_rate, recipe.checkpointing)
        curve.append({"step": state.step, "loss": loss, "tokens": state.tokens})
        mask = top_channels(state.scores, channels)
        if state.step % recipe.validate_every == 0 or state.step == recipe.steps:
            if channels == ctx.kept:
                yield from _check(ctx, data, state, curve)
            yield snapshot(ctx, data, mask, shown, state.step)
            shown = mask
        _store(ctx, state, curve)
        yield Step(StageId.LEARN_MASK, state.step, recipe.steps, {"loss": loss, "tokens": state.tokens})
    mask, step = (shown, state.step) if takes_last else (state.best_mask, state.best_step)
    ctx.notes["best_step"] = step
    with masked(ctx.model, mask):
        yield from answer(ctx, ReadingId.MASK_STEP)
    save_tensors(ctx.path("mask.safetensors"), {"mask": mask.to(torch.uint8), "scores": state.scores,
                                                  "best_step": torch.tensor(step)})
    return mask


def _check(ctx: JobContext, data: DistillationData, state: Learning, curve: list[dict]) -> Stream[None]:
    """Read the validation lines with the present mask, and remember the mask if it is the best so far."""
    mask = top_channels(state.scores, ctx.kept)
    with masked(ctx.model, mask):
        reading = measure(ctx.model, data.validation, data.validation_dense)
    curve.append({"step": state.step, "validation_kl": reading.kl, "tokens": state.tokens})
    if reading.kl < state.best_kl:
        state.best_mask, state.best_kl, state.best_step = mask, reading.kl, state.step
    yield measured(ReadingId.MASK_STEP, "validation", reading, state.step)


def snapshot(ctx: JobContext, data: DistillationData, mask: Tensor, former: Tensor, step: int) -> MaskSnapshot:
    """The event of a mask (L, d_ff) that has taken the place of a former one."""
    kept = int(mask[0].sum())
    plain = top_channels(data.others, kept)
    return MaskSnapshot(step, 1 - kept / ctx.channels, by_importance(mask, data.others), masks.changes(former, mask),
                        masks.changes(plain, mask))


def measured(what: ReadingId, split: str, reading: Reading, step: int | None = None,
             subject: str = "") -> Measured:
    """The event of a reading."""
    return Measured(what, split, reading.kl, reading.top1, reading.nll, reading.lines, reading.tokens, step, subject)


def _store(ctx: JobContext, state: Learning, curve: list[dict]) -> None:
    write_json(ctx.path("learning.json"), curve)
    save_tensors(ctx.path("learning.safetensors"), state.to_tensors())


def _restore(ctx: JobContext, data: DistillationData) -> Learning:
    """The learning state on disk, or a fresh one: also where version 0.1 left its state, whose optimiser was another."""
    saved = ctx.path("learning.safetensors")
    found = load_file(saved) if saved.exists() else {}
    if "first_moment" in found or not found:
        return Learning(start_scores(ctx, data))
    return Learning.from_tensors(found)

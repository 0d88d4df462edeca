"""Stages 4 and 5: the kept channels of each layer are tuned by themselves; with --recover once more, then the whole by LoRA.

Every layer is written as soon as it is done, so that a stopped job loses one at most. The validation lines decide twice: layer by
layer, so that one that got worse keeps what it began with, and on the whole. Leaves tuned-0000.safetensors and so on (gate, up,
down of the kept channels, and the errors that decided) and tuned.json: what was read, and whether the tuned layers are used.
Tuning again leaves retuned-0000 and so on.

Recovery fine-tunes the cut model towards the dense one, on answers that were written for it and that nothing else has read, or,
where there are none, on the train lines. The dense model reads these answers beforehand, while it is still whole; its targets
stay in recovery_dense.safetensors. Leaves recovered.safetensors, the cut model's merged weights."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.base.events import UNDER_WAY, Event, Stage, Step, Stream, Warned
from engine.base.files import read_json, write_json
from engine.base.ids import ReadingId, StageId
from engine.base.pruning_events import LayerTuned, LayerTuning
from engine.evaluation.fidelity import measure
from engine.models.packing import Example, answer_states, pack
from engine.pruning.adapter import AdapterSettings, Progress, merge, train_adapter
from engine.pruning.cutting import Gates, as_if_cut, kept_indices
from engine.pruning.layer_tuning import LOSSES, Fitting, LayerResult, RowRead, TunedLayer, Tuning, plain_layers, tune_layers
from engine.pruning.reconstruction import RIDGE, SHARE
from engine.stages.context import JobContext
from engine.stages.lines import recovery_lines
from engine.stages.mask import DistillationData, kept_targets, measured, targets_of
from engine.stages.own_answers import loaded_beside, own_lessons
from engine.stages.picture import answer
from engine.stages.reconstruction import ReconstructionRows, make_rows
from engine.stages.work_folder import TensorFile, save_tensors

_READINGS = {StageId.TUNE: (ReadingId.TUNING_BEFORE, ReadingId.TUNING_AFTER),
             StageId.TUNE_AGAIN: (ReadingId.TUNING_AGAIN_BEFORE, ReadingId.TUNING_AGAIN_AFTER)}
READ_EVERY = 6  # layers tuned between two readings of the whole
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
    """One time of tuning: its stage, the name of its files, how, and what each layer begins with (None: its reconstruction)."""

    stage: StageId
    name: str
    tuning: Tuning
    starts: list[TunedLayer] | None = None


def tune(ctx: JobContext, data: DistillationData, mask: Tensor, columns: list[Tensor] | None) -> Stream[Weights]:
    """The mask's tuned layers, or its refitted `columns` where nothing is tuned or where they read better."""
    if columns is None or not ctx.tunes_layers:
        return Weights(columns)
    recipe = ctx.job.recipe
    tuning = Tuning(recipe.tuning_epochs, recipe.tuning_rate, recipe.seed, RIDGE, SHARE, ctx.weight_dtype)
    course = _Course(StageId.TUNE, "tuned", tuning)
    rows = make_rows(ctx, StageId.TUNE, copied=True)
    return (yield from _take(ctx, data, mask, Weights(columns), course, rows)) or Weights(columns)


def tune_again(ctx: JobContext, data: DistillationData, mask: Tensor, weights: Weights) -> Stream[Weights]:
    """The same layers tuned on, on answers that nothing has read (benchmarks/readings.md), or `weights` where they read better."""
    recipe = ctx.job.recipe
    examples = [part.encode(recovery_lines(part)[0]) for part in ctx.parts]
    if weights.columns is None or not recipe.recovery_epochs or not all(examples):
        return weights
    starts = plain_layers(ctx.model, kept_indices(mask), weights.columns, weights.gates)
    tuning = Tuning(recipe.recovery_epochs, recipe.tuning_rate, recipe.seed + 1, RIDGE, SHARE, ctx.weight_dtype)
    course = _Course(StageId.TUNE_AGAIN, "retuned", tuning, starts)
    return (yield from _take(ctx, data, mask, weights, course, _pack(ctx, examples))) or weights


def _pack(ctx: JobContext, examples: list[list[Example]]) -> Stream[ReconstructionRows]:
    """The rows of recovery's answers, of each character by itself, once they are asked for."""
    yield from ()
    rows = [row for own in examples for row in pack(own, ctx.job.recipe.row_tokens)]
    return ReconstructionRows(rows, {"extra_samples": sum(map(len, examples))})


def _take(ctx: JobContext, data: DistillationData, mask: Tensor, before: Weights, course: _Course,
          rows: Stream[ReconstructionRows]) -> Stream[Weights | None]:
    """What a course makes of the weights before it; None where these read better."""
    choice = ctx.path(f"{course.name}.json")
    if choice.exists():
        yield Stage(course.stage, reused=True)
    else:
        yield Stage(course.stage, ctx.layers + 2)
        write_json(choice, (yield from _tune_and_choose(ctx, data, mask, before, course, rows)))
    notes = ctx.notes[course.stage] = read_json(choice)
    if not notes["used"]:
        return None
    layers = [one.layer for one in _known(ctx, course.name)]
    return Weights([layer.down for layer in layers], [(layer.gate, layer.up) for layer in layers], before.refit or before.columns)


def _tune_and_choose(ctx: JobContext, data: DistillationData, mask: Tensor, weights: Weights, course: _Course,
                     rows: Stream[ReconstructionRows]) -> Stream[dict[str, object]]:
    with as_if_cut(ctx.model, mask, weights.columns, weights.gates):
        before = measure(ctx.model, data.validation, data.validation_dense)
    yield measured(_READINGS[course.stage][0], "validation", before)
    yield Step(course.stage, 1, ctx.layers + 2)
    read = yield from rows
    yield from _write_layers(ctx, data, mask, weights, course, read)
    known = _known(ctx, course.name)
    written = [one.layer for one in known]
    with _as_if(ctx, mask, written):
        after = measure(ctx.model, data.validation, data.validation_dense)
        yield measured(_READINGS[course.stage][1], "validation", after)
        yield from answer(ctx, _READINGS[course.stage][1])
    yield Step(course.stage, ctx.layers + 2, ctx.layers + 2)
    return {"epochs": course.tuning.epochs, "rate": course.tuning.rate, "tokens": sum(row.size for row in read.rows),
            **read.beside, "layers_better": sum(one.better for one in known),
            "used": after.kl < before.kl, "kl": min(after.kl, before.kl), "kl_before": before.kl}


def _as_if(ctx: JobContext, mask: Tensor, layers: Sequence[TunedLayer]) -> AbstractContextManager[None]:
    """The model on the ctx as if cut to these layers."""
    return as_if_cut(ctx.model, mask, [layer.down for layer in layers], [(layer.gate, layer.up) for layer in layers])


def _read_on_the_way(ctx: JobContext, data: DistillationData, mask: Tensor, weights: Weights, course: _Course,
                     done: int) -> Stream[None]:
    """Read the model with its lowest `done` layers tuned and the others as they were: for the live picture."""
    assert weights.columns is not None
    plain = plain_layers(ctx.model, kept_indices(mask), weights.columns, weights.gates)
    with _as_if(ctx, mask, [*(one.layer for one in _known(ctx, course.name)), *plain[done:]]):
        found = measure(ctx.model, data.validation, data.validation_dense)
    yield measured(ReadingId.TUNING_STEP, "validation", found, done)


def _write_layers(ctx: JobContext, data: DistillationData, mask: Tensor, weights: Weights, course: _Course,
                  read: ReconstructionRows) -> Stream[None]:
    """Tune the layers that are not written yet, and write each one with the errors that decided."""
    known = _known(ctx, course.name)
    done, stopped = 0, any(one.after is None for one in known)
    reading = 1 / (1 + 2 * course.tuning.epochs)  # of a layer's time: a pass that learns takes about twice as long as reading
    for result in tune_layers(ctx.model, read.rows, data.validation, kept_indices(mask), course.tuning, known, course.starts):
        values = {}
        if isinstance(result, RowRead):
            values = {UNDER_WAY: round(reading * result.share, 3)}
        elif isinstance(result, Fitting):
            values = {UNDER_WAY: round(reading + (1 - reading) * result.share, 3)}
            yield LayerTuning(course.stage, done, result.error)
        else:
            if done >= len(known):
                parts = {name: part.to(ctx.weight_dtype) for name, part in vars(result.layer).items()}
                errors = [result.before, float("nan") if result.after is None else result.after]
                save_tensors(ctx.path(f"{course.name}-{done:04d}.safetensors"),
                             {**parts, ERRORS: torch.tensor(errors, dtype=torch.float64)})
                yield LayerTuned(course.stage, done, ctx.layers, result.before, result.after, result.better)
                if result.after is None and not stopped:
                    stopped = True
                    yield Warned(f"Tuning made the last {LOSSES} layers no better on held-out lines. "
                                 "The remaining layers keep their weights.")
                elif course.stage == StageId.TUNE and not stopped and (done + 1) % READ_EVERY == 0 and done + 1 < ctx.layers:
                    yield from _read_on_the_way(ctx, data, mask, weights, course, done + 1)
            done += 1
        yield Step(course.stage, done + 1, ctx.layers + 2, values)


def _known(ctx: JobContext, name: str) -> list[LayerResult]:
    """The layers that are written, from the lowest on."""
    layers: list[LayerResult] = []
    while (file := ctx.path(f"{name}-{len(layers):04d}.safetensors")).exists():
        found = load_file(file)
        before, after = found.pop(ERRORS).tolist()
        layers.append(LayerResult(TunedLayer(**found), before, None if after != after else after))
    return layers


RECOVERY_DENSE = "recovery_dense.safetensors"


def read_dense_again(ctx: JobContext) -> Stream[None]:
    """One pass of the dense model over the answers that the fine-tune learns from."""
    yield from read_answers(ctx, ctx.encode(recovery_lines(ctx)[1]), RECOVERY_DENSE)


def read_answers(ctx: JobContext, examples: Sequence[Example], name: str) -> Stream[None]:
    """One pass of the dense model over examples; their targets are left in the file `name`, see kept_targets."""
    saved = ctx.path(name)
    if saved.exists() or not examples or ctx.job.recipe.loss != "kl":
        return
    rows = pack(examples, ctx.job.recipe.row_tokens)
    yield Stage(StageId.DENSE, len(rows))
    found: dict[str, Tensor] = {}
    for number, (row, hidden) in enumerate(zip(rows, answer_states(ctx.model, rows), strict=True), start=1):
        found |= targets_of(ctx, row, hidden)
        yield Step(StageId.DENSE, number, len(rows))
    save_tensors(saved, found)


def _recovery_data(ctx: JobContext, data: DistillationData) -> DistillationData:
    """The data with these answers in the place of the train lines, where there are any."""
    examples, saved = ctx.encode(recovery_lines(ctx)[1]), ctx.path(RECOVERY_DENSE)
    if not examples:
        return data
    targets = kept_targets(load_file(saved), len(examples)) if saved.exists() else None
    return replace(data, train=examples, targets=targets, prefix=ctx.prefix(examples))


def recover(ctx: JobContext, data: DistillationData) -> Stream[None]:
    """Fine-tune the cut model in `ctx` by LoRA; the weights with the lowest validation KL replace its own."""
    recipe, target = ctx.job.recipe, ctx.path("recovered.safetensors")
    if target.exists():
        yield Stage(StageId.RECOVER, reused=True)
        ctx.model.load_state_dict({name: value.to(ctx.dtype) for name, value in load_file(target).items()}, strict=False)
        ctx.model.tie_weights()
        return
    yield Stage(StageId.RECOVER, recipe.recovery_steps)
    data = _recovery_data(ctx, data)
    settings = AdapterSettings(recipe.recovery_rank, recipe.recovery_steps, recipe.recovery_step_lines, recipe.recovery_rate,
                               recipe.seed, recipe.row_tokens, 2 * recipe.validate_every, recipe.checkpointing,
                               own_from=recipe.recovery_own_from)
    asked = [(example.prompt, example.prompt) for example in data.train]
    own = own_lessons(ctx, "recovery_own", StageId.RECOVER, asked, settings,
                      lambda _adapted: loaded_beside(ctx)) if settings.own_from < 1 and data.targets is not None else None
    training = train_adapter(ctx.model, data.lessons, lambda: measure(ctx.model, data.validation, data.validation_dense), settings,
                             TensorFile(ctx.path("recovery.safetensors")), own)
    ctx.model = merge((yield from as_events(training, StageId.RECOVER, ReadingId.RECOVERY_STEP, recipe.recovery_steps)))
    save_tensors(target, _weights(ctx))


def as_events(training: Generator[Progress | Event, None, Any], stage: StageId, reading: ReadingId, steps: int,
              subject: str = "") -> Stream[Any]:
    """An adapter's training as the events of a stage; its value is the adapted model."""
    while True:
        try:
            event = next(training)
        except StopIteration as end:
            return end.value
        if not isinstance(event, Progress):
            yield event
            continue
        if event.reading is not None:
            yield measured(reading, "validation", event.reading, event.step, subject)
        if event.loss is not None:
            yield Step(stage, event.step, steps, {"loss": event.loss}, subject=subject)


def _weights(ctx: JobContext) -> dict[str, Tensor]:
    """The model's weights without tied copies."""
    tied = set(getattr(ctx.model, "_tied_weights_keys", None) or []) if ctx.model.config.tie_word_embeddings else set()
    return {name: value for name, value in ctx.model.state_dict().items() if name not in tied}

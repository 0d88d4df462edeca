"""The main job, stage by stage: prune(job, workdir) is a generator of events.

Every stage leaves its result in the work folder, so a job that was killed goes
on where it stopped (`resume`). What each stage does is in engine/stages.
"""

import gc
import importlib.metadata
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from engine.base import migrate
from engine.base.errors import UserError
from engine.base.events import Event, Finished, Saved, Stage, Started, Stream, Warned
from engine.base.files import check_target, explain_write_errors, read_json, slug, write_json
from engine.base.process import is_out_of_memory, return_freed_memory
from engine.base.pruning_events import Measured
from engine.cards.baked import bake
from engine.cards.fields import data_of
from engine.evaluation.fidelity import dense_states
from engine.export.cast import CastCharacter
from engine.export.folder import Contents
from engine.models.ffn import count_tokens
from engine.stages.baking import make_talks, read_dense_for_baking, require_room, short_voice
from engine.stages.characters import finish_characters, read_for_adapters
from engine.stages.context import Job, JobContext, halve, load_dense, open_workdir, stages_of, with_less_at_once
from engine.stages.finish import deliver, export, finish_model, is_proven, measure_ladder, read_importance, require_export_space
from engine.stages.lines import make_lines, write_extra_samples
from engine.stages.mask import DistillationData, find_mask, read_dense, whole_mask
from engine.stages.reconstruction import (
    MaskedWeights,
    Reconstructed,
    learns_mask,
    reconstruct_learned,
    reconstruct_start,
    take_start,
)
from engine.stages.tuning import Weights, read_dense_again, tune, tune_again
from engine.stages.work_folder import hold_answers, set_damaged_aside

PACKAGES = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "safetensors")
Until = Literal["lines", "samples"] | None


def prune(job: Job, workdir: Path | None = None, resume: bool = False, until: Until = None) -> Iterator[Event]:
    """Run the job and leave the exported folder at `job.out`. Raises UserError for all that a user can fix.

    Closing the generator stops the job within one step; calling it again with `resume` goes on. With `until` "lines"
    it ends when lines.jsonl is written, with "samples" when the extra samples are, too; `job.out` is not looked at, and a later
    call without it goes on from there. A job with members makes one model for all of them.
    """
    folder = workdir or job.default_workdir()
    if until is None:
        check_out(job.out, folder)
    with explain_write_errors(folder):
        resumed = open_workdir(job, folder, resume)
    yield Started(job.card.name, job.model, job.recipe.sparsity, stages_of(job, until), resumed)
    for place in [one.folder for one in job.members] + [folder] * resumed:
        yield from set_damaged_aside(place)
    ctx = JobContext(with_less_at_once(job, folder), folder)
    meter = _Meter(folder / "meter.json")
    started = time.perf_counter()
    for event in _lines(ctx, meter, until) if until else _stages(ctx, meter):
        meter.watch(event)
        yield event
    out = "" if until else str(job.out.absolute())  # the events may be read from anywhere
    yield Finished(out, time.perf_counter() - started)


def prune_persistently(job: Job, workdir: Path, resume: bool = False, until: Until = None) -> Iterator[Event]:
    """As `prune`; when the memory is not enough, once more from where it stopped, with half as much at once."""
    try:
        yield from prune(job, workdir, resume, until)
        return
    except Exception as error:
        if not is_out_of_memory(error) or not halve(job, workdir):
            raise
    # Outside the except block, where the error still holds what was computed.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return_freed_memory()
    yield Warned("Memory ran out. The job continues with half the batch size, which takes a little longer.")
    yield from prune(job, workdir, True, until)


def _lines(ctx: JobContext, meter: "_Meter", until: Until) -> Stream[None]:
    if until == "samples" or (not ctx.path("lines.jsonl").exists() and not ctx.job.lines):
        yield from load_dense(ctx, ctx.job.recipe.load_in)
        meter.count_tokens_of(ctx.model)
        require_room(ctx)
    yield from make_lines(ctx)
    if until == "samples":
        yield from write_extra_samples(ctx)
        if ctx.job.recipe.bake:
            yield from make_talks(ctx)
        hold_answers(ctx.folder)


def _stages(ctx: JobContext, meter: "_Meter") -> Stream[None]:
    if is_proven(ctx):
        for stage, subject in stages_of(ctx.job)[:-1]:
            yield Stage(stage, reused=True, subject=subject)
    else:
        yield from _make_folder(ctx, meter)
    yield from deliver(ctx)


def _make_folder(ctx: JobContext, meter: "_Meter") -> Stream[None]:
    recipe = ctx.job.recipe
    yield from load_dense(ctx, recipe.load_in if recipe.sparsity else "16bit")
    for part in ctx.parts:  # refused now rather than after all the work
        if recipe.bake:
            short_voice(part)
        require_room(part)
    require_export_space(ctx, ctx.removed)  # said now rather than after all the work
    meter.count_tokens_of(ctx.model)
    for part in ctx.parts:
        yield from make_lines(part)
        yield from write_extra_samples(part)
        if recipe.bake:
            yield from make_talks(part)
        hold_answers(part.folder)
    data = yield from read_dense(ctx)
    yield from read_for_adapters(ctx) if ctx.job.members else read_dense_again(ctx)
    if recipe.bake:
        for part in ctx.parts:
            yield from read_dense_for_baking(part)
    mask, weights = (yield from _choose(ctx, meter, data)) if recipe.sparsity else (whole_mask(ctx), Weights(None))
    rows, dense = yield from measure_ladder(ctx, data, mask, weights)
    before = {"parameters": sum(parameter.numel() for parameter in ctx.model.parameters()),
              "bytes": _weight_bytes(ctx), "intermediate_size": ctx.channels}
    if recipe.recover:
        weights = yield from tune_again(ctx, data, mask, weights)
    yield from finish_model(ctx, data, mask, weights, rows, dense)
    importance = yield from read_importance(ctx, data)
    yield from _warn_when_worse(ctx)
    characters = yield from finish_characters(ctx, data, dense)
    assert ctx.source
    card = bake(ctx.job.card) if ctx.job.baked else ctx.job.card
    report = _report(ctx, meter, before, characters)
    contents = Contents(None if characters else card.raw, report, ctx.source.folder, characters)
    yield from export(ctx, mask, contents, importance)


def _choose(ctx: JobContext, meter: "_Meter", data: DistillationData) -> Stream[tuple[Tensor, Weights]]:
    """The mask, and what its layers hold."""
    start = yield from reconstruct_start(ctx, data)
    if learns_mask(ctx.job.recipe, start):
        mask, columns = yield from _learn_mask(ctx, meter, data, start)
    else:
        assert start is not None
        mask, columns = yield from take_start(ctx, data, start)
    return mask, (yield from tune(ctx, data, mask, columns))


def _learn_mask(ctx: JobContext, meter: "_Meter", data: DistillationData, start: Reconstructed | None) -> Stream[MaskedWeights]:
    """The learned mask with its refit, or the start where that reads better."""
    learned = yield from find_mask(ctx, data, start.swap if start else None)
    if ctx.job.recipe.load_in != "16bit":
        # The cut, and all that is measured from here on, is about the original weights.
        yield from load_dense(ctx, "16bit")
        data.validation_dense = dense_states(ctx.model, data.validation)
        meter.count_tokens_of(ctx.model)
    return (yield from reconstruct_learned(ctx, data, learned, start))


def check_out(out: Path, workdir: Path) -> None:
    """Raise UserError when the folder cannot become the export, or holds the work folder."""
    check_target(out)
    if out.absolute() in (workdir.absolute(), *workdir.absolute().parents):
        raise UserError(f"The work folder {workdir} must not be inside the output folder.", "Give another --workdir.")


def _weight_bytes(ctx: JobContext) -> int:
    assert ctx.source is not None
    return sum(file.stat().st_size for file in ctx.source.folder.glob("*.safetensors"))


def _warn_when_worse(ctx: JobContext) -> Iterator[Event]:
    readings = read_json(ctx.path("readings.json"))
    final = list(readings.values())[-1]
    if final["kl"] > 1.0:
        yield Warned(f"The pruned model is far from the dense one (KL {final['kl']:.2f} nats a token): "
                     "try a lower sparsity, more steps or --recover.")


def _report(ctx: JobContext, meter: "_Meter", before: dict[str, Any], characters: Sequence[CastCharacter]) -> dict[str, Any]:
    """Everything measured, as JSON; of a cast the lines of all."""
    job, source, parts = ctx.job, ctx.source, ctx.parts
    assert source is not None
    train, validation, test = ([line for lines in group for line in lines]
                               for group in zip(*(part.split_lines()[:3] for part in parts), strict=True))
    rejected = sum((Counter(read_json(part.path("rejected.json"))) for part in parts), Counter[str]())
    curve = ctx.path("learning.json")
    return {
        "format": migrate.FORMAT, "character": job.card.name, "slug": slug(job.card.char),
        "base": {"name": source.config.get("_name_or_path") or Path(source.name).name,
                 "hub": "" if Path(source.name).exists() else source.name if source.revision else "",
                 "revision": source.revision, "family": source.config["model_type"], "licence": source.licence,
                 "licence_name": source.front_matter.get("license_name", ""),
                 "licence_link": source.front_matter.get("license_link", ""),
                 "origin": source.front_matter.get("base_model", "")},
        "recipe": job.recipe.to_dict(),
        "lines": {"train": len(train), "validation": len(validation), "test": len(test),
                  "rejected": dict(rejected),
                  "sources": {name: sum(line.source == name for line in train) for name in {line.source for line in train}}},
        "readings": read_json(ctx.path("readings.json")),
        **({"characters": {one.id: {"name": str(data_of(one.card).get("name")), **one.report} for one in characters}}
           if characters else {}),
        "learning": read_json(curve) if curve.exists() else [],
        "choices": ctx.notes, "before": before, "after": {"intermediate_size": ctx.kept},
        "stages": meter.stages, "dtype": str(ctx.dtype).removeprefix("torch."),
        "weights": str(ctx.weight_dtype).removeprefix("torch."),
        "machine": {"device": "cuda" if torch.cuda.is_available() else "cpu", "threads": torch.get_num_threads(),
                    "platform": platform.platform()},
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}},
        "day": read_json(ctx.path("job.json")).get("day"),  # the one that the chat template writes, where it writes any
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


class _Meter:
    """Seconds and model tokens of each stage, over all processes that worked on the job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stages: dict[str, dict[str, float]] = read_json(path) if path.exists() else {}
        self.current = ""
        self.since = time.perf_counter()
        self.tokens = 0

    def count_tokens_of(self, model: Any) -> None:
        """Count every token that enters the model's embedding from now on."""

        def add(tokens: int) -> None:
            self.tokens += tokens

        count_tokens(model, add)

    def watch(self, event: Event) -> None:
        """Book what passed since the last event."""
        now = time.perf_counter()
        if self.current:
            book = self.stages.setdefault(self.current, {"seconds": 0.0, "tokens": 0})
            book["seconds"] = round(book["seconds"] + now - self.since, 3)
            book["tokens"] += self.tokens
        self.since, self.tokens = now, 0
        if isinstance(event, Stage):
            self.current = "" if event.reused else event.stage
        if not isinstance(event, Measured | Saved):
            write_json(self.path, self.stages)


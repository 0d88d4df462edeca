"""The job that all stages work on: its specification, its work folder, and the dense model.

A stage is a generator of events that reads what earlier stages left in the work
folder and leaves its own result there, whole or not at all; a result that is
there already is used, not computed again. The work folder belongs to one
specification: its fingerprint is in job.json.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from engine.base import migrate
from engine.base.errors import UserError
from engine.base.events import Stage, Stream
from engine.base.files import data_folder, read_json, sha256, slug, write_json
from engine.base.ids import ErrorCode, StageId
from engine.base.job import PruneJob, Recipe
from engine.base.sizes import channels_kept
from engine.calibration.lines import Line, held_out, read_lines
from engine.calibration.rewriting import Voice, encode_line
from engine.calibration.teacher import OwnTeacher, Teacher, find_teacher
from engine.cards.card import Card, parse_card
from engine.cards.files import read_card
from engine.models.ffn import feed_forwards
from engine.models.loading import ModelSource, load_model, load_tokenizer, locate, parse_dtype
from engine.models.packing import Example, shared_prefix
from engine.pruning.reconstruction import can_propagate

SHORT = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}
STAGES = [(stage, "") for stage in (
    StageId.LOAD, StageId.SCORE, StageId.ASK, StageId.ANSWERS, StageId.SAMPLES, StageId.TALKS, StageId.DENSE,
    StageId.RECONSTRUCT_START, StageId.LEARN_MASK, StageId.RECONSTRUCT, StageId.TUNE, StageId.TUNE_AGAIN, StageId.RECOVER,
    StageId.BAKE, StageId.MEASURE, StageId.IMPORTANCE, StageId.EXPORT, StageId.PROVE, StageId.GGUF_FILES)]
_LAST_STAGE = {"lines": StageId.ANSWERS, "samples": StageId.TALKS}  # of a job with --until
RESAMPLED = "resampled.safetensors"
LEAST_ROW = 256  # tokens of a packed row: with less, the persona's prompt is all that fits


@dataclass(frozen=True)
class Member:
    """A character of a cast: its own job, and the work folder where its lines are."""

    job: "Job"
    folder: Path

    @property
    def id(self) -> str:
        """What the character is called in the cast's folder."""
        return slug(self.job.card.name)


@dataclass(frozen=True)
class Job:
    """What the user asked for. `out` is where the folder goes; everything else shapes the result.

    `members`: the characters of a cast, for which one model is made; `card` then only has the cast's name. `adapters`: whether
    each gets one.
    """

    card: Card
    model: str
    out: Path
    recipe: Recipe
    dtype: str = "auto"
    teacher: Teacher = field(default_factory=OwnTeacher)
    queries: Path | None = None
    lines: Path | None = None
    members: tuple[Member, ...] = ()
    adapters: bool = False

    @classmethod
    def of(cls, asked: PruneJob, card: Card) -> "Job":
        """The job that was asked for, about a card that has been read."""
        teacher = find_teacher(asked.teacher, asked.teacher_model or None, asked.recipe)
        queries, lines = (Path(name) if name else None for name in (asked.queries, asked.lines))
        return cls(card, asked.model, Path(asked.out), asked.recipe, asked.dtype, teacher, queries, lines)

    @property
    def baked(self) -> bool:
        """Whether the model itself is baked; the characters of a cast have this in their adapters."""
        return self.recipe.bake and not self.members

    @classmethod
    def of_cast(cls, asked: PruneJob) -> "Job":
        """The job of a cast, whose characters have their lines already. Raises UserError where one's are of another model."""
        members = []
        for file in asked.cast:
            own = PruneJob.of(read_json(Path(file)))
            if own.model != asked.model:
                raise UserError(f"The lines of {own.card} were made with {own.model}, and the cast is pruned on {asked.model}.",
                                "The characters of a cast need one model.")
            members.append(Member(cls.of(own, read_card(own.card)), Path(own.workdir)))
        name = parse_card(json.dumps({"name": asked.card, "description": "A cast."}).encode(), "The cast")
        return cls(name, asked.model, Path(asked.out), asked.recipe, asked.dtype, members=tuple(members), adapters=asked.adapters)

    def fingerprint(self) -> str:
        """Hash of all that shapes the result (not of `out`)."""
        shape: dict[str, Any] = {"card": self.card.raw, "model": self.model, "recipe": self.recipe.former(), "dtype": self.dtype,
                 "teacher": self.teacher.identity,
                 "queries": sha256(self.queries) if self.queries else None,
                 "lines": sha256(self.lines) if self.lines else None}
        if self.members:
            shape |= {"members": [one.job.fingerprint() for one in self.members], "adapters": self.adapters}
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()

    def default_workdir(self) -> Path:
        """jobs/<character>-<fingerprint> in the data folder."""
        return data_folder() / "jobs" / f"{slug(self.card.char)}-{self.fingerprint()[:10]}"


@dataclass
class JobContext:
    """A job with its work folder and, once loaded, its dense model. `notes` goes into the report."""

    job: Job
    folder: Path
    source: ModelSource | None = None
    tokenizer: Any = None
    model: Any = None
    dtype: Any = None
    notes: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """A file of the work folder."""
        return self.folder / name

    @property
    def parts(self) -> "list[JobContext]":
        """What is read character by character: the members of a cast, each in its own work folder; else the job itself."""
        return [replace(self, job=replace(one.job, recipe=self.job.recipe), folder=one.folder, notes={})
                for one in self.job.members] or [self]

    @property
    def voice(self) -> Voice:
        """The character as the sampler needs it."""
        return Voice.of(self.job.card, self.tokenizer)

    @property
    def channels(self) -> int:
        """d_ff of the dense model."""
        assert self.source is not None
        return int(self.source.config["intermediate_size"])

    @property
    def layers(self) -> int:
        """L of the dense model."""
        return len(feed_forwards(self.model))

    @property
    def kept(self) -> int:
        """k, the channels each layer keeps."""
        return channels_kept(self.channels, self.job.recipe.sparsity, self.job.recipe.multiple)

    @property
    def removed(self) -> int:
        """Parameters of the dense model that the cut removes."""
        return 3 * self.layers * int(self.model.config.hidden_size) * (self.channels - self.kept)

    @property
    def weight_dtype(self) -> torch.dtype:
        """The 16-bit dtype in which the folder is written: the source's own, where it is 16 bit."""
        assert self.source is not None
        return torch.float16 if self.source.own_dtype == "float16" else torch.bfloat16

    @property
    def tunes_layers(self) -> bool:
        """Whether the layers are tuned after reconstruction.

        Then tuning alone reads copies: the reconstruction is what mask learning builds on, and what the tuned layers are
        compared with.
        """
        recipe = self.job.recipe
        return recipe.reconstruct and recipe.tuning_epochs > 0 and can_propagate(self.model)

    def split_lines(self) -> tuple[list[Line], list[Line], list[Line], bool]:
        """Train, validation and test lines, and whether the last two are the same for want of lines."""
        lines = read_lines(self.path("lines.jsonl"))
        choosing, reporting, shared = held_out(lines, self.job.recipe.validation_lines, self.job.recipe.test_lines)
        return [line for line in lines if line.split == "train"], choosing, reporting, shared

    def encode(self, lines: Sequence[Line]) -> list[Example]:
        """Token ids of lines after the persona's prompt."""
        voice = self.voice
        return [encode_line(self.tokenizer, voice, line.question, line.answer, line.complete) for line in lines]

    def prefix(self, *groups: Sequence[Example]) -> int:
        """The prefix that all examples of all groups share."""
        return shared_prefix([example for group in groups for example in group])


def stages_of(job: Job, until: str | None = None) -> list[tuple[StageId, str]]:
    """A job's stages, each with its subject, in order."""
    if until:
        return STAGES[:STAGES.index((_LAST_STAGE[until], "")) + 1]
    own = [(StageId.ADAPT, member.id) for member in job.members if job.adapters]
    end = STAGES.index((StageId.EXPORT, ""))
    return [*STAGES[:end], *own, *STAGES[end:]]


def open_workdir(job: Job, folder: Path, resume: bool) -> bool:
    """Claim a work folder for a job; true where an earlier run's results are there.

    Raises UserError when it holds a run and `resume` is false, or another job's.
    """
    record = folder / "job.json"
    if record.exists():
        migrate.work_folder(folder)
        if _read_record(record).get("fingerprint") != job.fingerprint():
            raise UserError(f"The work folder {folder} belongs to a job with other settings.",
                            "Give the same settings as before, or another --workdir.")
        if not resume:
            raise UserError(f"A job with these settings was already started in {folder}.",
                            "Add --resume to continue it, or give another --workdir.")
        return True
    folder.mkdir(parents=True, exist_ok=True)
    if any(file.name != "events.jsonl" for file in folder.iterdir()):  # an attempt that never began leaves its reason there
        raise UserError(f"The work folder {folder} is not empty and holds no job.", "Choose an empty or a new one.")
    write_json(record, {"format": migrate.FORMAT, "fingerprint": job.fingerprint(), "model": job.model, "character": job.card.name,
                        "dtype": None, "day": date.today().isoformat(), "sealed": True, "recipe": job.recipe.to_dict(),
                        "card": job.card.raw})
    return False


def _read_record(file: Path) -> dict[str, Any]:
    """What job.json holds. Raises UserError when it is damaged: it no longer says whose results these are."""
    try:
        record = read_json(file)
    except UserError:
        record = None
    if isinstance(record, dict) and record.get("dtype") in (None, *SHORT.values()):
        return record
    raise UserError(f"The work folder {file.parent} is damaged: its {file.name} cannot be read.",
                    "Delete the folder, then run the same command with --resume to start over.", ErrorCode.WORK_DAMAGED)


def with_less_at_once(job: Job, folder: Path) -> Job:
    """The job with the batch sizes that an earlier lack of memory left in its work folder."""
    record = folder / "less_at_once.json"
    return replace(job, recipe=job.recipe.changed(**read_json(record))) if record.exists() else job


def halve(job: Job, folder: Path) -> bool:
    """Halve the batch sizes for all that is still to be done in a work folder; false where they are the smallest."""
    recipe = with_less_at_once(job, folder).recipe
    less = {"batch_lines": max(1, recipe.batch_lines // 2),
            "row_tokens": min(recipe.row_tokens, max(LEAST_ROW, recipe.row_tokens // 2))}
    if less == {name: getattr(recipe, name) for name in less}:
        return False
    write_json(folder / "less_at_once.json", less)
    for place in (folder, *(one.folder for one in job.members)):
        for name in ("dense.safetensors", RESAMPLED):  # they hold what belongs to rows of the former size
            (place / name).unlink(missing_ok=True)
    return True


def load_dense(ctx: JobContext, load_in: str) -> Stream[None]:
    """Put the dense model and its tokenizer on the ctx, at the weights' precision `load_in`.

    The arithmetic's dtype is chosen once and kept in the work folder, so that a resumed job computes alike.
    """
    yield Stage(StageId.LOAD)
    if ctx.source is None:
        ctx.source = yield from locate(ctx.job.model)
    record = read_json(ctx.path("job.json"))
    day = _day_of(ctx, record)
    if not record.get("dtype"):
        record["dtype"] = SHORT[str(parse_dtype(ctx.job.dtype, own=ctx.source.own_dtype))]
        write_json(ctx.path("job.json"), record)
    ctx.dtype = parse_dtype(record["dtype"])
    assert ctx.kept  # says at once when nothing would be left
    ctx.tokenizer = load_tokenizer(ctx.source, day)
    ctx.model = None  # the old one goes before the new one comes
    ctx.model = load_model(ctx.source, ctx.dtype, load_in)
    if load_in == "16bit":
        round_to(ctx.model, ctx.weight_dtype)  # of a 32-bit source; from here on the dense model is what a 16-bit folder can hold


def _day_of(ctx: JobContext, record: dict[str, Any]) -> date:
    """The day on which a job began: the one that chat templates write into prompts, also when it goes on after midnight."""
    file = ctx.path("job.json")
    if "day" not in record:  # begun by an earlier version, which wrote this file on that day
        record["day"] = date.fromtimestamp(file.stat().st_mtime).isoformat()
        write_json(file, record)
    try:
        return date.fromisoformat(record["day"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{file} is damaged: its day is not a date.", "Delete the work folder and start again.") from error


@torch.no_grad()
def round_to(model: Any, dtype: torch.dtype) -> None:
    """Round every weight to the 16 bit that will be written, so that what is measured is what is shipped."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(dtype))

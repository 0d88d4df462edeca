"""The cells of a benchmark: the dense model, each character's lines and dense pass, and each cell's masks.

Lines and the dense pass are made once for a character and a seed, by the main
job's own stages; every method's work folder begins with links to them, so each
stage resumes where it stopped. Masks lie in a folder named by the knobs that
shape them: methods that ask for the same mask share it, and a changed recipe
never finds another's.
"""

import dataclasses
import os
from collections.abc import Generator
from itertools import dropwhile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from benchmarks.meter import Counter, Spent, metered, watched
from benchmarks.plan import Plan, fingerprint
from engine.base.events import Event
from engine.base.files import write_atomic, write_json
from engine.base.job import Recipe
from engine.base.sizes import channels_kept
from engine.calibration.lines import Line
from engine.cards.card import Card
from engine.evaluation.fidelity import dense_states
from engine.models.packing import Row, pack
from engine.stages.context import Job, JobContext, load_dense
from engine.stages.lines import answer_files, make_lines, write_extra_samples
from engine.stages.mask import DistillationData, encode_lines, find_mask, read_dense
from engine.stages.reconstruction import written_rows
from engine.stages.work_folder import save_tensors

SHARED = ("lines.jsonl", "rejected.json", "dense.safetensors")
AFTER_THE_MASK = tuple(dropwhile(lambda name: name != "reconstruct", Recipe.model_fields))  # that knob and all below it


@dataclasses.dataclass
class Dense:
    """The dense model, loaded once for all cells, and the counter of its tokens."""

    ctx: JobContext
    counter: Counter

    @property
    def model(self) -> Any:
        """The model itself; every method leaves it as it was."""
        return self.ctx.model


def load(plan: Plan) -> Generator[Event, None, Dense]:
    """Load the plan's model. Raises UserError where a sparsity leaves it nothing, or takes nothing."""
    job = Job(next(iter(plan.characters.values())), plan.model, Path(), plan.recipe(plan.sparsities[0], 0), plan.dtype)
    ctx = JobContext(job, plan.model_folder)
    if not ctx.path("job.json").exists():
        write_json(ctx.path("job.json"), {"model": plan.model, "dtype": None})
    yield from load_dense(ctx, "16bit")
    for sparsity in plan.sparsities:
        channels_kept(ctx.channels, sparsity, plan.recipe(sparsity, 0).multiple)
    return Dense(ctx, Counter(ctx.model))


@dataclasses.dataclass
class Subject:
    """A character and a seed on the dense model, once `prepare` has run: the train and test rows and what the test lines are.

    refit_rows: the rows that every least squares reads: train lines, extra samples and neutral ones; grams: their Gram matrices
    (d_ff, d_ff) by layer, once a method needed them; states: the dense model's final states (N, d) of each test row's
    answer tokens.
    """

    plan: Plan
    name: str
    seed: int
    dense: Dense
    train: list[Row] = dataclasses.field(default_factory=list)
    refit_rows: list[Row] = dataclasses.field(default_factory=list)
    grams: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    test: list[Row] = dataclasses.field(default_factory=list)
    lines: list[Line] = dataclasses.field(default_factory=list)
    states: list[Tensor] = dataclasses.field(default_factory=list)

    @property
    def card(self) -> Card:
        """The character's card."""
        return self.plan.characters[self.name]

    @property
    def folder(self) -> Path:
        """Where what all its cells share is kept."""
        return self.plan.subject_folder(self.name, self.seed)

    def context(self, folder: Path, recipe: Recipe) -> JobContext:
        """The dense model in a work folder that begins with the shared lines and the shared dense pass."""
        folder.mkdir(parents=True, exist_ok=True)
        job = Job(self.card, self.plan.model, Path(), recipe, self.plan.dtype, lines=self.plan.lines)
        shared = self.dense.ctx
        ctx = JobContext(job, folder, shared.source, shared.tokenizer, shared.model, shared.dtype)
        for name in (*SHARED, *(file.name for file in answer_files(ctx))):
            _link(self.folder / "lines" / name, folder / name)
        return ctx

    def prepare(self) -> Generator[Event, None, None]:
        """Make the lines and read the dense model on them, or find both."""
        # Targets are read also where the preset learns by cross entropy, for the methods that do not.
        recipe = self.plan.recipe(0.25, self.seed).changed(loss="kl")
        ctx = self.context(self.folder / "lines", recipe)
        yield from make_lines(ctx)
        yield from write_extra_samples(ctx)
        if not ctx.path("dense.safetensors").exists():
            yield from metered(read_dense(ctx), self.dense.counter, self.folder / "dense.cost.json")
        train, _, reporting, prefix = encode_lines(ctx)
        self.train, self.test = (pack(group, recipe.row_tokens, prefix) for group in (train, reporting))
        self.refit_rows = written_rows(ctx).rows
        self.lines = ctx.split_lines()[2]
        self.states = yield from watched("read the test lines", sum(row.size for row in self.test), self.dense.counter,
                                         lambda: dense_states(self.dense.model, self.test))

    def answer(self, recipe: Recipe) -> Generator[Event, None, Spent]:
        """Write the extra samples that a recipe needs and that are not there yet; what they cost."""
        ctx, cost = self.context(self.folder / "lines", recipe), self.folder / "answers.cost.json"
        if not cost.exists() or not all(file.exists() for file in answer_files(ctx)):
            yield from metered(write_extra_samples(ctx), self.dense.counter, cost, resumes=True)
        return Spent.read(cost)

    def dense_pass(self) -> Spent:
        """What the dense pass over train and validation lines cost."""
        return Spent.read(self.folder / "dense.cost.json")


@dataclasses.dataclass
class Cell:
    """A subject at a sparsity."""

    subject: Subject
    sparsity: float

    @property
    def model(self) -> Any:
        """The dense model."""
        return self.subject.dense.model

    @property
    def counter(self) -> Counter:
        """The counter of the dense model's tokens."""
        return self.subject.dense.counter

    @property
    def recipe(self) -> Recipe:
        """The preset's recipe for this cell."""
        return self.subject.plan.recipe(self.sparsity, self.subject.seed)

    @property
    def folder(self) -> Path:
        """Where the cell's own results are kept."""
        return self.subject.plan.cell_folder(self.subject.name, self.subject.seed, self.sparsity)

    @property
    def channels(self) -> int:
        """d_ff of the dense model."""
        return self.subject.dense.ctx.channels

    @property
    def kept(self) -> int:
        """k, the channels that each layer keeps."""
        return channels_kept(self.channels, self.sparsity, self.recipe.multiple)

    def data(self, folder: Path, recipe: Recipe) -> Generator[Event, None, tuple[JobContext, DistillationData]]:
        """A job in `folder` and the data of the shared dense pass."""
        ctx = self.subject.context(folder, recipe)
        return ctx, (yield from read_dense(ctx))

    def learn(self, recipe: Recipe) -> Generator[Event, None, tuple[Tensor, Spent]]:
        """The mask (L, d_ff) that the main job's stage learns by a recipe, and its price, with the dense pass where it is used."""
        folder = mask_folder(self.folder, recipe)
        ctx, data = yield from self.data(folder, recipe)
        if ctx.path("mask.safetensors").exists():
            mask = load_file(ctx.path("mask.safetensors"))["mask"].float()
        else:
            mask = yield from metered(find_mask(ctx, data), self.counter, folder / "cost.json", resumes=True)
        needed = recipe.loss == "kl" or recipe.start != "random"
        return mask, Spent.read(folder / "cost.json") + (self.subject.dense_pass() if needed else Spent())

    def keep(self, folder: Path, name: str, work: Generator[Event, None, dict[str, Tensor]]) -> Generator[
            Event, None, tuple[dict[str, Tensor], Spent]]:
        """The tensors that `work` returns, kept in `folder` under `name`, and their price; work that is done is not begun."""
        saved, cost = folder / f"{name}.safetensors", folder / f"{name}.cost.json"
        if not saved.exists():
            save_tensors(saved, (yield from metered(work, self.counter, cost)))
        return load_file(saved), Spent.read(cost)


def mask_folder(cell: Path, recipe: Recipe) -> Path:
    """Where, in a cell's folder, the mask learned by a recipe lies: named by all knobs but those of what comes after it."""
    knobs = {name: value for name, value in recipe.to_dict().items() if name not in AFTER_THE_MASK}
    return cell / "masks" / f"{recipe.loss}-{recipe.start}-{fingerprint(knobs)}"


def _link(source: Path, target: Path) -> None:
    """A hard link to a finished file, or a copy where the disk has no hard links."""
    if source == target or target.exists() or not source.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        write_atomic(target, source.read_bytes())

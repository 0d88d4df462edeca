"""What is measured of a pruned model: each module of this package registers its measures by `@measure`.

The first three read the held-out test lines against the dense model. Adding a measure means adding a file: it gets a key in
every new row, and a column in the tables. Older rows have None there.
"""

import importlib
import pkgutil
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell
from benchmarks.meter import watched
from benchmarks.methods import DENSE
from benchmarks.pruned import Pruned
from benchmarks.replies import greedy_replies
from engine.base.events import Event
from engine.base.files import write_json
from engine.base.ids import ReadingId
from engine.calibration.rewriting import Voice
from engine.evaluation.fidelity import LineReadings, Reading, compare_lines
from engine.models.chat_format import encode_chat, endings
from engine.models.packing import answer_states
from engine.models.sampling import Sampled
from engine.stages.mask import measured

QUESTIONS, REPLY_TOKENS = 16, 40


@dataclass
class Trial:
    """A pruned model while it is measured.

    model: the model itself, `cell.model` under its mask where it is no copy; lines: its readings on each test line;
    questions, replies: the first QUESTIONS test questions and its greedy replies to them; details: what a measure wants to
    have kept beside the readings by line.
    """

    cell: Cell
    model: Any
    lines: LineReadings
    questions: list[str]
    replies: list[Sampled]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def reading(self) -> Reading:
        """The means over all test lines."""
        return self.lines.reading()


Read = Callable[[Trial], float]


@dataclass(frozen=True)
class Measure:
    """A number of a trial; `column`, `form`: its heading and number format in tables; by_dense: whether it needs the dense
    model, whole, after the pruned one has replied."""

    read: Read
    column: str
    form: str
    by_dense: bool


MEASURES: dict[str, Measure] = {}


def measure(name: str, column: str, form: str, by_dense: bool = False) -> Callable[[Read], Read]:
    """Register a function of a trial. `name` is its key in every row and never changes."""
    def register(read: Read) -> Read:
        MEASURES[name] = Measure(read, column, form, by_dense)
        return read

    return register


measure("kl", "KL, nats a token", ".3f")(lambda trial: trial.reading.kl)
measure("top1", "top-1", ".1%")(lambda trial: trial.reading.top1)
measure("nll", "NLL", ".3f")(lambda trial: trial.reading.nll)
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def read(cell: Cell, method: str, pruned: Pruned) -> Generator[Event, None, dict[str, Any]]:
    """The row of a method in a cell, without its cell's keys; the readings line by line are kept in the cell's folder."""
    subject, tokenizer = cell.subject, cell.subject.dense.ctx.tokenizer
    questions = [line.question for line in subject.lines[:QUESTIONS]]
    prompts = [encode_chat(tokenizer, Voice.of(subject.card, tokenizer).asked(one)) for one in questions]
    size = sum(row.size for row in subject.test) + len(questions) * (REPLY_TOKENS + 30)

    def look() -> tuple[Trial, dict[str, float]]:
        with pruned.applied_to(cell.model) as model:
            states = subject.states if method == DENSE else answer_states(model, subject.test)
            lines = compare_lines(model, subject.test, states, subject.states)
            trial = Trial(cell, model, lines, questions, greedy_replies(model, prompts, REPLY_TOKENS, endings(tokenizer)))
            return trial, {name: one.read(trial) for name, one in MEASURES.items() if not one.by_dense}

    trial, found = yield from watched("measure", size, cell.counter, look)
    found |= yield from watched("read by the dense model", size, cell.counter, lambda: {
        name: one.read(trial) for name, one in MEASURES.items() if one.by_dense})
    yield measured(ReadingId.BENCHMARK, "test", trial.reading,
                   subject=f"{subject.name}, seed {subject.seed}, {cell.sparsity:.0%}: {method}")
    write_json(line_file(cell.folder, method), {
        **{name: getattr(trial.lines, name).tolist() for name in ("kl", "agreeing", "nll", "tokens")},
        "replies": [tokenizer.decode(reply.tokens, skip_special_tokens=True) for reply in trial.replies], **trial.details})
    return {**found, "lines": trial.reading.lines, "tokens": pruned.spent.tokens, "seconds": round(pruned.spent.seconds, 1)}


def line_file(folder: Path, method: str) -> Path:
    """Where a method's readings are kept line by line, in a cell's folder."""
    return folder / "readings" / f"{method}.json"

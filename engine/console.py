"""Events on a terminal: a progress bar with the time left a stage, readings as lines, or plain JSON.

Knows events and nothing of the jobs behind them.
"""

import sys
from collections.abc import Generator
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from engine import labels
from engine.base.events import (
    Event,
    Finished,
    Graded,
    LayerTuned,
    Lines,
    MaskSnapshot,
    Measured,
    Preferred,
    Proved,
    ProvedFile,
    Saved,
    Stage,
    Started,
    Step,
    Timed,
    Untested,
    Warned,
    encode,
)

T = TypeVar("T")


class JsonPrinter:
    """One JSON object a line on standard output."""

    def __enter__(self) -> "JsonPrinter":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, event: Event) -> None:
        """Print the event."""
        print(encode(event), flush=True)


class ProgressPrinter:
    """Bars and sentences for a person. Without a terminal the bars are left out."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(),
                                 TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                                 console=self.console, disable=not self.console.is_terminal)
        self.task: TaskID | None = None

    def __enter__(self) -> "ProgressPrinter":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, event: Event) -> None:
        """Show the event."""
        if isinstance(event, Stage):
            self._begin(event)
        elif isinstance(event, Step) and self.task is not None:
            note = " ".join(f"{name} {value:{',.3g' if value < 1000 else ',.0f'}}" for name, value in event.values.items())
            self.progress.update(self.task, completed=event.done, total=event.total, note=note)
        elif (text := describe(event)):
            self.console.print(text, markup=False)

    def finish(self, stream: Generator[Event, None, T]) -> T:
        """Show a generator's events to its end; its value."""
        with self:
            while True:
                try:
                    event = next(stream)
                except StopIteration as end:
                    return end.value
                self.show(event)

    def _begin(self, stage: Stage) -> None:
        if self.task is not None:
            self.progress.update(self.task, note="")
            self.progress.stop_task(self.task)
        name = labels.stage(stage.stage, stage.subject)
        note = "was done already" if stage.reused else ""
        self.task = self.progress.add_task(escape(name), total=stage.total or None, note=note)
        if stage.reused:
            self.progress.stop_task(self.task)
        if not self.console.is_terminal:
            self.console.print(f"{name} {note}".strip(), markup=False)


def describe(event: Event) -> str:
    """A line of text for a person, or "" for events that need none."""
    match event:
        case Started():
            verb = "Going on with" if event.resumed else "Pruning"
            return f"{verb} {event.character} on {event.model}, sparsity {event.sparsity:.0%}"
        case Lines():
            faults = ", ".join(f"{count} {labels.rejection(fault)}" for fault, count in sorted(event.rejected.items())) or "none"
            return (f"  lines: {event.train} to learn from, {event.validation} to choose on, {event.test} to report on; "
                    f"rejected: {faults}")
        case Measured():
            name = labels.reading(event.what, event.subject or event.step)
            return (f"  {name:<42} {event.split:<10} KL {event.kl:7.3f}  top-1 {event.top1:6.1%}  NLL {event.nll:6.3f}"
                    f"  ({event.lines} lines, {event.tokens:,} tokens)")
        case LayerTuned():
            if event.used:
                return ""
            after = "not tuned" if event.after is None else f"{event.after:.2%} after tuning"
            return (f"  layer {event.layer + 1} of {event.layers} keeps its weights: "
                    f"error {event.before:.2%} on held-out lines, {after}")
        case Graded():
            broken = [check["detail"] or check["rule"] for check in event.checks if check["outcome"] == "fail"]
            return f"  {event.verdict:<10} {event.lines[-1]}\n             {event.answers[-1]!r}" + "".join(
                f"\n             ({one})" for one in broken)
        case Preferred():
            return f"  the judge gives {event.first} {event.points:.0f} of 100 against {event.second} at {event.question}"
        case Untested():
            return f"  {event.model} could not be tested: {event.sentence}"
        case Saved():
            return f"  {labels.artifact(event.what, event.subject)}: {event.path} ({event.bytes / 1e6:,.1f} MB)"
        case Warned():
            return f"  Note: {event.sentence}"
        case Timed():
            return (f"  {event.what:<7} {event.tokens_per_second:.1f} tokens/s (median of {event.rounds} rounds of "
                    f"{event.tokens}), {event.memory / 1e6:,.0f} MB, {event.dtype}")
        case Proved():
            return f"  Loaded by plain transformers in a fresh process; it said: {event.text}"
        case ProvedFile():
            ties = f", {event.ties} ties" if event.ties else ""
            return (f"  {event.type:<5} loaded by llama.cpp; the same next token as transformers at {event.same} of {event.tokens} "
                    f"positions{ties} ({event.prompts} texts), KL {event.kl:.2g}; {event.tokens_per_second:.0f} tokens/s, "
                    f"{event.memory / 1e6:,.0f} MB")
        case Finished():
            return f"Done in {event.seconds / 60:.1f} minutes{f': {event.out}' if event.out else ''}"
        case MaskSnapshot() | _:
            return ""


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table on standard output; cells are shown as plain text."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140).print(table)

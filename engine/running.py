"""How a long job, which is a generator of events, runs as a process: its events on the terminal and in a file, and how it stops."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from engine import labels
from engine.base import evaluation_events, event_file, events, pruning_events
from engine.base.acting import CRITERIA
from engine.base.errors import Interrupted, UserError
from engine.base.files import data_folder, explain_write_errors
from engine.base.ids import ErrorCode, StageId
from engine.base.job import Process
from engine.base.process import is_out_of_memory

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Whether the job is to stop after the step under way: Ctrl-C, SIGTERM, or, with a leash, the end of standard input.

    A second signal stops at once, by KeyboardInterrupt.
    """

    def __init__(self, leash: bool = False) -> None:
        self.asked = False
        self._signalled = False
        self._leash = leash

    def __enter__(self) -> "StopFlag":
        self._former = [(one, signal.signal(one, self._on_signal)) for one in _SIGNALS]
        if self._leash:
            threading.Thread(target=self._hold, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._former:
            signal.signal(one, handler)

    def _on_signal(self, *_: object) -> None:
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled = self.asked = True
        print("\nStopping after this step (Ctrl-C again stops at once).", file=sys.stderr)

    def _hold(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        self.asked = True  # the owner is gone


class Run:
    """One run of a job: `workdir` is where events.jsonl lies, once it is known.

    The file is written from the first event on, when the work folder has been claimed; with a leash also before, for
    then the folder belongs to the owner, who reads there why nothing began.
    """

    def __init__(self, process: Process) -> None:
        self.workdir = Path(process.workdir) if process.workdir else None
        self.leash = process.leash
        self.printer: JsonPrinter | ProgressPrinter = JsonPrinter() if process.json_events else ProgressPrinter()
        self.begun = False

    def follow(self, stream: Iterator[events.Event], is_done: Callable[[], bool], stopped: str, how_to_go_on: str = "") -> None:
        """Show and write every event until the end. What ends the job early becomes Stopped or Failed, and is raised.

        A stop that comes once `is_done` is left alone. `stopped` is the sentence of Stopped; `how_to_go_on` is for the terminal.
        """
        with StopFlag(self.leash) as stop, self.printer:
            try:
                for event in stream:
                    self.begun = True
                    self._print(event)
                    if stop.asked and not is_done():
                        stream.close()  # type: ignore[attr-defined]
                        raise Interrupted(f"{stopped} {how_to_go_on}".strip())
            except (Interrupted, KeyboardInterrupt):
                self._last_word(events.Stopped(stopped))
                raise
            except BrokenPipeError:
                raise
            except Exception as error:
                found = explain(error)[1]
                self._last_word(events.Failed(found.sentence, found.hint, found.code))
                raise

    def _print(self, event: events.Event) -> None:
        if self.workdir and (self.begun or self.leash):
            file = self.workdir / "events.jsonl"
            with explain_write_errors(file):
                self.workdir.mkdir(parents=True, exist_ok=True)
                event_file.append(file, event)
        self.printer.show(event)

    def _last_word(self, event: events.Event) -> None:
        if isinstance(self.printer, JsonPrinter) or self.workdir:
            with contextlib.suppress(OSError, UserError):  # a full disk must not hide what went wrong before
                self._print(event)


def log_file() -> Path:
    """Where the tracebacks of defects go. Raises UserError without a data folder."""
    return data_folder() / "engine.log"


def explain(error: Exception) -> tuple[int, UserError]:
    """The exit code of whatever ended a command, and what to say of it. A defect's sentence names the log."""
    if isinstance(error, UserError):
        return 2, error
    if is_out_of_memory(error):
        return 2, UserError("This machine ran out of memory.", "Try --load-in 4bit, a smaller model, or close other "
                            "programs; then run the same command with --resume.", ErrorCode.MEMORY)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return 2, UserError("The disk is full.", "Free some space, then run the same command with --resume.", ErrorCode.DISK_FULL)
    try:
        log = log_file()
    except UserError:
        raise error from None
    return 1, UserError(f"Something went wrong inside Persona Studio ({type(error).__name__}). The details are in {log}.",
                        code=ErrorCode.DEFECT)


class JsonPrinter:
    """One JSON object a line on standard output."""

    def __enter__(self) -> "JsonPrinter":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, event: events.Event) -> None:
        """Print the event."""
        print(event_file.encode(event), flush=True)


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

    def show(self, event: events.Event) -> None:
        """Show the event."""
        if isinstance(event, events.Stage):
            self._begin(event)
        elif isinstance(event, events.Step) and self.task is not None:
            note = " ".join(f"{name} {value:{',.3g' if value < 1000 else ',.0f'}}" for name, value in event.values.items()
                            if name != events.UNDER_WAY)
            completed = event.done + event.values.get(events.UNDER_WAY, 0.0)
            self.progress.update(self.task, completed=completed, total=event.total, note=note)
        elif (text := describe(event)):
            self.console.print(text, markup=False)

    def finish(self, stream: Generator[events.Event, None, T]) -> T:
        """Show a generator's events to its end; its value."""
        with self:
            while True:
                try:
                    event = next(stream)
                except StopIteration as end:
                    return end.value
                self.show(event)

    def _begin(self, stage: events.Stage) -> None:
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


def describe(event: events.Event) -> str:
    """A line of text for a person, or "" for events that need none."""
    match event:
        case events.Started():
            return _beginning(event)
        case evaluation_events.Spoken():
            return f"{event.speaker}: {event.text}" if event.speaker else f"({event.text})"
        case evaluation_events.Acted():
            grades = ", ".join(f"{CRITERIA[name].label.lower()} {'-' if value is None else f'{value:.1f}'}"
                               for name, value in event.grades.items() if name in CRITERIA)
            return (f"  {event.speaker}: {event.turns} turns, {event.loops} of them repeated"
                    f"{'' if event.assistant is None else f', {event.assistant} like an assistant'}"
                    f"{f'; of 5: {grades}' if grades else ''}")
        case pruning_events.Lines():
            faults = ", ".join(f"{count} {labels.rejection(fault)}" for fault, count in sorted(event.rejected.items())) or "none"
            return (f"  lines: {event.train} to learn from, {event.validation} to choose on, {event.test} to report on; "
                    f"rejected: {faults}")
        case pruning_events.Measured():
            name = labels.reading(event.what, event.subject or event.step)
            return (f"  {name:<42} {event.split:<10} KL {event.kl:7.3f}  top-1 {event.top1:6.1%}  NLL {event.nll:6.3f}"
                    f"  ({event.lines} lines, {event.tokens:,} tokens)")
        case pruning_events.LayerTuned():
            if event.used:
                return ""
            after = "not tuned" if event.after is None else f"{event.after:.2%} after tuning"
            return (f"  layer {event.layer + 1} of {event.layers} keeps its weights: "
                    f"error {event.before:.2%} on held-out lines, {after}")
        case pruning_events.Answered():
            return f"  {labels.reading(event.what, ''):<42} says: {event.answer!r}"
        case evaluation_events.Graded():
            broken = [check["detail"] or check["rule"] for check in event.checks if check["outcome"] == "fail"]
            return f"  {event.verdict:<10} {event.lines[-1]}\n             {event.answers[-1]!r}" + "".join(
                f"\n             ({one})" for one in broken)
        case evaluation_events.Drafted():
            return _drafted(event)
        case evaluation_events.Preferred():
            return f"  the judge gives {event.first} {event.points:.0f} of 100 against {event.second} at {event.question}"
        case evaluation_events.Untested():
            return f"  {event.model} could not be tested: {event.sentence}"
        case events.Saved():
            return f"  {labels.artifact(event.what, event.subject)}: {event.path} ({event.bytes / 1e6:,.1f} MB)"
        case events.Warned():
            return f"  Note: {event.sentence}"
        case pruning_events.Timed():
            return (f"  {event.what:<7} {event.tokens_per_second:.1f} tokens/s (median of {event.rounds} rounds of "
                    f"{event.tokens}), {event.memory / 1e6:,.0f} MB, {event.dtype}")
        case pruning_events.Proved():
            return f"  Loaded by plain transformers in a fresh process; it said: {event.text}"
        case pruning_events.ProvedFile():
            ties = f", {event.ties} ties" if event.ties else ""
            return (f"  {event.type:<5} loaded by llama.cpp; the same next token as transformers at {event.same} of {event.tokens} "
                    f"positions{ties} ({event.prompts} texts), KL {event.kl:.2g}; {event.tokens_per_second:.0f} tokens/s, "
                    f"{event.memory / 1e6:,.0f} MB")
        case pruning_events.Placed() if not event.rounds:
            return (f"  {event.name:<24} {event.type:<7} {event.bytes / 1e6:8,.1f} MB  KL {event.kl:7.4f}  top-1 {event.top1:6.1%}"
                    f"{'  (the file it came from)' if event.exact else ''}")
        case events.Finished():
            return f"Done in {event.seconds / 60:.1f} minutes{f': {event.out}' if event.out else ''}"
        case _:
            return ""


def _beginning(event: events.Started) -> str:
    """What a job is about to do."""
    if event.stages and event.stages[0][0] == StageId.SHIP_READ:
        return f"Comparing what {event.character} can be shipped as, on {event.model}"
    if event.stages and event.stages[0][0] == StageId.INTERVIEW:
        return f"Is it still {event.character}? Beside the dense model: {', '.join(_others(event))}"
    verb = "Going on with" if event.resumed else "Pruning"
    return f"{verb} {event.character} on {event.model}, sparsity {event.sparsity:.0%}"


def _drafted(event: evaluation_events.Drafted) -> str:
    """A card of a cast in two or three lines."""
    data = event.card["data"]
    notes = [f"thin: {', '.join(event.thin)}"] if event.thin else []
    notes += [f"does not mention: {', '.join(event.unsaid)}"] if event.unsaid else []
    notes += [f"still like {event.twin} after {event.tries} drafts ({', '.join(event.shared)})"] if event.twin else []
    return "\n".join([f"  {event.position + 1}. {data['name']}: {event.line}", *(f"     ({one})" for one in notes)])


def _others(event: events.Started) -> list[str]:
    """The speakers of an evaluation without the first."""
    return [subject for stage, subject in event.stages if stage == StageId.INTERVIEW][1:]


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table on standard output; cells are shown as plain text."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140).print(table)

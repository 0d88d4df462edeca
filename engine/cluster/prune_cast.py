"""`persona prune-cast`: many characters pruned on one model, each into a folder of its own, here or on a Ray cluster.

OUT/NAME is a character's folder. OUT/.work has, for each, the job (NAME.json), its work folder (NAME), what its process wrote to
standard error (NAME.log) and a lock. The same command goes on where it stopped.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from engine import labels
from engine.base import events, migrate
from engine.base.errors import Interrupted, UserError
from engine.base.files import PROGRAM, check_target, explain_write_errors, read_json, slug, write_json
from engine.base.job import Process, PruneJob, Recipe, read_options
from engine.cards.files import read_card
from engine.cluster.connection import connected, places, smallest_node
from engine.cluster.jobs import STOPPED, CastJob, Crew, Here, OnRay, Outcome
from engine.cluster.options import OWN, USUAL_THREADS
from engine.running import ProgressPrinter, StopFlag, describe, print_table

WORK = ".work"
_LOOK = 0.2  # seconds between two looks at what the jobs have written


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Prune them all; the exit code: 0, or 2 where one failed."""
    if options.threads < 0 or options.gpus < 0:
        raise UserError("The threads and GPUs of a job must not be below 0.")
    values = read_options(options, PruneJob, Recipe)
    jobs = plan(options.cards, values, options.lines_in)
    open_jobs = [job for job in jobs if not job.is_done]
    watch = _JsonWatch() if values.get("json_events") else _Watch()
    with StopFlag(bool(values.get("leash"))) as stop, _crew(options, open_jobs) as crew, watch:
        outcomes = _follow(crew, open_jobs, stop, watch)
    rows = [_row(job, outcomes.get(job.id, Outcome(0))) for job in jobs]
    watch.end(rows, values.get("model", "starter"))
    if any(row["state"] == "stopped" for row in rows):
        raise Interrupted(f"Stopped; what was done is kept. Go on with:\n  {PROGRAM} {shlex.join(arguments)}")
    if failed := [row for row in rows if row["state"] == "failed"]:
        raise UserError(" ".join(f"{row['id']}: {row['sentence']}" for row in failed), "The same command goes on with these.")
    return 0


def plan(cards: Sequence[str], values: dict[str, Any], lines_in: str = "") -> list[CastJob]:
    """A job for each card, its file written. `lines_in`: a folder with NAME.jsonl of some.

    Raises UserError where a job cannot be done, or was begun with other settings.
    """
    values = {name: value for name, value in values.items() if name not in Process.model_fields and name not in OWN}
    if not values.get("out"):
        raise UserError("The following arguments are required: --out.", f"See {PROGRAM} prune-cast --help.")
    out = Path(values["out"]).expanduser().absolute()
    for name in ("model", "queries"):
        if name in values and Path(values[name]).expanduser().exists():
            values[name] = str(Path(values[name]).expanduser().absolute())  # the jobs run in another folder
    found: dict[str, tuple[CastJob, dict[str, Any]]] = {}
    for name in cards:
        card = read_card(name)
        for sentence in card.notes:
            print(f"{name}: {sentence}", file=sys.stderr)
        id, work = slug(card.name), out / WORK
        if id in found:
            raise UserError(f"Two of the cards are called {id}.", "Leave one out, or give it another name.")
        path = Path(name).expanduser()
        own = {**values, "card": str(path.absolute()) if path.exists() else name, "out": str(out / id), "workdir": str(work / id)}
        if lines_in and (lines := Path(lines_in).expanduser().absolute() / f"{id}.jsonl").is_file():
            own["lines"] = str(lines)
        PruneJob.of(own)
        found[id] = CastJob(id, work / f"{id}.json", work / id, out / id), own
    for job, own in found.values():
        _write(job, own)
    return [job for job, _ in found.values()]


def _write(job: CastJob, values: dict[str, Any]) -> None:
    """The job's file; where there is one, it must be the same."""
    if job.file.exists():
        if read_json(job.file) != values:
            raise UserError(f"{job.id} was begun in {job.out.parent} with other settings.", "Give the same ones, or another --out.")
        return
    check_target(job.out)
    with explain_write_errors(job.file):
        job.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(job.file, values)


@contextmanager
def _crew(options: argparse.Namespace, jobs: Sequence[CastJob]) -> Iterator[Crew]:
    """Who does the jobs. At the end none is under way."""
    if not options.ray or not jobs:
        here = Here(jobs, options.threads)
        try:
            yield here
        finally:
            here.stop()
        return
    with connected(options.ray):
        threads = options.threads or min(USUAL_THREADS, smallest_node())
        room = places(threads, options.gpus)
        print(f"Jobs at a time: {min(room, len(jobs))}; threads of each: {threads}.", file=sys.stderr)
        crew = OnRay(jobs, threads, options.gpus)
        try:
            yield crew
        finally:
            crew.stop()


def _follow(crew: Crew, jobs: Sequence[CastJob], stop: StopFlag, watch: "_Watch") -> dict[str, Outcome]:
    """Show what the jobs write until all have ended; how they did."""
    tails = {job.id: Tail(job.work / "events.jsonl") for job in jobs}
    outcomes: dict[str, Outcome] = {}
    stopping = False
    while True:
        busy = crew.busy
        outcomes |= crew.step()
        for id, tail in tails.items():
            for event in tail.new():
                watch.show(id, event)
        if not busy:
            return {job.id: outcomes.get(job.id, Outcome(STOPPED)) for job in jobs}
        if stop.asked and not stopping:
            stopping = True
            crew.stop()
        time.sleep(_LOOK)


class Tail:
    """The events that are appended to a file from now on."""

    def __init__(self, file: Path) -> None:
        self.file, self.place = file, file.stat().st_size if file.exists() else 0

    def new(self) -> Iterator[events.Event]:
        """Those since the last call; a line that is not complete waits for the next."""
        try:
            with self.file.open("rb") as file:
                file.seek(self.place)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[:data.rfind(b"\n") + 1]
        self.place += len(whole)
        for line in whole.splitlines():
            try:
                yield events.decode(line.decode(errors="replace"))
            except ValueError:  # of a process that died
                continue


class _Watch:
    """A bar for each character on a terminal, sentences elsewhere."""

    def __init__(self) -> None:
        self.console = ProgressPrinter().console
        self.progress = Progress(TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                                 console=self.console, disable=not self.console.is_terminal)
        self.bars: dict[str, TaskID] = {}

    def __enter__(self) -> "_Watch":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, id: str, event: events.Event) -> None:
        """Show a character's event."""
        if id not in self.bars:
            self.bars[id] = self.progress.add_task(id, total=None)
        if isinstance(event, events.Stage):
            name = f"{id}: {labels.stage(event.stage, event.subject)}"
            self.progress.update(self.bars[id], description=name, completed=0, total=event.total or None)
            if not self.console.is_terminal:
                self.console.print(f"{name}{' was done already' if event.reused else ''}", markup=False)
        elif isinstance(event, events.Step):
            self.progress.update(self.bars[id], completed=event.done, total=event.total)
        elif text := describe(event):
            self.console.print(f"{id}: {text.strip()}", markup=False, soft_wrap=True)

    def end(self, rows: list[dict[str, Any]], model: str) -> None:
        """The table of what was made."""
        shown = [[row["id"], row["state"], row.get("out", "-"), row.get("size", "-"), row.get("kl", "-"), row.get("minutes", "-")]
                 for row in rows]
        print_table(f"Characters on {model}", ["character", "state", "folder", "parameters", "KL", "minutes"], shown)


class _JsonWatch(_Watch):
    """JSON lines: each event with the character's id under "of", at the end one with all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.progress.disable, self.output = True, sys.stdout

    def show(self, id: str, event: events.Event) -> None:
        """See _Watch."""
        print(json.dumps({**json.loads(events.encode(event)), "of": id}, ensure_ascii=False), file=self.output, flush=True)

    def end(self, rows: list[dict[str, Any]], model: str) -> None:
        """See _Watch."""
        print(json.dumps({"event": "Cast", "model": model, "characters": rows}, ensure_ascii=False), flush=True)


def _row(job: CastJob, outcome: Outcome) -> dict[str, Any]:
    """A line of the last table."""
    if not job.is_done:
        state = "stopped" if outcome.code == STOPPED else "failed"
        return {"id": job.id, "state": state, **({"sentence": outcome.sentence} if state == "failed" else {})}
    report = migrate.read_report(job.out / "report.json")
    sizes = [f"{report[when]['parameters'] / 1e6:,.1f} M" for when in ("before", "after")]
    seconds = sum(stage["seconds"] for stage in report["stages"].values())
    return {"id": job.id, "state": "done", "out": str(job.out), "size": " -> ".join(sizes),
            "kl": f"{[*report['readings'].values()][-1]['kl']:.3f}", "minutes": f"{seconds / 60:.1f}"}

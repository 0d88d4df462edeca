"""`persona prune-cast`: many characters pruned on one model, here or on a Ray cluster: into one folder, or each into its own.

First each character's lines are written, in a job of its own; then one job makes the model of all of them, from all lines.
OUT.work has, for each job, its file (NAME.json, the last one's cast.model.json), its work folder (NAME), what its process wrote to
standard error (NAME.log) and a lock. With --separate each character is pruned for itself, OUT/NAME is its folder, and OUT/.work has
all this. The same command goes on where it stopped.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from engine import labels
from engine.base import event_file, events, migrate
from engine.base.cast_folder import MOST
from engine.base.errors import Interrupted, UserError
from engine.base.files import PROGRAM, check_target, explain_write_errors, is_file, named_path, read_json, slug, write_json
from engine.base.ids import ReadingId
from engine.base.job import Process, PruneJob, Recipe
from engine.base.model_folder import folder_shape, model_folder
from engine.base.options import read_options
from engine.cards.files import read_card
from engine.cluster.connection import connected, places, smallest_node
from engine.cluster.jobs import STOPPED, CastJob, Crew, Here, OnRay, Outcome
from engine.cluster.options import OWN, USUAL_THREADS
from engine.running import ProgressPrinter, StopFlag, describe, print_table

WORK = ".work"
MODEL = "cast.model"  # the last job; no character's id has a dot
_LOOK = 0.2  # seconds between two looks at what the jobs have written


@dataclass(frozen=True)
class Plan:
    """The jobs of the characters, and the one that makes a model of all (None: each makes its own)."""

    characters: list[CastJob]
    model: CastJob | None

    @property
    def steps(self) -> list[list[CastJob]]:
        """What is still to be done, in order: jobs that may run side by side."""
        if self.model is None:
            return [[job for job in self.characters if not job.is_done]]
        return [] if self.model.is_done else [[job for job in self.characters if not job.is_done], [self.model]]


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Prune them all; the exit code: 0, or 2 where one failed."""
    if options.threads < 0 or options.gpus < 0:
        raise UserError("The threads and GPUs of a job must not be below 0.")
    values = read_options(options, PruneJob, Recipe)
    found = plan(options.cards, values, options.lines_in, options.separate, options.adapters)
    watch = _JsonWatch() if values.get("json_events") else _Watch()
    outcomes: dict[str, Outcome] = {}
    with StopFlag(bool(values.get("leash"))) as stop, watch:
        for jobs in found.steps:
            if stop.asked or any(one.code for one in outcomes.values()):
                break
            with _crew(options, jobs) as crew:
                outcomes |= _follow(crew, jobs, stop, watch)
    rows = _rows(found, outcomes)
    watch.end(rows, values.get("model", "starter"))
    if any(row["state"] == "stopped" for row in rows):
        raise Interrupted(f"Stopped; what was done is kept. Go on with:\n  {PROGRAM} {shlex.join(arguments)}")
    if failed := [row for row in rows if row["state"] == "failed"]:
        raise UserError(" ".join(f"{row['id']}: {row['sentence']}" for row in failed), "The same command goes on with these.")
    return 0


def plan(cards: Sequence[str], values: dict[str, Any], lines_in: str = "", separate: bool = False, adapters: bool = True) -> Plan:
    """A job for each card, and one for all, their files written. `lines_in`: a folder with NAME.jsonl of some.

    Raises UserError where a job cannot be done, or was begun with other settings.
    """
    values = {name: value for name, value in values.items() if name not in Process.model_fields and name not in OWN}
    if not values.get("out"):
        raise UserError("The following arguments are required: --out.", f"See {PROGRAM} prune-cast --help.")
    out = named_path(values.pop("out")).absolute()
    for name in ("model", "queries"):
        if name in values and os.path.exists(named_path(values[name])):
            values[name] = str(named_path(values[name]).absolute())  # the jobs run in another folder
    if folder := model_folder(values.get("model", "starter")):  # looked at now, and not when each job has begun
        folder_shape(folder)
    work = out / WORK if separate else out.with_name(f"{out.name}{WORK}")
    found: dict[str, tuple[CastJob, dict[str, Any]]] = {}
    for name in cards:
        job, own = _character(name, values, lines_in, work, out if separate else None)
        if job.id in found:
            raise UserError(f"Two of the cards are called {job.id}.", "Leave one out, or give it another name.")
        found[job.id] = job, own
    model = None
    if not separate:
        _check_number(found)
        own = {**values, "card": out.name[:60] or "cast", "out": str(out), "workdir": str(work / MODEL), "adapters": adapters,
               "cast": [str(job.file) for job, _ in found.values()]}
        if PruneJob.of(own).recipe.bake and not adapters:
            raise UserError("Each character of a cast is baked into its adapter.", "Leave out --no-adapters.")
        model = CastJob(MODEL, work / f"{MODEL}.json", work / MODEL, out)
        _write(model, own, out)
    for job, own in found.values():
        _write(job, own, out)
    return Plan([job for job, _ in found.values()], model)


def _check_number(characters: dict[str, Any]) -> None:
    """Raise UserError for a cast of one, or of too many."""
    if len(characters) < 2:
        raise UserError("A cast on one model needs at least two characters.", f"Use {PROGRAM} prune for one, or add --separate.")
    if len(characters) > MOST:
        raise UserError(f"A cast on one model has at most {MOST} characters; these are {len(characters)}.",
                        "Make two casts, or add --separate.")


def _character(name: str, values: dict[str, Any], lines_in: str, work: Path, out: Path | None) -> tuple[CastJob, dict[str, Any]]:
    """The job of a card, and the values of its file; `out`: where its own folder goes, None where only its lines are made."""
    card = read_card(name)
    for sentence in card.notes:
        print(f"{name}: {sentence}", file=sys.stderr)
    id, path = slug(card.name), named_path(name)
    own = {**values, "card": str(path.absolute()) if os.path.exists(path) else name, "workdir": str(work / id),
           **({"until": "samples"} if out is None else {"out": str(out / id)})}
    if lines_in and is_file(lines := named_path(lines_in).absolute() / f"{id}.jsonl"):
        own["lines"] = str(lines)
    PruneJob.of(own)
    return CastJob(id, work / f"{id}.json", work / id, None if out is None else out / id), own


def _write(job: CastJob, values: dict[str, Any], out: Path) -> None:
    """The job's file; where there is one, it must be the same. `out`: where the cast goes, as the user named it."""
    if job.file.exists():
        if read_json(job.file) != values:
            what = "The cast" if job.id == MODEL else job.id
            raise UserError(f"{what} was begun in {out} with other settings.",
                            f"Give the same ones or another --out, or delete {job.file.parent}.")
        return
    if job.out is not None:
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
                yield event_file.decode(line.decode(errors="replace"))
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
        print(json.dumps({**json.loads(event_file.encode(event)), "of": id}, ensure_ascii=False), file=self.output, flush=True)

    def end(self, rows: list[dict[str, Any]], model: str) -> None:
        """See _Watch."""
        print(json.dumps({"event": "Cast", "model": model, "characters": rows}, ensure_ascii=False), flush=True)


def _rows(found: Plan, outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    """The lines of the last table."""
    if found.model is None or not found.model.is_done:
        open_jobs = [*found.characters, *([found.model] if found.model and all(job.is_done for job in found.characters) else [])]
        return [_row(job, outcomes.get(job.id, Outcome(STOPPED))) for job in open_jobs]
    assert found.model.out
    report = migrate.read_report(found.model.out / "report.json")
    minutes, size = _work_of(report)
    rows = []
    for id, one in report["characters"].items():
        reading = one["readings"].get(ReadingId.ADAPTED) or one["readings"][ReadingId.SHARED]
        rows.append({"id": id, "state": "done", "out": str(found.model.out), "size": size, "kl": f"{reading['kl']:.3f}",
                     "minutes": minutes})
    return rows


def _work_of(report: dict[str, Any]) -> tuple[str, str]:
    """The minutes that a report's job took, and the two numbers of parameters."""
    sizes = [f"{report[when]['parameters'] / 1e6:,.1f} M" for when in ("before", "after")]
    return f"{sum(stage['seconds'] for stage in report['stages'].values()) / 60:.1f}", " -> ".join(sizes)


def _row(job: CastJob, outcome: Outcome) -> dict[str, Any]:
    """The line of one job."""
    if not job.is_done:
        state = "stopped" if outcome.code == STOPPED else "failed"
        return {"id": job.id, "state": state, **({"sentence": outcome.sentence} if state == "failed" else {})}
    if job.out is None:
        return {"id": job.id, "state": "lines written"}
    report = migrate.read_report(job.out / "report.json")
    minutes, size = _work_of(report)
    return {"id": job.id, "state": "done", "out": str(job.out), "size": size,
            "kl": f"{[*report['readings'].values()][-1]['kl']:.3f}", "minutes": minutes}

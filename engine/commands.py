"""What the verbs of the command line do that make models, and look at them; character_commands.py has the others.

Each takes parsed options and returns an exit code.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.base import events
from engine.base.files import PROGRAM
from engine.base.frontier import AXES, Budget, front, pick, verdict
from engine.base.job import ExportJob, FrontierJob, GgufJob, PruneJob, Recipe, process_of
from engine.base.known_models import KNOWN
from engine.base.options import read_options
from engine.base.pruning_events import Placed
from engine.cards.card import Card
from engine.cards.files import read_card
from engine.running import Run, print_table


def models(options: argparse.Namespace, _arguments: list[str]) -> int:
    """List the models on this machine."""
    from engine.models.folders import list_models
    from engine.serving.files import gguf_file

    found = list_models()
    for one in found:  # the type of the file that speaks; "": none yet, or transformers speaks
        file = gguf_file(one["name"]) if one["ready"] else None
        one["speaks"] = file.stem.rpartition("-")[2] if file else ""
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    rows = [[one["name"], one["kind"], one["licence"] or "", f"{one['bytes'] / 1e6:,.0f} MB",
             "cannot be used" if one["fault"] else "on disk" if one["ready"] else
             f"fetched on first use ({KNOWN[one['name']].download_bytes / 1e6:,.0f} MB)", _speaker(one)]
            for one in found]
    print_table("Models", ["name", "kind", "licence", "size", "state", "speaks by"], rows)
    for one in found:
        if one["fault"]:
            print(" ".join(one["fault"].split()))
    print("Any folder or hub id with safetensors of a supported family can be named as well.")
    return 0


def _speaker(model: dict[str, Any]) -> str:
    """What speaks for a model of the list."""
    from engine.serving.files import speaks_by_llama

    if model["fault"]:
        return ""
    if model["speaks"]:
        return f"llama.cpp, {model['speaks']}"
    return "llama.cpp" if speaks_by_llama(model["name"]) else "transformers"


def prune(options: argparse.Namespace, arguments: list[str]) -> int:
    """The whole job, or its lines. Ctrl-C stops it after the step under way."""
    values = read_options(options, PruneJob, Recipe)
    run = Run(process_of(values))
    again = shlex.join([*[one for one in arguments if one != "--resume"], "--resume"])
    run.follow(_prune(values, run), lambda: _is_made(values, run), "Stopped; what was done is kept.",
               f"Go on with:\n  {PROGRAM} {again}")
    if not values.get("until") and not values.get("json_events"):
        print(f"Talk to it:  {PROGRAM} chat {shlex.quote(values['out'])}")
    return 0


def _prune(values: dict[str, Any], run: Run) -> Iterator[events.Event]:
    """The job's events. Checks and imports are part of it, so that whatever goes wrong is an event."""
    asked = PruneJob.of(values)
    from engine.pipeline import prune_persistently
    from engine.stages.context import Job

    job = Job.of_cast(asked) if asked.cast else Job.of(asked, read_with_notes(asked.card))
    run.workdir = run.workdir or job.default_workdir()
    yield from prune_persistently(job, run.workdir, asked.resume, asked.until or None)


def _is_made(values: dict[str, Any], run: Run) -> bool:
    """Whether what the job is to make is there."""
    assert run.workdir
    return (run.workdir / "lines.jsonl" if values.get("until") else Path(values["out"])).exists()


def prune_cast(options: argparse.Namespace, arguments: list[str]) -> int:
    """Many characters, each as by `prune`. Ctrl-C stops all after their step."""
    from engine.cluster.prune_cast import run

    return run(options, arguments)


def export(options: argparse.Namespace, _arguments: list[str]) -> int:
    """A finished folder as a checked and proven copy, zipped where wanted."""
    values = read_options(options, ExportJob)
    Run(process_of(values)).follow(_export(values), lambda: Path(values["out"]).exists(), "Stopped; no files were kept.")
    return 0


def _export(values: dict[str, Any]) -> Iterator[events.Event]:
    from engine.export.copying import copy_folder

    yield from copy_folder(ExportJob(**values))


def gguf(options: argparse.Namespace, _arguments: list[str]) -> int:
    """A model as a GGUF file."""
    values = read_options(options, GgufJob)
    is_made = lambda: bool(values.get("out")) and Path(values["out"]).exists()
    Run(process_of(values)).follow(_gguf(values), is_made, "Stopped; no file was kept.")
    return 0


def _gguf(values: dict[str, Any]) -> Iterator[events.Event]:
    from engine.serving.making import make

    yield from make(GgufJob(**values))


def frontier(options: argparse.Namespace, arguments: list[str]) -> int:
    """What to ship: every model of a character at every file type. The same command goes on where it stopped."""
    values = read_options(options, FrontierJob)
    points: dict[str, Placed] = {}
    Run(process_of(values)).follow(_frontier(values, points), lambda: bool(values.get("out")) and Path(values["out"]).exists(),
                                   "Stopped; what was measured is kept.", f"Go on with:\n  {PROGRAM} {shlex.join(arguments)}")
    if not values.get("json_events"):
        _print_frontier(list(points.values()), FrontierJob(**values))
    return 0


def _frontier(values: dict[str, Any], points: dict[str, Placed]) -> Iterator[events.Event]:
    asked = FrontierJob(**values)
    from engine.frontier.measuring import measure

    for event in measure(asked):
        if isinstance(event, Placed):
            points[event.key] = event
        yield event


def _print_frontier(points: list[Placed], asked: FrontierJob) -> None:
    best = {point.key for point in front(points, AXES["size"])}
    rows = [[point.name, f"{point.type}{' (its source)' if point.exact else ''}", f"{point.bytes / 1e6:,.1f}", f"{point.kl:.4f}",
             f"{point.top1:.1%}", f"{point.tokens_per_second:.0f}" if point.rounds else "",
             f"{point.first_token_seconds:.2f}" if point.rounds else "", f"{point.memory / 1e6:,.0f}" if point.rounds else "",
             "yes" if point.key in best else ""] for point in sorted(points, key=lambda point: point.bytes)]
    first = points[0]
    print_table(f"KL to the dense model under the whole prompt, nats a token, on {first.lines} test lines ({first.tokens:,} tokens)"
                f"; speed: medians of {first.rounds} rounds, {first.threads} threads",
                ["model", "type", "MB", "KL", "same next token", "tokens/s", "first token, s", "memory, MB", "none beats it"], rows)
    for sentence in verdict(points):
        print(sentence)
    budget = Budget(asked.size, asked.memory, asked.speed, asked.first)
    if budget != Budget():
        chosen = pick(points, budget)
        print(f"Within these limits: {chosen.name} at {chosen.type}, {chosen.bytes / 1e6:,.1f} MB, KL {chosen.kl:.4f}.")


def inspect(options: argparse.Namespace, _arguments: list[str]) -> int:
    """What an exported folder is; exit code 2 when it is damaged."""
    from engine.inspecting import inspect as run

    run(Path(options.folder), options.json)
    return 0


def read_with_notes(name: str) -> Card:
    """The card of a file; what was repaired in it goes to standard error, so that the answers stay as they are."""
    card = read_card(name)
    for sentence in card.notes:
        print(f"{name}: {sentence}", file=sys.stderr)
    return card

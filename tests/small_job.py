"""Whole jobs in seconds: a short card, short lines, a tiny random model, and the command line in its own process.

The card's prompt is short because a byte-level tokenizer makes a token of nearly every letter.
"""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file

from engine.__main__ import main
from engine.base import event_file
from engine.base.events import Event
from engine.base.job import ExportJob, make_recipe
from engine.calibration.lines import POOL
from engine.cards.files import read_card
from engine.export import plain_transformers, verify
from engine.pipeline import prune
from engine.stages import finish
from engine.stages.context import Job

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = ["small_job", "engine.commands", "engine.character_commands", "transformers.models.llama.modeling_llama", "peft"]
QUICK = {"multiple": 8, "steps": 4, "step_lines": 4, "validate_every": 2, "teacher_top": 16, "neutral_lines": 3,
         "extra_samples": 1, "row_tokens": 768, "mask_from": 0.0, "max_kl_ratio": 1e9, "recovery_steps": 3,
         "recovery_step_lines": 4, "recovery_rank": 2}


def write_card(folder: Path) -> Path:
    """A card with a greeting and a name that needs care."""
    card = {"name": "Zoë *of* the [Mill]", "description": "A miller.", "first_mes": "Flour, {{user}}?",
            "extensions": {"unknown": [1, None]}}
    (folder / "card.json").write_text(json.dumps(card, ensure_ascii=False), encoding="utf-8")
    return folder / "card.json"


def write_lines(folder: Path, count: int = 45, calling: str = "") -> Path:
    """The first lines of the pool, their answers cut to three words.

    With `calling` before each question none is the pool's, and a job reads no neutral lines along: those of a preset are
    hundreds, and take longer than all the rest of a tiny job.
    """
    records = [json.loads(line) for line in POOL.read_text(encoding="utf-8").splitlines()[:count]]
    lines = [{"question": calling + one["question"][:40], "answer": " ".join(one["answer"].split()[:3])} for one in records]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder / "lines.jsonl"


def make_job(model: Path, out: Path, preset: str = "standard", count: int = 45, calling: str = "", **changes: Any) -> Job:
    """A job on `model` that takes a second; card and so many lines, as by write_lines, are written beside `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    recipe = make_recipe(preset, **{**QUICK, **changes})
    return Job(read_card(write_card(out.parent)), str(model), out, recipe, "fp32", lines=write_lines(out.parent, count, calling))


def run_job(model: Path, out: Path, preset: str = "standard", **changes: Any) -> list[Event]:
    """All events of a whole job by `make_job`, whose work folder is `out` with .work behind it; the proof without its process."""
    with mock.patch.object(finish, "prove", prove_here):
        return list(prune(make_job(model, out, preset, **changes), work_of(out)))


def told_run(model: Path, out: Path, **changes: Any) -> Path:
    """The output folder of such a job, whose events are in its work folder as the command line leaves them."""
    for event in run_job(model, out, **changes):
        event_file.append(work_of(out) / "events.jsonl", event)
    return out


def copy_of(source: Path, out: Path, **more: Any) -> ExportJob:
    """A copy of a finished folder."""
    return ExportJob(source=str(source), out=str(out), **more)


def work_of(out: Path) -> Path:
    """The work folder that belongs to an output folder in these tests."""
    return out.with_name(f"{out.name}.work")


def prune_arguments(folder: Path, model: Path, out: str = "out", **more: Any) -> list[str]:
    """The command line of such a job in `folder`; `more` are further options, "load_in" for --load-in."""
    options = {"model": model, "out": folder / out, "lines": more.pop("lines", None) or write_lines(folder, calling="Zoë! "),
               "preset": "quick", "sparsity": 0.5, "multiple": 8, "steps": 4, "extra_samples": 1, "max_kl_ratio": 1e9,
               "workdir": folder / f"{out}.work", "dtype": "fp32", **more}
    named = [[f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
             for name, value in options.items()]
    return ["prune", str(write_card(folder)), *(word for words in named for word in words)]


def is_step(stage: str, done: int) -> Callable[[dict[str, Any]], bool]:
    """Whether an event is a stage's step, at least so far."""
    return lambda event: event["event"] == "Step" and event["stage"] == stage and event["done"] >= done


class Process:
    """The command line in a process group of its own: standard input and output are pipes, standard error a file."""

    def __init__(self, arguments: Sequence[str], folder: Path, forked: bool) -> None:
        """`forked`: from a server that has imported everything, which saves seconds; else python -m engine."""
        self.errors = folder / "errors.txt"
        if forked:
            reader, writer = multiprocessing.Pipe(duplex=False)
            leash, self.input = multiprocessing.Pipe(duplex=False)
            forkserver = multiprocessing.get_context("forkserver")
            forkserver.set_forkserver_preload(PRELOADED)
            self.process: Any = forkserver.Process(target=_run, args=(arguments, folder, leash, writer, self.errors))
            self.process.start()
            writer.close()
            leash.close()
            self.output = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        else:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self.errors.open("w"), text=True, encoding="utf-8", cwd=folder, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
            self.input, self.output = self.process.stdin, self.process.stdout
        self.pid = self.process.pid

    def events(self) -> Iterator[dict[str, Any]]:
        """The events that it prints, as they come; a line that a kill cut off is left out."""
        for line in self.output:
            if line.endswith("\n"):
                yield json.loads(line)

    def let_go(self) -> None:
        """End its standard input, as the end of its owner would."""
        self.input.close()

    def end(self) -> tuple[int, str]:
        """Wait for its end: the exit code (minus the signal's number) and what it wrote to standard error."""
        if isinstance(self.process, subprocess.Popen):
            self.process.wait(60)
            return self.process.returncode, self.errors.read_text()
        self.process.join(60)
        return self.process.exitcode, self.errors.read_text()


def _run(arguments: Sequence[str], folder: Path, leash: Any, output: Any, errors: Path) -> None:
    os.setsid()
    os.chdir(folder)
    os.dup2(leash.fileno(), 0)
    leash.close()
    os.dup2(output.fileno(), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stdout, sys.stderr = open(1, "w", encoding="utf-8"), open(2, "w", encoding="utf-8")  # noqa: SIM115
    torch.set_num_threads(1)
    sys.exit(main(arguments))


@dataclass
class Life:
    """What one process said and left. `hidden`: unfinished folders when it had ended."""

    code: int
    errors: str
    seen: list[dict[str, Any]]
    hidden: list[str]
    out_there: bool


@dataclass
class Story:
    """A job's processes, one after the other, in the folder that its relative paths begin from."""

    folder: Path
    arguments: list[str]
    lives: list[Life] = field(default_factory=list)

    def live(self, until: Callable[[dict[str, Any]], bool], end: Callable[[int], None], forked: bool = True) -> None:
        """Start the job (again), and at the first event that `until` accepts do `end` to the process."""
        process = Process([*self.arguments, *(["--resume"] if self.lives else [])], self.folder, forked)
        seen, ended = [], False
        for event in process.events():
            seen.append(event)
            if not ended and until(event):
                ended = True
                end(process.pid)
        hidden = [file.name for file in (*self.folder.glob(".out.*"), *(self.folder / "out.work").glob(".proven.*"))]
        self.lives.append(Life(*process.end(), seen, hidden, (self.folder / "out").exists()))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder's model.safetensors."""
    return load_file(folder / "model.safetensors")


def same_tensors(first: Path, second: Path) -> bool:
    """Whether two safetensors files hold the same names, shapes and bits."""
    one, other = load_file(first), load_file(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def prove_here(folder: Path, reference: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The proof without its fresh process, which takes seconds to start; to stand in for finish.prove."""
    with mock.patch.object(verify, "_answer", lambda request: next(plain_transformers.compare(request))):
        return verify.prove(folder, reference, dtype)


def with_option(arguments: list[str], name: str, value: str) -> list[str]:
    """The command line with one option set."""
    if name in arguments:
        place = arguments.index(name) + 1
        return [*arguments[:place], value, *arguments[place + 1:]]
    return [*arguments, name, value]


def refused(arguments: list[str], capsys: Any) -> str:
    """The one sentence with which a command line is refused."""
    code = main(arguments)
    error = capsys.readouterr().err
    assert (code, error.count("\n"), error.endswith("\n")) == (2, 1, True), error
    assert error.startswith("Error: ") and "Traceback" not in error and len(error) < 1000
    if "--out" in arguments:
        out = Path(arguments[arguments.index("--out") + 1])
        assert not os.path.exists(out / "config.json")
        assert not os.path.isdir(out.parent) or not [name for name in os.listdir(out.parent) if ".partial-" in name]
    return error

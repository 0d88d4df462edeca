"""Whole jobs in seconds: a short card, short lines, a tiny random model, and the command line in its own process.

The card's prompt is short because a byte-level tokenizer makes a token of nearly every letter.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from engine.base.events import Event
from engine.base.recipe import make_recipe
from engine.calibration.lines import POOL
from engine.cards.card import read_card
from engine.export import proof
from engine.pipeline import prune
from engine.stages.workbench import Job

ROOT = Path(__file__).resolve().parents[1]
QUICK = {"multiple": 8, "steps": 4, "step_lines": 4, "validate_every": 2, "teacher_top": 16, "recovery_steps": 3,
         "recovery_rank": 2}


def write_card(folder: Path) -> Path:
    """A card with a greeting and a name that needs care."""
    card = {"name": "Zoë *of* the [Mill]", "description": "A miller.", "first_mes": "Flour, {{user}}?",
            "extensions": {"unknown": [1, None]}}
    (folder / "card.json").write_text(json.dumps(card, ensure_ascii=False), encoding="utf-8")
    return folder / "card.json"


def write_lines(folder: Path, count: int = 60) -> Path:
    """The first lines of the pool, their answers cut to three words."""
    records = [json.loads(line) for line in POOL.read_text(encoding="utf-8").splitlines()[:count]]
    lines = [{"question": one["question"][:40], "answer": " ".join(one["answer"].split()[:3])} for one in records]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder / "lines.jsonl"


def make_job(model: Path, out: Path, preset: str = "standard", **changes: Any) -> Job:
    """A job on `model` that takes a second or two; card and lines are written beside `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    recipe = make_recipe(preset, **{**QUICK, **changes})
    return Job(read_card(write_card(out.parent)), str(model), out, recipe, "fp32", lines=write_lines(out.parent))


def run_job(model: Path, out: Path, preset: str = "standard", **changes: Any) -> list[Event]:
    """All events of a whole job, whose work folder is `out` with .work behind it."""
    return list(prune(make_job(model, out, preset, **changes), work_of(out)))


def work_of(out: Path) -> Path:
    """The work folder that belongs to an output folder in these tests."""
    return out.with_name(f"{out.name}.work")


def prune_arguments(folder: Path, model: Path, out: str = "out", **more: Any) -> list[str]:
    """The command line of such a job in `folder`; `more` are further options ("load_in" is --load-in), None: left out."""
    options = {"model": model, "out": folder / out, "lines": write_lines(folder), "multiple": 8, "steps": 4,
               "workdir": folder / f"{out}.work", "dtype": "fp32", **more}
    named = [[f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
             for name, value in options.items() if value is not None]
    return ["prune", str(write_card(folder)), *(word for words in named for word in words)]


def start(arguments: Sequence[str], **settings: Any) -> subprocess.Popen[str]:
    """The command line in a process of its own, with pipes as its standard streams."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings.pop("env", {})}
    streams = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    return subprocess.Popen([sys.executable, "-m", "engine", *arguments], text=True, encoding="utf-8",
                            **{"cwd": ROOT, **streams, **settings}, env=environment)


def read_events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """The events that a process prints, as they come."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder's model.safetensors."""
    return load_file(folder / "model.safetensors")


def same_tensors(first: Path, second: Path) -> bool:
    """Whether two safetensors files hold the same names, shapes and bits."""
    one, other = load_file(first), load_file(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def prove_here(folder: Path, reference: Path, persona: str, dtype: torch.dtype) -> dict[str, Any]:
    """The proof without its fresh process, which takes seconds to start; to stand in for ship.prove."""
    name = str(dtype).removeprefix("torch.")
    found = proof._compare({"folder": str(folder), "reference": str(reference), "persona": persona, "dtype": name})
    assert found["agrees"], found
    return found

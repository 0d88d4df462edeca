"""Casts of tiny models: characters with short cards and lines of their own, and the job that makes one model of all."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from small_job import QUICK, prove_here, write_lines

from engine.base.events import Event
from engine.base.files import slug
from engine.base.job import make_recipe
from engine.cards.card import parse_card
from engine.cards.files import read_card
from engine.pipeline import prune
from engine.stages import finish
from engine.stages.context import Job, Member

NAMES = ("Ann", "Bob")


def write_character(folder: Path, name: str, **fields: str) -> Path:
    """A character's card, with a prompt of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    card = {"name": name, "description": f"{name} mends clocks.", "first_mes": f"I am {name}.", **fields}
    (folder / f"{name}.json").write_text(json.dumps(card))
    return folder / f"{name}.json"


def make_cast(model: Path, folder: Path, names: Sequence[str] = NAMES, adapters: bool = True, dtype: str = "fp32",
              more: Callable[[str], dict[str, str]] = lambda name: {}, **changes: Any) -> Job:
    """The job of a cast, whose characters have their lines already; `more`: further fields of a card."""
    recipe = make_recipe("quick", **{**QUICK, "mask_from": 0.6, "sparsity": 0.5, "answer_tokens": 6, "extra_samples": 1,
                                     "bake_steps": 4, "bake_step_lines": 4, **changes})
    jobs = []
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        jobs.append(Job(read_card(write_character(folder, name, **more(name))), str(model), Path(), recipe, dtype,
                        lines=write_lines(folder / name, 45, calling=f"{name}! ")))
    return join(jobs, folder, adapters)


def join(jobs: Sequence[Job], folder: Path, adapters: bool = True) -> Job:
    """The job of a cast, which makes `folder`/out; those of its characters write their lines now."""
    members = []
    for own in jobs:
        work = folder / "work" / slug(own.card.name)
        list(prune(own, work, (work / "job.json").exists(), "samples"))
        members.append(Member(own, work))
    title = parse_card(json.dumps({"name": "Town", "description": "A cast."}).encode(), "The cast")
    return Job(title, jobs[0].model, folder / "out", jobs[0].recipe, jobs[0].dtype, members=tuple(members), adapters=adapters)


def run_cast(model: Path, folder: Path, **changes: Any) -> list[Event]:
    """All events of the cast's job, which makes `folder`/out; the proof without its process."""
    job = make_cast(model, folder, **changes)
    with mock.patch.object(finish, "prove", prove_here):
        return list(prune(job, folder / "work" / "cast.model"))


def write_job(model: Path, folder: Path) -> Path:
    """The file of the same job for the command line, which makes `folder`/out; with those of its characters, NAME.json."""
    job = make_cast(model, folder)
    values = {"model": str(model), "dtype": job.dtype, **job.recipe.to_dict()}
    files = [folder / f"{one.id}.json" for one in job.members]
    for file, one in zip(files, job.members, strict=True):
        own = {"card": str(folder / f"{one.job.card.name}.json"), "lines": str(one.job.lines), "workdir": str(one.folder)}
        file.write_text(json.dumps({**values, **own, "until": "samples"}))
    cast = {"card": "town", "out": str(job.out), "workdir": str(folder / "work" / "cast.model"), "adapters": True}
    (folder / "cast.json").write_text(json.dumps({**values, **cast, "cast": [str(one) for one in files]}))
    return folder / "cast.json"

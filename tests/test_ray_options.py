"""What is asked for with --ray and prune-cast, before any cluster is needed."""

import argparse
import json
from pathlib import Path

import pytest

from engine.base.errors import UserError
from engine.base.event_file import append, encode
from engine.base.events import Stage, Started
from engine.base.ids import StageId
from engine.cluster.prune_cast import Tail, plan
from engine.server.settings import Scale, add_options, scale_of


def scale(*arguments: str) -> Scale:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return scale_of(parser.parse_args(["pim-tuckett", *arguments]))


def test_replicas_are_a_number_or_a_range() -> None:
    assert scale() == Scale()
    assert scale("--ray") == Scale("local", 1, 4)
    assert scale("--ray", "auto", "--replicas", "2", "--replica-cpus", "3") == Scale("auto", 2, 2, 3)
    assert scale("--ray", "10.0.0.7:6379", "--replicas", "2..8") == Scale("10.0.0.7:6379", 2, 8)
    for wrong in ("0", "3..2", "two", "1..", "1..2..3", "9999"):
        with pytest.raises(UserError, match="replicas"):
            scale("--ray", "--replicas", wrong)


def test_each_character_has_a_job_of_its_own(tmp_path: Path) -> None:
    values = {"out": str(tmp_path / "out"), "model": "starter", "preset": "quick", "leash": True}
    jobs = plan(["pim-tuckett", "zubaida-marr"], values, separate=True).characters
    assert [job.id for job in jobs] == ["pim-tuckett", "zubaida-marr"] and not any(job.is_done for job in jobs)
    written = json.loads(jobs[0].file.read_text())
    assert written == {"card": "pim-tuckett", "out": str(tmp_path / "out" / "pim-tuckett"), "workdir": str(jobs[0].work),
                       "model": "starter", "preset": "quick"}
    assert plan(["pim-tuckett"], values, separate=True).characters == jobs[:1]
    with pytest.raises(UserError, match="with other settings"):
        plan(["pim-tuckett"], {**values, "seed": 1}, separate=True)
    with pytest.raises(UserError, match="Two of the cards are called pim-tuckett"):
        plan(["pim-tuckett", "pim-tuckett"], values)
    with pytest.raises(UserError, match="--out"):
        plan(["pim-tuckett"], {})


def test_a_cast_has_jobs_for_lines_and_one_for_the_model(tmp_path: Path) -> None:
    values = {"out": str(tmp_path / "out"), "model": "starter", "preset": "quick"}
    found = plan(["pim-tuckett", "zubaida-marr"], values)
    assert found.model and [len(jobs) for jobs in found.steps] == [2, 1] and found.model.out == tmp_path / "out"
    lines, model = json.loads(found.characters[0].file.read_text()), json.loads(found.model.file.read_text())
    assert lines["until"] == "samples" and "out" not in lines and model["cast"] == [str(one.file) for one in found.characters]
    assert model["adapters"] is True and found.model.file.parent == tmp_path / "out.work"
    assert plan(["pim-tuckett", "zubaida-marr"], values) == found
    with pytest.raises(UserError, match="The cast was begun"):
        plan(["pim-tuckett", "zubaida-marr"], values, adapters=False)
    with pytest.raises(UserError, match="The cast was begun"):
        plan(["pim-tuckett", "bodo-grumm"], values)


def test_events_are_shown_once_they_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    append(file, Started("Ann", "m", 0.5, []))
    tail = Tail(file)
    first = Stage(StageId.LOAD)
    append(file, first)
    assert list(tail.new()) == [first] and list(tail.new()) == []
    line = encode(first)
    with file.open("a") as open_file:
        open_file.write(line[:20])
    assert list(tail.new()) == []
    with file.open("a") as open_file:
        open_file.write(line[20:] + "\n")
    assert list(tail.new()) == [first]

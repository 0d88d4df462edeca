"""Jobs in processes of their own: killed, interrupted, terminated or let go in every stage, and what they leave and say.

Most come from a server that has imported everything, since a fresh process takes seconds to do so; the last life of the
story is `python -m engine` itself, and its proof a fresh process.
"""

import json
import os
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_job import ROOT, Process, Story, is_step, prune_arguments, same_tensors, work_of

from engine.__main__ import main
from engine.base import event_file, events
from engine.base.files import read_json, sha256
from engine.export.folder import MASK

pytestmark = pytest.mark.slow
SETTINGS = {"recover": True, "seed": 3}


def is_stage(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["event"] == "Stage" and event["stage"] == name


def interrupt(process: int) -> None:
    os.kill(process, signal.SIGINT)


def terminate(process: int) -> None:
    os.kill(process, signal.SIGTERM)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def interrupt_all_while_proving(process: int) -> None:
    """What Ctrl-C on a terminal does: every process of the group is interrupted, here while the proof runs."""
    limit = time.monotonic() + 20
    while not psutil.Process(process).children() and time.monotonic() < limit:
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process, signal.SIGINT)


@pytest.fixture(scope="module")
def story(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """One job: interrupted, killed while learning, solving, recovering and proving, interrupted once more, and left to end."""
    folder = tmp_path_factory.mktemp("story")
    arguments = prune_arguments(folder, llama, steps=5, json=True, **SETTINGS)
    story = Story(folder, [word.replace(f"{folder}/", "") for word in arguments])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        story.live(is_step("learn_mask", 1), interrupt)
        story.live(is_step("learn_mask", 3), kill)
        story.live(is_step("reconstruct", 1), kill)
        story.live(is_step("recover", 2), kill)
        story.live(is_stage("prove"), kill)
        story.live(is_stage("prove"), interrupt_all_while_proving, forked=False)
        story.live(lambda event: False, kill)
    return story


@pytest.mark.usefixtures("quick_proof")
def test_a_job_killed_in_every_stage_ends_with_the_same_bits(story: Story, llama: Path, tmp_path: Path) -> None:
    assert [life.code for life in story.lives] == [130, -9, -9, -9, -9, 130, 0], [life.errors for life in story.lives]
    assert main(prune_arguments(tmp_path, llama, steps=5, json=True, **SETTINGS)) == 0
    for name in ("mask.safetensors", "columns.safetensors", "recovered.safetensors"):
        assert sha256(story.folder / "out.work" / name) == sha256(tmp_path / "out.work" / name), name
    for name in ("model.safetensors", MASK):
        assert same_tensors(story.folder / "out" / name, tmp_path / "out" / name), name
    reports = [read_json(folder / "out" / "report.json") for folder in (story.folder, tmp_path)]
    for part in ("readings", "learning", "choices", "lines", "recipe", "before", "base"):
        assert reports[0][part] == reports[1][part], part
    assert reports[0]["stages"].keys() == reports[1]["stages"].keys()


def test_each_process_goes_on_where_the_last_one_stopped(story: Story) -> None:
    steps = [[(event["stage"], event["done"]) for event in life.seen if event["event"] == "Step"]
             for life in story.lives]
    learnt = [[done for stage, done in life if stage == "learn_mask"] for life in steps]
    assert learnt[0][0] == 1 and learnt[1][0] == learnt[0][-1] + 1 and learnt[1][-1] >= 3
    assert [done for life in learnt[2:] for done in life] in ([4, 5], [5], [])
    recovered = [[done for stage, done in life if stage == "recover"] for life in steps]
    assert recovered[3][0] == 1 and recovered[4][0] == recovered[3][-1] + 1 and recovered[4][-1] == 40
    assert recovered[5] == [] and [life.seen[0]["resumed"] for life in story.lives] == [False] + [True] * 6
    stages = [event["stage"] for event in story.lives[5].seen if event["event"] == "Stage" and event["reused"]]
    assert stages == ["write_answers", "write_extra_samples", "read_dense", "reconstruct_start", "learn_mask",
                      "reconstruct", "tune_layers", "tune_layers_again", "recover"]


def test_an_interrupted_job_says_how_to_go_on(story: Story) -> None:
    first = story.lives[0]
    assert "Traceback" not in first.errors and not first.out_there
    hint = first.errors.strip().splitlines()[-1]
    assert shlex.split(hint) == ["python", "-m", "engine", *story.arguments, "--resume"]


def test_no_half_folder_is_ever_seen_and_leftovers_go(story: Story) -> None:
    assert [life.out_there for life in story.lives] == [False] * 6 + [True]
    assert [len(life.hidden) for life in story.lives] == [0, 0, 0, 0, 1, 0, 0]
    assert (story.folder / "out" / "manifest.json").is_file()


def test_an_interrupt_during_the_proof_lets_it_end_and_the_job_goes_on_after_it(story: Story) -> None:
    *_, interrupted, last = story.lives
    assert interrupted.seen[-1]["event"] == "Stopped" and "Stopping after this step" in interrupted.errors
    worked = [event["stage"] for event in last.seen if event["event"] == "Stage" and not event["reused"]]
    assert worked == ["write_gguf_files"] and last.seen[-1]["event"] == "Finished"
    proof = read_json(story.folder / "out" / "report.json")["proof"]
    assert proof["agrees"] and proof["positions"] == 48 and proof["seconds"] > 0


def test_the_log_holds_all_that_was_said(story: Story) -> None:
    logged = [event_file.encode(event) for event in event_file.read(story.folder / "out.work" / "events.jsonl")]
    said = [event_file.encode(event_file.decode(json.dumps(event))) for life in story.lives for event in life.seen]
    assert [line for line in logged if line in set(said)] == said and len(logged) - len(said) <= 5


@pytest.mark.parametrize("end", [Process.let_go, lambda owned: terminate(owned.pid)], ids=["let go", "terminated"])
def test_a_job_that_is_let_go_or_terminated_stops_after_its_step(end: Callable[[Process], None], llama: Path,
                                                                 tmp_path: Path) -> None:
    arguments = prune_arguments(tmp_path, llama, steps=400, json=True, leash=True)
    owned = Process(arguments, tmp_path, forked=True)
    seen = []
    for event in owned.events():
        seen.append(event)
        if event["event"] == "Step" and event["stage"] == "learn_mask" and event["done"] == 2:
            end(owned)
    code, errors = owned.end()
    assert code == 130 and "Traceback" not in errors, errors
    assert seen[-1]["event"] == "Stopped" and seen[-2]["event"] == "Step" and seen[-2]["done"] < 300
    logged = list(event_file.read(work_of(tmp_path / "out") / "events.jsonl"))
    assert logged[-1] == events.Stopped("Stopped; what was done is kept.", time=logged[-1].time)
    assert [name for name in os.listdir(tmp_path) if "partial" in name] == [] and not (tmp_path / "out").exists()
    checkpoint = read_json(work_of(tmp_path / "out") / "learning.json")
    assert checkpoint[-1]["step"] == seen[-2]["done"], "the step under way is kept"


def test_a_job_stopped_before_it_begins_says_so(llama: Path, tmp_path: Path) -> None:
    owned = Process(prune_arguments(tmp_path, llama, json=True, leash=True), tmp_path, forked=True)
    owned.let_go()
    kinds = [event["event"] for event in owned.events()]
    assert owned.end()[0] == 130 and kinds[-1] == "Stopped" and "learn_mask" not in kinds

"""Jobs that a studio runs: they end with their lines when asked to, say why they end, and make do with less memory."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from small_job import QUICK, make_job, prune_arguments, same_tensors, work_of, write_card, write_lines

from engine.__main__ import main
from engine.base import event_file
from engine.base.events import Event, Failed, Finished, Stage, Started, Step, Stopped, Warned
from engine.base.files import read_json
from engine.base.pruning_events import Lines
from engine.calibration import rewriting
from engine.calibration.rewriting import Voice
from engine.export.folder import MASK
from engine.pipeline import prune, prune_persistently
from engine.pruning import masks
from engine.stages.context import Job

pytestmark = pytest.mark.usefixtures("quick_proof")


def log_of(workdir: Path) -> list[Event]:
    return list(event_file.read(workdir / "events.jsonl"))


def lines_arguments(folder: Path, llama: Path) -> list[str]:
    return ["prune", str(write_card(folder)), "--model", str(llama), "--workdir", str(folder / "work"), "--multiple", "8",
            "--steps", "4", "--dtype", "fp32", "--lines", str(write_lines(folder, calling="Zoë! ")), "--json"]


def test_until_lines_stops_there_and_the_whole_job_goes_on(llama: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = lines_arguments(tmp_path, llama)
    assert main([*arguments, "--until", "lines"]) == 0
    said = [event_file.decode(line) for line in capsys.readouterr().out.splitlines()]
    assert isinstance(said[0], Started) and ("learn_mask", "") not in said[0].stages and said == log_of(tmp_path / "work")
    assert isinstance(said[-2], Lines) and isinstance(said[-1], Finished) and said[-1].out == ""
    assert said[-2].path == str(tmp_path / "work" / "lines.jsonl")
    assert main([*arguments, "--resume", "--out", str(tmp_path / "out")]) == 0
    report = read_json(tmp_path / "out" / "report.json")
    assert report["lines"]["train"] == said[-2].train and len(log_of(tmp_path / "work")) > len(said)


def test_until_lines_writes_the_lines_of_the_whole_job(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Voice, "fault", lambda self, answer, complete: None)
    job = sampled_job(llama, tmp_path)
    seen = list(prune(job, tmp_path / "lines", until="lines"))
    assert {event.stage for event in seen if isinstance(event, Stage)} >= {"load_model", "write_answers"}
    list(prune(job, tmp_path / "whole"))
    assert (tmp_path / "lines" / "lines.jsonl").read_bytes() == (tmp_path / "whole" / "lines.jsonl").read_bytes()
    again = list(prune(job, tmp_path / "lines", resume=True, until="lines"))
    assert "load_model" not in [event.stage for event in again if isinstance(event, Stage)]


def test_out_is_needed_but_with_until_lines(llama: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(lines_arguments(tmp_path, llama)) == 2
    assert "--out" in capsys.readouterr().err and not (tmp_path / "work").exists()
    assert main([*lines_arguments(tmp_path, llama), "--until", "dawn"]) == 2


def test_a_failure_is_the_last_event(llama: Path, tmp_path: Path, capsys: Any) -> None:
    """Where the owner holds a leash, also one from before the job began; the work folder can be used afterwards."""
    arguments = prune_arguments(tmp_path, llama, json=True)
    work = work_of(tmp_path / "out")
    (tmp_path / "out").mkdir()
    assert main(arguments) == 2 and not work.exists()
    shown = capsys.readouterr()
    assert event_file.decode(shown.out) and "exists already" in shown.err
    assert main([*arguments, "--leash"]) == 2
    logged = log_of(work)
    assert len(logged) == 1 and isinstance(logged[0], Failed) and "exists already" in logged[0].sentence
    (tmp_path / "out").rmdir()
    assert main(arguments) == 0 and isinstance(log_of(work)[-1], Finished)


def test_a_defect_is_a_failure_that_names_the_log(llama: Path, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: Any) -> None:
    monkeypatch.setattr("engine.pipeline.find_mask", lambda *_: 1 / 0)
    assert main(prune_arguments(tmp_path, llama, json=True)) == 1
    failed = log_of(work_of(tmp_path / "out"))[-1]
    assert isinstance(failed, Failed) and "ZeroDivisionError" in failed.sentence and str(own_home) in failed.sentence
    assert "Traceback" in (own_home / "engine.log").read_text() and "Traceback" not in capsys.readouterr().err


def test_an_interrupt_is_a_stop(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.pipeline.find_mask", interrupt)
    assert main(prune_arguments(tmp_path, llama)) == 130
    assert isinstance(log_of(work_of(tmp_path / "out"))[-1], Stopped)


def no_memory() -> RuntimeError:
    return RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes.")


def fail_while(too_large: Any, do: Any, most: int = 10**6) -> Any:
    """`do`, out of memory for as long as `too_large` says so of its arguments (at most `most` times)."""
    count = iter(range(most))

    def fail_or_do(*arguments: Any) -> Any:
        if too_large(*arguments) and next(count, None) is not None:
            raise no_memory()
        return do(*arguments)

    return fail_or_do


def test_a_lack_of_memory_is_tried_once_more_with_shorter_rows(llama: Path, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"row_tokens": 640, "step_lines": 16}
    job = make_job(llama, tmp_path / "out", **size)
    lengths: list[int] = []

    def too_large(_model: Any, state: Any, rows: Any, *_: Any) -> bool:
        lengths.append(max(row.size for row in rows))
        return state.step == 2 and lengths[-1] > 320

    monkeypatch.setattr(masks, "learn_step", fail_while(too_large, masks.learn_step))
    seen = list(prune_persistently(job, work_of(job.out)))
    assert isinstance(seen[-1], Finished) and [event.resumed for event in seen if isinstance(event, Started)] == [False, True]
    assert sum("Memory" in event.sentence for event in seen if isinstance(event, Warned)) == 1
    assert max(lengths[:3]) > 320 >= max(lengths[3:])
    learnt = [event.done for event in seen if isinstance(event, Step) and event.stage == "learn_mask"]
    assert learnt == list(range(1, QUICK["steps"] + 1)), "it goes on where it stopped"
    report = read_json(job.out / "report.json")
    assert report["recipe"]["row_tokens"] == 320
    again = list(prune(make_job(llama, tmp_path / "again", **size), work_of(job.out), resume=True))
    assert isinstance(again[-1], Finished) and same_tensors(tmp_path / "again" / MASK, job.out / MASK)


def sampled_job(llama: Path, folder: Path) -> Job:
    """A job that writes its own lines."""
    job = make_job(llama, folder / "out", candidates=60, references=1, keep_share=0.99, self_asked=8, answer_tokens=4,
                   batch_lines=16, validation_lines=6, test_lines=6)
    return dataclasses.replace(job, lines=None)


def test_a_lack_of_memory_is_tried_once_more_with_smaller_batches(llama: Path, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Voice, "fault", lambda self, answer, complete: None)
    sizes: list[int] = []

    def too_large(_model: Any, _prefix: Any, rows: Any, _sampling: Any) -> bool:
        sizes.append(len(rows))
        return len(sizes) >= 4 and len(rows) > 8

    for name in ("sample_together", "sample_in_parts"):
        monkeypatch.setattr(rewriting, name, fail_while(too_large, getattr(rewriting, name)))
    seen = list(prune_persistently(sampled_job(llama, tmp_path), tmp_path / "work", until="lines"))
    assert isinstance(seen[-1], Finished) and sizes[:4] == [16, 16, 16, 16] and max(sizes[4:]) == 8
    lines = [json.loads(line) for line in (tmp_path / "work" / "lines.jsonl").read_text().splitlines()]
    assert len({line["question"] for line in lines}) == len(lines) > 60


def test_a_lasting_lack_of_memory_is_a_failure(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: Any) -> None:
    monkeypatch.setattr(masks, "learn_step", fail_while(lambda *_: True, masks.learn_step))
    assert main(prune_arguments(tmp_path, llama)) == 2
    logged = log_of(work_of(tmp_path / "out"))
    assert isinstance(logged[-1], Failed) and "memory" in logged[-1].sentence
    assert sum(isinstance(event, Warned) for event in logged) == 1, "one more try, not more"
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"Error: {logged[-1].sentence} {logged[-1].hint}"

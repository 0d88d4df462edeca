"""The repair around mask learning: learning knows the start's refit, and the better of start and learned mask goes on."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_job import make_job, run_job, work_of

from engine.base.events import Stage
from engine.base.files import read_json
from engine.pipeline import prune
from engine.stages.repair import neutral_lines
from engine.stages.workbench import Workbench


def test_learning_begins_on_the_repaired_start(llama: Path, tmp_path: Path) -> None:
    run_job(llama, tmp_path / "out", learning_rate=1e-9)  # so small that no channel changes
    work = work_of(tmp_path / "out")
    start, columns = load_file(work / "start.safetensors"), load_file(work / "columns.safetensors")
    assert start.keys() == columns.keys() and all(torch.equal(start[name], columns[name]) for name in start)
    refit, first = read_json(work / "start.json"), read_json(work / "learning.json")[0]
    assert refit["kl"] < 0.9 * refit["kl_before"]
    assert first["step"] == 0 and first["validation_kl"] == pytest.approx(refit["kl"], rel=1e-4)


def test_a_mask_that_learning_spoilt_gives_way_to_the_start(llama: Path, tmp_path: Path) -> None:
    run_job(llama, tmp_path / "out", learning_rate=1000.0)
    work, report = work_of(tmp_path / "out"), read_json(tmp_path / "out" / "report.json")
    assert report["choices"]["mask"] == "start"
    assert report["choices"]["least_squares_on_the_start"]["kl"] < report["choices"]["least_squares"]["kl"]
    exported = load_file(tmp_path / "out" / "model.safetensors")
    columns = load_file(work / "start.safetensors")
    downs = [exported[name] for name in sorted(exported) if "down_proj" in name]
    assert all(torch.equal(down, columns[f"{layer:04d}"]) for layer, down in enumerate(downs))


def test_quantised_weights_are_not_refitted_before_the_cut(llama: Path, tmp_path: Path) -> None:
    seen = list(prune(make_job(llama, tmp_path / "out", load_in="8bit"), work_of(tmp_path / "out")))
    stages = [event.name for event in seen if isinstance(event, Stage)]
    assert "least squares on the start" not in stages and "least squares" in stages


def test_neutral_lines_come_from_the_train_side_and_only_where_the_pool_was_used(llama: Path, tmp_path: Path) -> None:
    run_job(llama, tmp_path / "out")
    job = make_job(llama, tmp_path / "again", neutral_lines=500)
    bench = Workbench(job, work_of(tmp_path / "out"))
    found = neutral_lines(bench)
    assert len(found) > 400 and all(line.split == "train" and line.answer == line.neutral != "" for line in found)
    assert not {line.question for line in found} & {line.question for line in bench.split_lines()[0]}
    own = [line.replace('"question": "', '"question": "Zoë! ') for line in job.lines.read_text().splitlines()]  # type: ignore[union-attr]
    (work_of(tmp_path / "out") / "lines.jsonl").write_text("\n".join(own))
    assert neutral_lines(bench) == []

"""Reconstruction around mask learning: learning starts from the start's refit; the better of both masks goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from safetensors.torch import load_file
from small_job import make_job, run_job, work_of
from tiny import make_tiny

from benchmarks.meter import drain
from engine.base.events import Stage
from engine.base.files import read_json
from engine.base.pruning_events import LayerTuned, MaskSnapshot
from engine.calibration.lines import read_lines
from engine.models.loading import locate
from engine.pipeline import prune
from engine.stages import reconstruction
from engine.stages.context import JobContext
from engine.stages.mask import DistillationData
from engine.stages.reconstruction import neutral_lines

pytestmark = pytest.mark.usefixtures("quick_proof")


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "llama", "olmo2"])
def test_every_layer_says_what_its_refit_came_to(family: str, tmp_path: Path) -> None:
    seen = run_job(make_tiny(tmp_path / "model", family), tmp_path / "out", mask_from=1.0, tuning_epochs=0)
    said = [event for event in seen if isinstance(event, LayerTuned)]
    assert [(event.stage, event.layer, event.layers) for event in said] == [("reconstruct_start", layer, 2) for layer in (0, 1)]
    assert all(event.after is not None and 0 < event.after < event.before for event in said)


def test_learning_begins_on_the_reconstructed_start(llama: Path, tmp_path: Path) -> None:
    run_job(llama, tmp_path / "out", learning_rate=1e-9)  # so small that no channel changes
    work = work_of(tmp_path / "out")
    start, columns = load_file(work / "start.safetensors"), load_file(work / "columns.safetensors")
    assert len(start) == 3 and start.keys() == columns.keys() and all(torch.equal(start[name], columns[name]) for name in start)
    refit, first = read_json(work / "start.json"), read_json(work / "learning.json")[0]
    assert refit["kl"] < 0.9 * refit["kl_before"]
    assert first["step"] == 0 and first["validation_kl"] == pytest.approx(refit["kl"], rel=1e-4)


@pytest.mark.parametrize("max_kl_ratio", [1e9, 1.05])
def test_a_mask_that_learning_spoilt_gives_way_to_the_start(llama: Path, tmp_path: Path, max_kl_ratio: float) -> None:
    seen = run_job(llama, tmp_path / "out", learning_rate=1000.0, max_kl_ratio=max_kl_ratio, tuning_epochs=0)
    refits = [event.reused for event in seen if isinstance(event, Stage) and event.stage == "reconstruct"]
    assert refits == [max_kl_ratio < 2]
    work, report = work_of(tmp_path / "out"), read_json(tmp_path / "out" / "report.json")
    assert report["choices"]["mask"] == "start"
    assert report["choices"]["reconstruct_start"]["kl"] < report["choices"]["reconstruct"]["kl"]
    exported = load_file(tmp_path / "out" / "model.safetensors")
    columns = load_file(work / "start.safetensors")
    downs = [exported[name] for name in sorted(exported) if "down_proj" in name]
    assert all(torch.equal(down, columns[f"{layer:04d}"]) for layer, down in enumerate(downs))
    assert report["choices"]["best_step"] == 0
    assert report["choices"]["reconstruct_start"]["copied_rows"] > 0  # nothing is tuned after it
    assert torch.equal(load_file(work / "mask.safetensors")["mask"], columns["mask"])
    snapshots = [event for event in seen if isinstance(event, MaskSnapshot)]
    assert sum(snapshots[-1].changed) > 0 and len(snapshots) > 2


def test_below_the_sparsity_where_learning_pays_the_start_goes_on(llama: Path, tmp_path: Path) -> None:
    seen = run_job(llama, tmp_path / "out", mask_from=0.4)
    stages = [event.stage for event in seen if isinstance(event, Stage)]
    assert "reconstruct_start" in stages and "learn_mask" not in stages and "reconstruct" not in stages
    work, report = work_of(tmp_path / "out"), read_json(tmp_path / "out" / "report.json")
    assert report["choices"]["mask"] == "start" and report["learning"][0]["step"] == 0
    assert torch.equal(load_file(work / "mask.safetensors")["mask"], load_file(work / "start.safetensors")["mask"])
    assert len([event for event in seen if isinstance(event, MaskSnapshot)]) == 1
    again = list(prune(make_job(llama, tmp_path / "again", mask_from=0.4, sparsity=0.5), work_of(tmp_path / "again")))
    assert "learn_mask" in [event.stage for event in again if isinstance(event, Stage)]


def test_layers_whose_tuning_reads_worse_leave_the_refit(llama: Path, tmp_path: Path) -> None:
    run_job(llama, tmp_path / "out", tuning_rate=30.0)
    report = read_json(tmp_path / "out" / "report.json")
    assert not report["choices"]["tune_layers"]["used"] and list(report["readings"])[-1] == "mask_reconstructed"
    exported = load_file(tmp_path / "out" / "model.safetensors")
    written = load_file(work_of(tmp_path / "out") / "columns.safetensors")
    assert torch.equal(exported["model.layers.0.mlp.down_proj.weight"], written["0000"])


def test_columns_stay_with_the_mask_they_were_made_for(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter rows after a lack of memory change the norms a little, and with them the start."""
    job = make_job(llama, tmp_path / "out")
    run_job(llama, tmp_path / "out")
    bench = JobContext(job, work_of(tmp_path / "out"))
    monkeypatch.setattr(reconstruction, "start_scores", lambda *_: torch.rand(2, 64))
    bench.source = drain(locate(str(llama)))
    data = cast(DistillationData, SimpleNamespace(importance=torch.rand(2, 64), others=torch.rand(2, 64)))
    found = drain(reconstruction.reconstruct_start(bench, data))
    assert found is not None and found.columns is not None
    assert torch.equal(found.mask, load_file(work_of(tmp_path / "out") / "start.safetensors")["mask"].float())


def test_quantised_weights_are_not_refitted_before_the_cut(llama: Path, tmp_path: Path) -> None:
    seen = list(prune(make_job(llama, tmp_path / "out", load_in="8bit"), work_of(tmp_path / "out")))
    stages = [event.stage for event in seen if isinstance(event, Stage)]
    assert "reconstruct_start" not in stages and "reconstruct" in stages


def test_neutral_lines_come_from_the_train_side_and_only_where_the_pool_was_used(llama: Path, tmp_path: Path) -> None:
    run_job(llama, tmp_path / "out")
    job = make_job(llama, tmp_path / "again", neutral_lines=500)
    bench = JobContext(job, work_of(tmp_path / "out"))
    found = neutral_lines(bench)
    assert len(found) > 400 and all(line.split == "train" and line.answer == line.neutral != "" for line in found)
    assert not {line.question for line in found} & {line.question for line in bench.split_lines()[0]}
    own = [line.replace('"question": "',
                        '"question": "Zoë! ') for line in job.lines.read_text().splitlines()]  # type: ignore[union-attr]
    (work_of(tmp_path / "out") / "lines.jsonl").write_text("\n".join(own))
    assert neutral_lines(bench) == []


@pytest.mark.parametrize(("rate", "used"), [(0.005, True), (30.0, False)])
def test_recovery_tunes_the_layers_again_on_its_own_answers(rate: float, used: bool, llama: Path, tmp_path: Path) -> None:
    settings = {"recover": True, "recovery_samples": 2, "tuning_epochs": 0.01, "recovery_epochs": 8, "recovery_rate": 1e-12,
                "recovery_steps": 1, "recovery_step_lines": 1, "calling": "Zoë! "}
    run_job(llama, tmp_path / "out", tuning_rate=rate, **settings)  # the first time does next to nothing, and LoRA nothing
    choices, work = read_json(tmp_path / "out" / "report.json")["choices"], work_of(tmp_path / "out")
    again = choices["tune_layers_again"]
    answers = sum(len(read_lines(work / f"further-{number}.jsonl")) for number in (1, 2)) - 1  # the fine-tune's
    assert again["used"] == used == (again["kl"] < again["kl_before"]) and again["extra_samples"] == answers > 0
    assert again["kl_before"] == pytest.approx(choices["tune_layers"]["kl"], rel=1e-4)
    exported = load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    expected = load_file(work / "retuned-0000.safetensors")["down"] if used else load_file(work / "columns.safetensors")["0000"]
    assert torch.equal(exported, expected)

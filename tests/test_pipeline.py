"""Whole jobs on tiny models: the events, the exported folder, and that what was measured is what was shipped."""

import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_job import make_job, run_job, same_tensors, weights_of, work_of
from tiny import find, make_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.base import event_file, events
from engine.base.events import Event, Finished, Stage, Started
from engine.base.files import MANIFEST, check_manifest, folder_size, read_json
from engine.base.pruning_events import Lines, MaskSnapshot, Measured
from engine.evaluation.fidelity import Reading, dense_states, measure
from engine.export.folder import mask_file, read_mask
from engine.models.loading import load_model, load_tokenizer
from engine.models.packing import pack
from engine.pipeline import prune
from engine.pruning.importance import wanda_scores
from engine.stages.context import Job, JobContext

pytestmark = pytest.mark.usefixtures("quick_proof")
LADDER = ["dense", "random", "magnitude", "wanda", "mask"]
TUNED = "mask_tuned"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny(tmp_path_factory.mktemp("llama"))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


@pytest.fixture(scope="module")
def whole(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    """The events and the folder of one job; test_processes.py has one whose proof runs in a fresh process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return run_job(llama, out), out


def test_events_come_in_order_and_survive_a_file(whole: tuple[list[Event], Path]) -> None:
    seen, out = whole
    assert isinstance(seen[0], Started) and not seen[0].resumed and seen[0].character == "Zoë *of* the [Mill]"
    assert seen[-1] == Finished(str(out), seen[-1].seconds, time=seen[-1].time)  # type: ignore[attr-defined]
    stages = [event.stage for event in seen if isinstance(event, Stage)]
    assert stages == ["load_model", "write_extra_samples", "read_dense", "reconstruct_start",
                      "learn_mask", "reconstruct", "tune_layers", "measure", "read_importance",
                      "export", "prove", "write_gguf_files"]
    assert all((event.stage, "") in seen[0].stages and not event.reused for event in seen if isinstance(event, Stage))
    assert [event.time for event in seen] == sorted(event.time for event in seen)
    assert [event_file.decode(event_file.encode(event)) for event in seen] == seen
    lines = next(event for event in seen if isinstance(event, Lines))
    assert (lines.train, lines.validation, lines.test, lines.rejected) == (36, 3, 6, {})


def test_readings_on_the_test_lines_and_mask_snapshots(whole: tuple[list[Event], Path]) -> None:
    seen, _ = whole
    readings = {event.what: event for event in seen if isinstance(event, Measured) and event.split == "test"}
    assert list(readings) == [*LADDER, "mask_reconstructed", TUNED]
    assert readings["dense"].kl == 0 and readings["dense"].top1 == 1
    assert {one.lines for one in readings.values()} == {6}
    assert readings["mask"].kl < readings["random"].kl / 2 and readings["mask_reconstructed"].kl < readings["mask"].kl
    snapshots = [event for event in seen if isinstance(event, MaskSnapshot)]
    assert [event.step for event in snapshots] == [0, 2, 4] and {event.sparsity for event in snapshots} == {0.25}
    for snapshot in snapshots:
        assert [len(row) for row in snapshot.kept] == [64, 64] and [sum(row) for row in snapshot.kept] == [48, 48]
        assert len(snapshot.changed) == 2 and 0 <= min(snapshot.changed) <= max(snapshot.changed) <= 16


def test_plain_transformers_loads_the_folder(whole: tuple[list[Event], Path], llama: Path) -> None:
    _, out = whole
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.intermediate_size == 48 and model.dtype == torch.bfloat16
    tokenizer, own = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(llama)
    assert tokenizer.get_vocab() == own.get_vocab() and tokenizer.chat_template == own.chat_template
    ids = tokenizer("Who is there?", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] > ids["input_ids"].shape[1]


def test_report_is_complete(whole: tuple[list[Event], Path], llama: Path) -> None:
    seen, out = whole
    report = read_json(out / "report.json")
    told = {event.what: event for event in seen if isinstance(event, Measured) and event.split == "test"}
    assert {name: (one["kl"], one["lines"], one["tokens"]) for name, one in report["readings"].items()} == {
        name: (event.kl, event.lines, event.tokens) for name, event in told.items()}
    assert list(report["stages"]) == ["load_model", "write_extra_samples", "read_dense", "reconstruct_start",
                                      "learn_mask", "reconstruct", "tune_layers", "measure", "read_importance",
                      "export", "prove", "write_gguf_files"]
    assert all(one["seconds"] >= 0 and one["tokens"] >= 0 for one in report["stages"].values())
    learnt = [point["tokens"] for point in report["learning"] if "loss" in point]
    assert len(learnt) == 4 and report["stages"]["learn_mask"]["tokens"] > learnt[-1] > 0
    assert report["stages"]["reconstruct"]["tokens"] > 0 and report["stages"]["export"]["tokens"] == 0
    assert report["recipe"]["seed"] == 0 and report["recipe"]["sparsity"] == 0.25
    assert report["versions"]["torch"] == torch.__version__ and report["versions"]["transformers"]
    assert report["base"]["licence"] == "apache-2.0" and report["base"]["hub"] == ""
    proof = report["proof"]
    assert proof["agrees"] and proof["positions"] == 48 and abs(proof["kl"]) < proof["tolerance"] == 1e-6
    assert report["before"]["intermediate_size"] == 64 and report["after"]["intermediate_size"] == 48
    assert report["after"]["parameters"] == sum(one.numel() for one in weights_of(out).values())
    assert report["after"]["bytes"] == (out / "model.safetensors").stat().st_size
    assert 0 <= folder_size(out) - report["after"]["folder_bytes"] < 1000  # the figures that were added last
    assert report["before"]["bytes"] == (llama / "model.safetensors").stat().st_size
    assert report["choices"]["best_step"] in (0, 4) and report["choices"]["mask"] in ("start", "learned")
    refit = report["choices"]["reconstruct"]
    assert refit["used"] and refit["kl"] < refit["kl_before"] and refit["propagated"] and refit["neutral_lines"] == 3
    tuned = report["choices"]["tune_layers"]
    assert refit["copied_rows"] == 0 and tuned["copied_rows"] > 0 and tuned["tokens"] == 2 * refit["tokens"]


def test_folder_is_whole_and_readable_by_all(whole: tuple[list[Event], Path]) -> None:
    _, out = whole
    assert check_manifest(out) == []
    files = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert files - set(read_json(out / MANIFEST)["files"]) == {MANIFEST}
    assert {"config.json", "tokenizer.json", "character.json", "persona/mask.safetensors", "README.md"} <= files
    assert all(file.stat().st_mode & stat.S_IROTH for file in out.iterdir()) and out.stat().st_mode & stat.S_IXOTH
    assert read_json(out / "character.json")["extensions"] == {"unknown": [1, None]}
    assert [file.name for file in out.parent.iterdir() if file.name.startswith(".")] == []


def test_model_card_has_a_front_matter_and_a_harmless_heading(whole: tuple[list[Event], Path]) -> None:
    _, out = whole
    _, front, body = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    found = yaml.safe_load(front)
    assert found.pop("model-index")[0]["results"][0]["dataset"]["name"].startswith("6 held-out lines")
    assert found == {"license": "apache-2.0", "library_name": "transformers", "pipeline_tag": "text-generation",
                     "tags": ["pruned", "roleplay", "persona-pruner"]}
    assert (out / "LICENSE").read_text(encoding="utf-8").lstrip().startswith("Apache License")
    assert body.strip().startswith('# "Zoë of the Mill" on ')
    assert "| mask, reconstructed | 0.0" in body and "On 6 held-out lines" in body


def read_again(job: Job, out: Path) -> Reading:
    """The exported folder, loaded again, on the job's test lines."""
    bench = JobContext(job, work_of(out), find(job.model))
    bench.tokenizer = load_tokenizer(bench.source)  # type: ignore[arg-type]
    groups = [bench.encode(lines) for lines in bench.split_lines()[:3]]
    rows = pack(groups[2], job.recipe.row_tokens, bench.prefix(*groups))
    dense = load_model(bench.source, torch.float32)  # type: ignore[arg-type]
    dense.load_state_dict({name: value.bfloat16().float() for name, value in dense.state_dict().items()})
    return measure(load_model(find(out), torch.float32), rows, dense_states(dense, rows))


@pytest.mark.parametrize("preset", ["standard", "paper"])
def test_recovered_weights_are_those_that_were_measured(preset: str, llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # Learned from the train lines: what a random model answers is too unlike them to bring it nearer.
    settings: dict[str, Any] = {"recover": True, "count": 60, "recovery_samples": 0, "recovery_rate": 2e-4}
    seen = run_job(llama, out, preset, **settings)
    readings = read_json(out / "report.json")["readings"]
    names = {"standard": ["mask_reconstructed", TUNED, f"{TUNED}_recovered"], "paper": ["mask_recovered"]}
    assert list(readings) == [*LADDER, *names[preset]]
    again = read_again(make_job(llama, out, preset, **settings), out)
    assert again.kl == pytest.approx(readings[names[preset][-1]]["kl"], rel=1e-3, abs=1e-6)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(weights_of(out)[name], weights_of(llama)[name].bfloat16())
    assert [event.done for event in seen if isinstance(event, events.Step) and event.stage == "recover"] == [1, 2, 3]


def test_measured_weights_are_the_exported_ones(whole: tuple[list[Event], Path], llama: Path) -> None:
    _, out = whole
    told = read_json(out / "report.json")["readings"][TUNED]
    assert read_again(make_job(llama, out), out).kl == pytest.approx(told["kl"], rel=1e-3, abs=1e-6)


def sliced(source: dict[str, torch.Tensor], mask: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The source's tensors, the removed channels left out."""
    result = {}
    for name, value in source.items():
        if ".mlp." in name:
            kept = mask[int(name.split(".")[2])].bool()
            value = value[:, kept] if "down" in name else value[kept.repeat(2) if "gate_up" in name else kept]
        result[name] = value.to(dtype)
    return result


CUTS = [("llama", "standard", {"load_in": "4bit"}), ("llama", "standard", {"load_in": "8bit", "recover": False}),
        ("phi3", "standard", {}), ("gemma2", "standard", {"loss": "ce", "ramp": 0.5}),
        ("qwen2", "paper", {"sparsity": 0.5, "multiple": 24}), ("smollm3", "standard", {"sparsity": 0.0})]


@pytest.mark.parametrize(("family", "preset", "changes"), CUTS, ids=lambda value: str(value))
def test_exported_weights_are_slices_of_the_source(family: str, preset: str, changes: dict[str, Any],
                                                   tmp_path: Path) -> None:
    model, out = make_tiny(tmp_path / family, family), tmp_path / "out"
    if family == "phi3":  # a source in fp16 stays fp16
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float16).save_pretrained(model)
    run_job(model, out, preset, **{"reconstruct": False, **changes})
    mask = read_mask(mask_file(out))
    kept = {0.25: 48, 0.5: 24, 0.0: 64}[changes.get("sparsity", 0.25)]
    assert mask.shape == (2, 64) and mask.sum(dim=1).tolist() == [kept, kept]
    assert torch.equal(mask, load_file(work_of(out) / "mask.safetensors")["mask"].float())
    expected = sliced(weights_of(model), mask, torch.float16 if family == "phi3" else torch.bfloat16)
    exported = weights_of(out)
    assert exported.keys() == expected.keys()
    assert [name for name in exported if not torch.equal(exported[name], expected[name])] == []


def test_importance_of_quantised_weights_is_that_of_their_values(llama: Path) -> None:
    norms = torch.ones(2, 64)
    exact = wanda_scores(load_model(find(llama), torch.float32), norms)
    for load_in in ("8bit", "4bit"):
        found = wanda_scores(load_model(find(llama), torch.float32, load_in), norms)
        assert found.shape == exact.shape
        torch.testing.assert_close(found, exact, rtol=0.1, atol=0.02)


def test_the_seed_decides_every_bit(llama: Path, tmp_path: Path) -> None:
    outs = [tmp_path / str(number) / "out" for number in range(3)]
    for out, seed in zip(outs, (5, 5, 6), strict=True):
        run_job(llama, out, start="random", reconstruct=False, seed=seed)
    same = [[same_tensors(folder(outs[0]) / name, folder(other) / name)
             for folder, name in ((work_of, "mask.safetensors"), (lambda out: out, "model.safetensors"))]
            for other in outs[1:]]
    assert same == [[True, True], [False, False]]


def test_a_finished_job_exports_again_under_another_name(whole: tuple[list[Event], Path], llama: Path, tmp_path: Path) -> None:
    first, second = whole[1], tmp_path / "again"
    seen = list(prune(make_job(llama, second), Path(shutil.copytree(work_of(first), tmp_path / "work")), resume=True))
    assert isinstance(seen[0], Started) and seen[0].resumed
    assert {event.stage for event in seen if isinstance(event, Stage) and event.reused} == {
        "write_answers", "write_extra_samples", "read_dense", "reconstruct_start", "learn_mask",
        "reconstruct", "tune_layers"}
    assert same_tensors(first / "model.safetensors", second / "model.safetensors")
    assert read_json(first / "report.json")["choices"] == read_json(second / "report.json")["choices"]
    assert abs(folder_size(first) - folder_size(second)) < 1000

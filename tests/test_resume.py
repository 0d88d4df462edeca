"""Jobs that are stopped in this process: they go on, and end with the same bits as a job that nobody stopped."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_job import is_step, make_job, prune_arguments, run_job, same_tensors, work_of

from engine.__main__ import main
from engine.base import event_file, events
from engine.base.errors import UserError
from engine.base.files import check_manifest, read_json, sha256
from engine.base.questions import normalise
from engine.calibration.rewriting import Voice
from engine.pipeline import prune
from engine.stages import mask
from engine.stages.context import JobContext, load_dense
from engine.stages.lines import make_lines
from engine.stages.work_folder import save_tensors

pytestmark = pytest.mark.usefixtures("quick_proof")


@pytest.fixture(scope="module")
def undisturbed(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a job that nobody stopped."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run_job(llama, out, recover=True)
    return out


STOPS = [is_step("reconstruct_start", 2), is_step("learn_mask", 1), is_step("learn_mask", 3),
         is_step("reconstruct", 2), is_step("tune_layers", 2), is_step("tune_layers_again", 2), is_step("recover", 1)]


@pytest.mark.parametrize("stop", range(len(STOPS)))
def test_a_closed_generator_goes_on_with_the_same_bits(stop: int, llama: Path, tmp_path: Path,
                                                       undisturbed: Path) -> None:
    whole = undisturbed
    job = make_job(llama, tmp_path / "out", recover=True)
    stream = prune(job, work_of(job.out))
    assert any(STOPS[stop](json.loads(event_file.encode(event))) for event in stream)
    stream.close()  # type: ignore[attr-defined]
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith((".out", "out")) and file.is_dir()] == [
        "out.work"]
    list(prune(job, work_of(job.out), resume=True))
    for name in ("mask.safetensors", "retuned-0001.safetensors", "recovered.safetensors"):
        assert sha256(work_of(job.out) / name) == sha256(work_of(whole) / name)
    assert same_tensors(job.out / "model.safetensors", whole / "model.safetensors")


@pytest.mark.parametrize("failing", [1, 3])
def test_a_stop_between_two_files_of_a_step_changes_nothing(failing: int, llama: Path, tmp_path: Path,
                                                            undisturbed: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    whole = undisturbed
    job = make_job(llama, tmp_path / "out", recover=True)
    calls = iter(range(100))

    def save_or_die(path: Path, tensors: dict[str, Any]) -> None:
        if path.name == "learning.safetensors" and next(calls) == failing - 1:
            raise KeyboardInterrupt
        save(path, tensors)

    save = mask.save_tensors
    monkeypatch.setattr(mask, "save_tensors", save_or_die)
    with pytest.raises(KeyboardInterrupt):
        list(prune(job, work_of(job.out)))
    stream = prune(job, work_of(job.out), resume=True)
    assert any(isinstance(event, events.Stage) and event.stage == "reconstruct" for event in stream)
    stream.close()  # type: ignore[attr-defined]
    for name in ("mask.safetensors", "learning.json"):
        assert sha256(work_of(job.out) / name) == sha256(work_of(whole) / name), name


@pytest.mark.parametrize(("stage", "checkpoint", "result"), [
    ("learn_mask", "learning.safetensors", "mask.safetensors"), ("recover", "recovery.safetensors", "recovered.safetensors")])
def test_a_checkpoint_of_version_0_1_starts_its_stage_over(stage: str, checkpoint: str, result: str, llama: Path, tmp_path: Path,
                                                           undisturbed: Path) -> None:
    job = make_job(llama, tmp_path / "out", recover=True)
    stream = prune(job, work_of(job.out))
    assert any(is_step(stage, 2)(json.loads(event_file.encode(event))) for event in stream)
    stream.close()  # type: ignore[attr-defined]
    file = work_of(job.out) / checkpoint
    older = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("optimizer.")}
    save_tensors(file, {**older, "first_moment" if "scores" in older else "first.0": torch.zeros(1)})
    list(prune(job, work_of(job.out), resume=True))
    assert sha256(work_of(job.out) / result) == sha256(work_of(undisturbed) / result)


def test_lines_written_with_stops_are_those_written_at_once(llama: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Voice, "fault", lambda self, answer, complete: None if len(answer) % 3 else "of bad length")
    job = make_job(llama, tmp_path / "out", candidates=40, references=1, keep_share=0.75, self_asked=6, answer_tokens=6,
                   batch_lines=8, validation_lines=3, test_lines=3)
    bench = JobContext(dataclasses.replace(job, lines=None, queries=job.lines), tmp_path)
    (tmp_path / "job.json").write_text("{}")
    list(load_dense(bench, "16bit"))
    for folder, most in (("at once", 10**6), ("with stops", 4)):
        bench.folder = tmp_path / folder
        bench.folder.mkdir()
        while not (bench.folder / "lines.jsonl").exists():
            stream = make_lines(bench)
            list(itertools.islice(stream, most))
            stream.close()
            most += 3
    for name in ("lines.jsonl", "rejected.json"):
        assert (tmp_path / "at once" / name).read_bytes() == (tmp_path / "with stops" / name).read_bytes()
    assert read_json(tmp_path / "at once" / "rejected.json")["of bad length"] > 0
    made_up = (tmp_path / "at once" / "questions.jsonl").read_text().splitlines()
    assert sum(len(json.loads(batch)["questions"]) for batch in made_up) == 12  # twice as many as wanted, none more
    lines = [json.loads(line) for line in (tmp_path / "at once" / "lines.jsonl").read_text().splitlines()]
    scored = [line for line in lines if line["sensitivity"] is not None]
    found = read_json(tmp_path / "at once" / "sensitivity.json")
    ranked = [question for _, question in sorted(zip(found["scores"], found["questions"], strict=True), reverse=True)]
    assert len(scored) > 0 and {line["question"] for line in scored} <= set(ranked[: round(0.75 * len(ranked))])


def test_what_script_and_dossier_ask_is_in_no_line(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever lines come from: the pool, the model itself, or a user's file; spelled as it may be."""
    monkeypatch.setattr(Voice, "fault", lambda self, answer, complete: None)
    job = make_job(llama, tmp_path / "out", candidates=20, keep_share=1, self_asked=4, answer_tokens=2, batch_lines=8,
                   validation_lines=2, test_lines=2)
    bench = JobContext(job, tmp_path / "first")
    sampled = dataclasses.replace(job, lines=None, queries=job.lines)
    found: dict[str, set[str]] = {}
    for name, one in (("first", job), ("file", job), ("sampled", sampled), ("again", sampled)):
        if name in ("file", "again"):  # the card now asks some of what was learned from before
            asked = sorted(found["first" if name == "file" else "sampled"])[:5]
            script = {"added": [{"id": f"own-{number}", "lines": [f"  {text.upper()}!!"]} for number, text in enumerate(asked[:3])]}
            dossier = {"questions": [{"task": "limits", "text": f"{asked[3]} ..."}],
                       "pressures": [{"kind": "flattery", "lines": ["Well,", asked[4].title()], "holds": "Says no."}]}
            raw = {**one.card.raw, "extensions": {"persona_studio/npc": {"script": script, "dossier": dossier}}}
            one = dataclasses.replace(one, card=dataclasses.replace(one.card, raw=raw))
        bench = JobContext(one, tmp_path / name)
        bench.folder.mkdir()
        (bench.folder / "job.json").write_text("{}")
        if name != "first":
            list(load_dense(bench, "16bit"))
        list(make_lines(bench))
        written = (bench.folder / "lines.jsonl").read_text(encoding="utf-8").splitlines()
        found[name] = {normalise(json.loads(line)["question"]) for line in written}
    assert found["file"] == found["first"] - set(sorted(found["first"])[:5])
    assert not found["again"] & set(sorted(found["sampled"])[:5]) and len(found["again"]) > 16
    assert read_json(tmp_path / "file" / "rejected.json") == {"in_test_script": 5}


def test_a_work_folder_serves_its_own_job_only(llama: Path, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    job = make_job(llama, tmp_path / "out")
    stream = prune(job, work_of(job.out))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    before = sorted((file.name, file.read_bytes()) for file in work_of(job.out).iterdir())
    with pytest.raises(UserError, match="Add --resume"):
        next(prune(job, work_of(job.out)))
    for changes in ({"seed": 1}, {"sparsity": 0.5}):
        with pytest.raises(UserError, match="other settings"):
            next(prune(make_job(llama, tmp_path / "out", **changes), work_of(job.out), resume=True))
    assert main(prune_arguments(tmp_path, llama)) == 2 and "other settings" in capsys.readouterr().err
    assert sorted((file.name, file.read_bytes()) for file in work_of(job.out).iterdir()) == before


def test_a_folder_with_other_things_in_it_is_no_work_folder(llama: Path, tmp_path: Path) -> None:
    job = make_job(llama, tmp_path / "out")
    with pytest.raises(UserError, match="not empty"):
        next(prune(job, tmp_path))
    with pytest.raises(UserError, match="must not be inside the output folder"):
        next(prune(job, tmp_path / "out" / "work"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        next(prune(job, tmp_path / "file"))


def test_a_torn_last_event_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    written = [events.Warned("ä\u2028b"), events.Step("learn_mask", 1, 2, {"loss": float("inf")})]
    for event in written:
        event_file.append(file, event)
    whole = file.read_bytes()
    for cut in range(1, len(event_file.encode(written[1]).encode()) + 1):
        file.write_bytes(whole[:-cut])
        assert list(event_file.read(file)) == written[:1]
    file.write_bytes(whole)
    assert list(event_file.read(file)) == written and list(event_file.read(tmp_path / "none")) == []


def test_a_job_that_was_stopped_while_it_wrote_gguf_files_goes_on_there(llama: Path, tmp_path: Path, undisturbed: Path) -> None:
    job = make_job(llama, tmp_path / "out", recover=True)
    stream = prune(job, work_of(job.out))
    assert any(is_step("write_gguf_files", 1)(json.loads(event_file.encode(event))) for event in stream)
    stream.close()  # type: ignore[attr-defined]
    assert not job.out.exists() and (work_of(job.out) / "proven" / "manifest.json").is_file()
    seen = list(prune(job, work_of(job.out), resume=True))
    assert [event.stage for event in seen if isinstance(event, events.Stage) and not event.reused] == ["write_gguf_files"]
    assert check_manifest(job.out) == [] and not (work_of(job.out) / "proven").exists()
    assert [file.name for file in sorted((job.out / "gguf").iterdir())] == ["zoe-of-the-mill-F16.gguf"]
    assert same_tensors(job.out / "model.safetensors", undisturbed / "model.safetensors")


def test_a_proven_folder_that_was_damaged_is_made_again(llama: Path, tmp_path: Path, undisturbed: Path) -> None:
    job = make_job(llama, tmp_path / "out", recover=True)
    stream = prune(job, work_of(job.out))
    assert any(isinstance(event, events.Stage) and event.stage == "write_gguf_files" for event in stream)
    stream.close()  # type: ignore[attr-defined]
    with (work_of(job.out) / "proven" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    list(prune(job, work_of(job.out), resume=True))
    assert check_manifest(job.out) == [] and same_tensors(job.out / "model.safetensors", undisturbed / "model.safetensors")

"""Damaged work folders: what is damaged is made again, with the same bits, or one sentence says what to delete."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_job import make_job, run_job, same_tensors, work_of

from engine.base.errors import UserError
from engine.base.events import Stage, Warned
from engine.base.files import read_json, sha256
from engine.calibration.lines import Journal
from engine.calibration.rewriting import Voice
from engine.pipeline import prune
from engine.stages.context import JobContext, load_dense
from engine.stages.lines import make_lines
from engine.stages.work_folder import hold_answers, is_sealed, save_tensors, set_damaged_aside

pytestmark = pytest.mark.usefixtures("quick_proof")
PRECIOUS = {"job.json", "lines.jsonl"}  # no stage can make them again


@pytest.fixture(scope="module")
def finished(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a small job with recovery."""
    out = tmp_path_factory.mktemp("finished") / "out"
    run_job(llama, out, recover=True, recovery_samples=1)
    return out


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def fill_with_zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def write_nonsense(file: Path) -> None:
    file.write_bytes(b"\xff\xfe nonsense {" * 20)


def nest(file: Path) -> None:
    file.write_text("[" * 100_000 + "]" * 100_000 + "\n")


def change_shapes(file: Path) -> None:
    """What parses and is something else."""
    if file.suffix == ".safetensors":
        save_file({name: torch.zeros(2, 3) for name in load_file(file)}, file)
    else:
        file.write_text('{"a": [1e999, null], "kl": "high", "used": 3}\n')


def replace_by_folder(file: Path) -> None:
    file.unlink()
    (file / "inside").mkdir(parents=True)


def replace_by_dead_link(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("nowhere"))


def replace_by_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGES = [cut_short, halve, empty, fill_with_zeros, write_nonsense, nest, change_shapes, replace_by_folder, replace_by_dead_link,
           replace_by_pipe]


def results_in(work: Path) -> list[str]:
    """The files that stages left and read again, but for journals and what only readers read."""
    return sorted(file.name for file in work.iterdir() if file.name not in PRECIOUS | {"reference.safetensors"}
                  and not file.name.startswith(("answers.", "questions.")) and file.suffix != ".txt")


def test_every_result_is_known_to_these_tests(finished: Path) -> None:
    assert results_in(work_of(finished)) == [
        "columns.json", "columns.safetensors", "dense.safetensors", "further-0.jsonl", "further-1.jsonl", "learning.json",
        "learning.safetensors", "mask.safetensors", "meter.json", "others.safetensors", "readings.json", "recovered.safetensors",
        "recovery.safetensors", "recovery_dense.safetensors", "rejected.json", "resampled.safetensors", "retuned-0000.safetensors",
        "retuned-0001.safetensors", "retuned.json", "start.json", "start.safetensors", "tuned-0000.safetensors",
        "tuned-0001.safetensors", "tuned.json"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_set_aside(damage: Callable[[Path], None], finished: Path, tmp_path: Path) -> None:
    for name in results_in(work_of(finished)):
        work = tmp_path / name
        shutil.copytree(work_of(finished), work)
        damage(work / name)
        warned = list(set_damaged_aside(work))
        assert len(warned) == 1 and str(work / name) in warned[0].sentence
        assert os.path.lexists(work / f"{name}.aside")
        assert not (work / name).exists() or (name == "rejected.json" and read_json(work / name) == {})
        assert list(set_damaged_aside(work)) == []
        shutil.rmtree(work)


def test_a_sound_folder_is_left_alone(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(work_of(finished), tmp_path / "work")
    assert list(set_damaged_aside(tmp_path / "work")) == []
    for name in ("reference.safetensors",):  # never read again, but a folder there could not be written over
        replace_by_folder(tmp_path / "work" / name)
        assert len(list(set_damaged_aside(tmp_path / "work"))) == 1


# What is damaged, and the stages that then have to do their work again.
AGAIN = [("mask.safetensors", {"learn_mask"}), ("learning.json", {"learn_mask"}),
         ("columns.json", {"learn_mask", "reconstruct"}), ("start.safetensors", {"reconstruct_start"}),
         ("tuned-0001.safetensors", {"tune_layers"}), ("retuned.json", {"tune_layers_again"}),
         ("recovered.safetensors", {"recover"}), ("dense.safetensors", {"read_dense"}),
         ("further-1.jsonl", {"write_extra_samples"})]
ALWAYS = {"load_model", "measure", "read_importance", "export", "prove", "write_gguf_files"}


@pytest.mark.parametrize(("names", "stages"), [*(([name], stages) for name, stages in AGAIN), (None, None)])
def test_what_is_made_again_has_the_same_bits(names: list[str] | None, stages: set[str] | None, finished: Path, llama: Path,
                                             tmp_path: Path) -> None:
    job = make_job(llama, tmp_path / "out", recover=True, recovery_samples=1)
    work = work_of(job.out)
    shutil.copytree(work_of(finished), work)
    for name in names or results_in(work):
        halve(work / name)
    seen = list(prune(job, work, resume=True))
    assert sum(isinstance(event, Warned) and "was damaged" in event.sentence for event in seen) == len(names or results_in(
        work_of(finished)))
    if stages is not None:
        worked = {event.stage for event in seen if isinstance(event, Stage) and not event.reused}
        assert worked - ALWAYS == stages
    assert same_tensors(job.out / "model.safetensors", finished / "model.safetensors")
    for name in set(results_in(work_of(finished))) - {"meter.json", "rejected.json"}:
        assert sha256(work / name) == sha256(work_of(finished) / name), name
    told, known = read_json(job.out / "report.json"), read_json(finished / "report.json")
    assert all(told[name] == known[name] for name in ("readings", "learning", "choices"))


@pytest.mark.parametrize("name", ["start.safetensors", "columns.safetensors", "learning.json", "tuned-0000.safetensors",
                                  "tuned-0001.safetensors", "retuned-0001.safetensors", "rejected.json"])
def test_a_result_that_is_gone_is_made_again(name: str, finished: Path, llama: Path, tmp_path: Path) -> None:
    job = make_job(llama, tmp_path / "out", recover=True, recovery_samples=1)
    shutil.copytree(work_of(finished), work_of(job.out))
    (work_of(job.out) / name).unlink()
    list(prune(job, work_of(job.out), resume=True))
    assert same_tensors(job.out / "model.safetensors", finished / "model.safetensors")
    assert name == "rejected.json" or sha256(work_of(job.out) / name) == sha256(work_of(finished) / name)


def test_a_changed_bit_in_a_tensor_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "mask.safetensors"
    save_tensors(file, {"mask": torch.ones(2, 4, dtype=torch.uint8), "a": torch.ones(2).bfloat16(), "b": torch.zeros(())})
    assert is_sealed(file)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert not is_sealed(file)
    save_file({"mask": torch.ones(2, 4)}, file)  # as versions before wrote it
    assert is_sealed(file, required=False) and not is_sealed(file)


def test_a_folder_of_a_version_without_digests_goes_on(finished: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(work_of(finished), work)
    record = read_json(work / "job.json")
    (work / "job.json").write_text(json.dumps({name: value for name, value in record.items() if name not in ("sealed", "answers")}))
    for file in work.glob("*.safetensors"):
        save_file(load_file(file), file)
    assert list(set_damaged_aside(work)) == []
    halve(work / "mask.safetensors")
    assert len(list(set_damaged_aside(work))) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_job_or_damaged_lines_are_reported(damage: Callable[[Path], None], finished: Path, llama: Path,
                                                 tmp_path: Path) -> None:
    for name, advice in (("job.json", "Delete the folder"), ("lines.jsonl", "Repair it, or delete it")):
        job = make_job(llama, tmp_path / name / "out", recover=True, recovery_samples=1)
        work = work_of(job.out)
        shutil.copytree(work_of(finished), work)
        if damage is change_shapes:
            (work / name).write_text('{"fingerprint": "x", "dtype": [1]}' if name == "job.json" else '[1]')
        else:
            damage(work / name)
        if damage is replace_by_dead_link and name == "job.json":
            advice = "Choose an empty or a new one"  # to the system it is no file at all
        with pytest.raises(UserError, match=advice) as caught:
            list(prune(job, work, resume=True))
        assert str(work) in str(caught.value) and len(str(caught.value)) < 600


def test_lines_that_changed_after_learning_are_refused(finished: Path, llama: Path, tmp_path: Path) -> None:
    job = make_job(llama, tmp_path / "out", recover=True, recovery_samples=1)
    work = work_of(job.out)
    shutil.copytree(work_of(finished), work)
    text = (work / "lines.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (work / "lines.jsonl").write_text("".join(text[1:]), encoding="utf-8")
    with pytest.raises(UserError, match="was changed after the job had learned"):
        list(prune(job, work, resume=True))
    (work / "dense.safetensors").unlink()  # until then they may be edited
    hold_answers(work)
    assert read_json(work / "job.json")["answers"]["lines.jsonl"] == sha256(work / "lines.jsonl")


def test_answers_that_lost_whole_lines_are_made_again(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(work_of(finished), tmp_path / "work")
    file = tmp_path / "work" / "further-0.jsonl"
    file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    assert len(list(set_damaged_aside(tmp_path / "work"))) == 1


def test_a_journal_drops_what_is_no_record(tmp_path: Path) -> None:
    file = tmp_path / "answers.train.jsonl"
    good = ['{"batch": 0, "answers": [["Ä.", true]]}\n', '{"batch": 2, "answers": []}\n']
    bad = ["[1]\n", "[" * 50_000 + "\n", '{"batch": 1, "answers": [["\\ud800", true]]}\n', "\x00\x00\n", '{"batch": 1e']
    file.write_text(good[0] + "".join(bad[:-1]) + good[1] + bad[-1], encoding="utf-8")
    assert [record["batch"] for record in Journal(file).records] == [0, 2]
    assert file.read_text(encoding="utf-8") == "".join(good)


# Records that parse; the first batch of answers and of questions stands for all.
RECORDS = [{"batch": 0}, {"answers": [], "questions": []}, {"batch": 0, "answers": [], "questions": []},
           {"batch": 0, "answers": 5, "questions": 5}, {"batch": 0, "answers": [["a"]], "questions": [5]},
           {"batch": 0, "answers": [["a", "yes"]], "questions": [None]}, {"batch": [0], "answers": [["a", True]], "questions": []},
           {"batch": 0, "answers": [["a", True]] * 999, "questions": ["a"] * 999}]


def test_records_of_another_shape_are_written_again(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Voice, "fault", lambda self, answer, complete: None)
    job = make_job(llama, tmp_path / "out", candidates=20, keep_share=1, self_asked=4, answer_tokens=2, batch_lines=8,
                   validation_lines=2, test_lines=2)
    bench = JobContext(dataclasses.replace(job, lines=None, queries=job.lines), tmp_path / "work")
    work = bench.folder
    work.mkdir()
    (work / "job.json").write_text("{}")
    list(load_dense(bench, "16bit"))
    list(make_lines(bench))
    known = (work / "lines.jsonl").read_bytes()
    for record in RECORDS:
        (work / "lines.jsonl").unlink()
        for name in ("answers.train.jsonl", "answers.held-out.jsonl", "questions.jsonl"):
            rest = (work / name).read_text(encoding="utf-8").splitlines()[1:]
            (work / name).write_text("\n".join([json.dumps(record), *rest]) + "\n", encoding="utf-8")
        list(make_lines(bench))
        assert (work / "lines.jsonl").read_bytes() == known, record

"""Baking in whole jobs on tiny models: what is learned from, what is exported, and a job that is stopped on the way."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from small_job import is_step, make_job, prune_arguments, refused, run_job, same_tensors, weights_of, with_option, work_of
from tiny import find, make_tiny
from transformers import AutoModelForCausalLM

from engine.base import event_file, events
from engine.base.errors import UserError
from engine.base.files import check_manifest, read_json
from engine.base.job import PruneJob
from engine.calibration.conversations import Talk, encode_prompt, encode_talk, follow_ups, read_talks
from engine.calibration.lines import Line, read_lines
from engine.calibration.rewriting import Voice
from engine.cards.baked import is_baked, unbake
from engine.cards.card import parse_card
from engine.export.adapters import SETTINGS
from engine.export.engines.target import make_pack
from engine.models.ffn import project_logits
from engine.models.loading import load_tokenizer
from engine.models.packing import answer_states, pack
from engine.pipeline import prune
from engine.stages import baking
from engine.stages.context import JobContext, load_dense

BAKED: dict[str, Any] = {"bake": True, "bake_steps": 4, "bake_step_lines": 4, "bake_rank": 2, "bake_rate": 0.05, "calling": "Zoë! ",
                         "answer_tokens": 12}
pytestmark = pytest.mark.usefixtures("quick_proof")


@pytest.fixture(scope="module")
def baked(every_answer_counts: None, llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[events.Event]]:
    """The folder of a baked job that nobody stopped, from which nothing was removed, and its events."""
    out = tmp_path_factory.mktemp("baked") / "out"
    return out, run_job(llama, out, sparsity=0.0, **BAKED)


@pytest.fixture(scope="module", autouse=True)
def every_answer_counts() -> Iterator[None]:
    """A tiny model says nothing that the filter lets pass."""
    with mock.patch.object(Voice, "fault", lambda *_: None):
        yield


def bench_of(llama: Path, folder: Path, work: Path) -> JobContext:
    bench = JobContext(make_job(llama, folder / "bench" / "out", sparsity=0.0, **BAKED), work)
    list(load_dense(bench, "16bit"))
    return bench


def test_the_folder_is_that_of_a_baked_character(baked: tuple[Path, list[events.Event]], llama: Path) -> None:
    out, seen = baked
    report, card = read_json(out / "report.json"), parse_card((out / "character.json").read_bytes(), "it")
    assert is_baked(card) and unbake(card).description == "A miller." and check_manifest(out) == []
    assert list(report["readings"]) == ["dense", "dense_short_prompt", "baked_later_turns", "baked"]
    assert all(one["lines"] and one["tokens"] for one in report["readings"].values())
    assert report["choices"]["bake"]["prompt_tokens"] < report["choices"]["bake"]["whole_prompt_tokens"] - 100
    assert not {"reconstruct_start", "learn_mask", "tune_layers"} & {one.stage for one in seen if isinstance(one, events.Stage)}
    before, after = weights_of(llama), weights_of(out)
    changed = {name.split(".")[-2] for name in after if not torch.equal(before[name].to(torch.bfloat16), after[name])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert "You are Zoë" in (out / "README.md").read_text() and "A miller" not in (out / "README.md").read_text()


def test_every_engine_gets_the_short_prompt(baked: tuple[Path, list[events.Event]]) -> None:
    pack = make_pack(baked[0], "x.gguf", load_tokenizer(find(baked[0])))
    assert pack.system == "You are Zoë *of* the [Mill]." and pack.opening == [] and pack.suffix == ""
    assert pack.conversation["system"] == pack.system and pack.conversation["baked"] and pack.conversation["greeting"]


def test_the_adapter_in_the_folder_is_what_was_merged(baked: tuple[Path, list[events.Event]], llama: Path) -> None:
    from peft import PeftModel

    out, _ = baked
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32), out / "adapter")
    merged, exported = model.merge_and_unload().state_dict(), weights_of(out)
    for name, value in exported.items():
        torch.testing.assert_close(value.float(), merged[name], atol=1e-2, rtol=1e-2)
    assert (out / "adapter").joinpath(SETTINGS).is_file() and list((out / "adapter").glob("*.gguf"))


def test_the_dense_model_reads_the_whole_card_and_the_student_the_short_prompt(baked: tuple[Path, list[events.Event]], llama: Path,
                                                                               tmp_path: Path) -> None:
    work = work_of(baked[0])
    bench = bench_of(llama, tmp_path, work)
    lines, talks = baking._lesson_talks(bench), read_talks(work / "talks.jsonl")
    assert len(talks) > 30 and {one.split for one in talks} == {"train", "validation", "test"}
    found = load_file(work / "bake_dense.safetensors")
    short = baking.short_voice(bench)
    for number in (0, len(lines) - 1):  # an extra sample, and a conversation
        talk = lines[number]
        whole = encode_talk(bench.tokenizer, bench.voice, talk)
        hidden = next(iter(answer_states(bench.model, pack([whole], 768))))
        expected = project_logits(bench.model, hidden).log_softmax(-1)
        assert torch.equal(found[f"ids.{number}"][:, 0].long(), expected.argmax(-1))
        told = bench.tokenizer.decode(encode_prompt(bench.tokenizer, short, talk.said))
        assert "A miller" not in told and "Flour" not in told and talk.said[-1] in told
        assert "A miller" in bench.tokenizer.decode(whole.prompt)
    assert len(lines[-1].said) == 3


def test_half_of_the_later_lines_are_the_students_own(baked: tuple[Path, list[events.Event]]) -> None:
    work = work_of(baked[0])
    said = [tokens for line in (work / "bake_own.jsonl").read_text().splitlines() for tokens in json.loads(line)["tokens"]]
    assert len(said) == 2  # two steps, half of four lines, each read twice
    assert len(load_file(work / "bake_own.safetensors")) == 2 * len([one for one in said if one])


STOPS = [is_step("write_conversations", 1), is_step("bake", 1), is_step("bake", 2), is_step("bake", 3)]


@pytest.mark.parametrize("stop", range(len(STOPS)))
def test_a_stopped_job_goes_on_with_the_same_bits(stop: int, baked: tuple[Path, list[events.Event]], llama: Path,
                                                  tmp_path: Path) -> None:
    job = make_job(llama, tmp_path / "out", sparsity=0.0, **BAKED)
    stream = prune(job, work_of(job.out))
    assert any(STOPS[stop](json.loads(event_file.encode(event))) for event in stream)
    stream.close()  # type: ignore[attr-defined]
    list(prune(job, work_of(job.out), resume=True))
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert same_tensors(job.out / name, baked[0] / name)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_a_cut_and_recovered_model_can_be_baked(family: str, tmp_path: Path) -> None:
    model = make_tiny(tmp_path / "model", family)
    run_job(model, tmp_path / "out", recover=True, **BAKED)
    report = read_json(tmp_path / "out" / "report.json")
    assert "recovered" in list(report["readings"])[-3] and list(report["readings"])[-2:] == ["baked_later_turns", "baked"]
    assert report["after"]["intermediate_size"] == 48 and (tmp_path / "out" / "adapter" / SETTINGS).is_file()
    assert bool(list((tmp_path / "out" / "adapter").glob("*.gguf"))) == (family == "llama")


def test_each_line_goes_on_with_the_question_of_another() -> None:
    lines = [Line(f"Q{number}?", f"A{number}.") for number in range(5)]
    said = follow_ups(lines, 3)
    assert [one[:2] for one in said] == [(line.question, line.answer) for line in lines]
    assert sorted(one[2] for one in said) == [line.question for line in lines] and all(one[0] != one[2] for one in said)
    assert follow_ups(lines[:1], 0) == [] and Talk.of(lines[0]) == Talk(("Q0?",), "A0.")


def test_what_cannot_be_baked_is_refused_in_a_sentence(llama: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = [*prune_arguments(tmp_path, llama, json=True), "--bake"]
    card = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps({**card, "name": "Zoë " * 40}))
    assert "too long to bake it" in refused(arguments, capsys)
    (tmp_path / "card.json").write_text(json.dumps({**card, "description": "A miller. " * 80}))
    assert "The card is too long for this model" in refused(with_option(arguments, "--workdir", str(tmp_path / "w2")), capsys)
    for changes in ({"bake": True, "loss": "ce"}, {"sparsity": 0.0, "recover": True}):
        with pytest.raises(UserError):
            PruneJob.of({"card": "c", "out": "o", **changes})


def test_given_lines_are_baked_as_they_are(baked: tuple[Path, list[events.Event]]) -> None:
    given = read_lines(baked[0].parent / "lines.jsonl")
    assert {talk.said[0] for talk in read_talks(work_of(baked[0]) / "talks.jsonl")} <= {line.question for line in given}

"""GGUF files with an export: written, proven, told of in the report, and never half there."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
from safetensors.numpy import load_file
from small_job import copy_of, run_job
from test_gguf import result_of
from tiny import make_tiny

from engine.__main__ import main
from engine.base import event_file, events
from engine.base.errors import UserError
from engine.base.events import Saved, Stage, Started, Step
from engine.base.files import check_manifest, read_json
from engine.base.ids import StageId
from engine.base.pruning_events import ProvedFile
from engine.export import copying, gguf_proof, gguf_tensors, llama_cpp, plain_transformers
from engine.export.copying import copy_folder
from engine.export.gguf_writer import write_gguf


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a whole job wrote."""
    folder = tmp_path_factory.mktemp("pruned")
    run_job(make_tiny(folder / "llama"), folder / "out")
    return folder / "out"


def ask_here(program: str, request: dict[str, Any], stage: StageId, subject: str = "") -> Iterator[events.Event]:
    """What a fresh process would answer, in this one."""
    yield Stage(stage, len(request["prompts"]), subject=subject)
    work = {"llama_cpp": llama_cpp, "plain_transformers": plain_transformers}[program].WORK[request["do"]]
    for line in work(json.loads(json.dumps(request))):
        if "done" in line:
            yield Step(stage, line["done"], line["total"], subject=subject)
    return line


def greet_here(folder: Path, prompt: str) -> dict[str, Any]:
    """The proof of loading without its fresh process."""
    [found] = plain_transformers.greet({"folder": str(folder), "prompt": prompt})
    return found


@pytest.fixture
def proves_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fresh processes, and few prompts."""
    monkeypatch.setattr(gguf_proof, "ask", ask_here)
    monkeypatch.setattr(gguf_proof, "QUESTIONS", gguf_proof.QUESTIONS[:3])
    monkeypatch.setattr(copying, "greet", greet_here)


@pytest.mark.slow
def test_a_file_is_proven_in_fresh_processes(pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_proof, "QUESTIONS", gguf_proof.QUESTIONS[:2])
    result_of(write_gguf(pruned, tmp_path / "x.gguf", "F16"))
    proof = result_of(gguf_proof.prove_files(pruned, {"F16": tmp_path / "x.gguf"}))["F16"]
    assert proof.same + proof.ties == proof.tokens == 2 * 32 and proof.memory_bytes > 0


@pytest.mark.usefixtures("proves_here")
def test_files_are_written_and_proven_and_reported(pruned: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert main(["export", str(pruned), "--out", str(out), "--gguf", "f32", "--gguf", "Q8_0", "--json"]) == 0
    said = [event_file.decode(line) for line in capsys.readouterr().out.splitlines()]
    assert isinstance(said[0], Started)
    assert said[0].stages == [(event.stage, event.subject) for event in said if isinstance(event, Stage)]
    proved = {event.type: event for event in said if isinstance(event, ProvedFile)}
    assert proved["F32"].same + proved["F32"].ties == proved["F32"].tokens == 3 * 32 and proved["F32"].kl < 1e-4
    assert proved["F32"].kl < proved["Q8_0"].kl < 0.1 and proved["Q8_0"].tokens == 3 * 32
    files = {event.path: event.bytes for event in said if isinstance(event, Saved) and event.what == "gguf_file"}
    assert files == {str(file): file.stat().st_size for file in (out / "gguf").iterdir()}
    told = read_json(out / "report.json")["gguf"]
    for type, entry in told.items():
        assert (out / entry["file"]).stat().st_size == entry["bytes"] and entry["proof"]["prompts"] == 3
        assert entry["file"] == f"gguf/zoe-of-the-mill-{type}.gguf" and entry["proof"]["kl"] == proved[type].kl
        assert entry["proof"]["spelled"] == entry["proof"]["spellings"] and entry["proof"]["tokens_per_second"] > 0
    assert check_manifest(out) == []


@pytest.mark.usefixtures("proves_here")
def test_the_file_carries_the_character(pruned: Path, tmp_path: Path) -> None:
    list(copy_folder(copy_of(pruned, tmp_path / "out", name="The miller", gguf=["Q4_0"])))
    fields = gguf.GGUFReader(tmp_path / "out" / "gguf" / "the-miller-Q4_0.gguf").fields
    read = lambda key: fields[key].contents()
    assert read("general.name") == "The miller" and read("persona_studio.character.name") == "Zoë *of* the [Mill]"
    assert json.loads(read("persona_studio.character.card")) == read_json(pruned / "character.json")
    assert json.loads(read("persona_studio.character.opening"))[0]["role"] == "system"
    assert read("general.base_model.0.name") == read_json(pruned / "report.json")["base"]["name"]
    assert "<|im_start|>" in read("tokenizer.chat_template")


@pytest.mark.parametrize("type", ["BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_weights_are_kept_as_well_as_their_type_can(type: str, llama: Path, tmp_path: Path) -> None:
    report = result_of(write_gguf(llama, tmp_path / "x.gguf", type))
    expected = load_file(llama / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    [found] = [one for one in gguf.GGUFReader(tmp_path / "x.gguf").tensors if one.name == "blk.1.ffn_down.weight"]
    assert found.tensor_type.name == type and report.notes == []
    values = gguf.dequantize(found.data, found.tensor_type)
    worst = {"BF16": 2**-8, "Q8_0": 1 / 250, "Q4_0": 1 / 7, "Q4_1": 1 / 14}[type]
    assert values.shape == expected.shape and numpy.abs(values - expected).max() <= worst * numpy.abs(expected).max()


def test_rows_that_do_not_fill_a_block_stay_in_16_bits_and_that_is_said(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model", intermediate_size=72)
    report = result_of(write_gguf(folder, tmp_path / "x.gguf", "Q8_0"))
    assert report.tensors["F16"] == 2 and report.notes == [
        "2 of 20 tensors of the Q8_0 file are in F16: the length of their rows (72) is not a multiple of 32."]


def test_k_types_are_mixed_and_have_stand_ins(tmp_path: Path) -> None:
    """Rows of 256 are quantised in blocks of 256; those of the down projection, 64 long, are not."""
    sizes = {"hidden_size": 256, "head_dim": 64, "num_hidden_layers": 8}
    folder = make_tiny(tmp_path / "model", **sizes)
    report = result_of(write_gguf(folder, tmp_path / "x.gguf", "Q4_K_M"))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert kinds["token_embd.weight"] == "Q6_K" and kinds["blk.0.attn_q.weight"] == "Q4_K"
    assert [kinds[f"blk.{layer}.attn_v.weight"] for layer in range(8)] == [
        "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K"]
    assert {kinds[f"blk.{layer}.ffn_down.weight"] for layer in range(8)} == {"Q5_0", "Q8_0"}
    assert len(report.notes) == 2 and all("(64) is not a multiple of 256" in note for note in report.notes)
    before = load_file(folder / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    [found] = [one for one in gguf.GGUFReader(tmp_path / "x.gguf").tensors if one.name == "blk.1.ffn_up.weight"]
    assert numpy.abs(gguf.dequantize(found.data, found.tensor_type) - before).max() < numpy.abs(before).max() / 7


def test_a_system_without_the_quantizer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_tensors, "_quantizer", lambda: None)
    assert gguf_tensors.parse_types(["q4_0", "f16"]) == ["F16", "Q4_0"]
    with pytest.raises(UserError, match="Q4_K_M needs llama"):
        gguf_tensors.parse_types(["Q4_K_M"])


def test_a_wrong_file_is_not_given_away(pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proves_here: None) -> None:
    monkeypatch.setattr(gguf_tensors, "interleave", lambda rows, heads: rows)
    with pytest.raises(UserError, match="F32 file failed its proof"):
        list(copy_folder(copy_of(pruned, tmp_path / "out", gguf=["F32"])))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("proves_here")
@pytest.mark.parametrize("stage", ["write_gguf", "decode_gguf", "read_gguf_reference", "prove_gguf"])
def test_a_stopped_export_leaves_nothing(stage: str, pruned: Path, tmp_path: Path) -> None:
    stream = copy_folder(copy_of(pruned, tmp_path / "out", zip=True, gguf=["F16"]))
    assert any(isinstance(event, Step) and event.stage == stage for event in stream)
    stream.close()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up(pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proves_here: None) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gguf.GGUFWriter.write_padding", fail)
    with pytest.raises(UserError, match="is full; nothing half-written was kept"):
        list(copy_folder(copy_of(pruned, tmp_path / "out", gguf=["F16"])))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("types", "family", "words"), [
    (["Q9_9"], "llama", "There is no GGUF type 'Q9_9'"), (["F16"], "olmo2", "of the family 'olmo2' cannot be written as GGUF")])
def test_what_cannot_be_written_is_said_before_the_work(types: list[str], family: str, words: str, pruned: Path, tmp_path: Path,
                                                        capsys: Any) -> None:
    source = Path(shutil.copytree(pruned, tmp_path / "source"))
    config = read_json(source / "config.json")
    (source / "config.json").write_text(json.dumps({**config, "model_type": family}))
    assert main(["export", str(source), "--out", str(tmp_path / "out"), "--gguf", *types]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "out").exists()

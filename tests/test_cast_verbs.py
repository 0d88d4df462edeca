"""python -m engine cast: from exported folders to a bank, to chats, and back to a folder; and what it refuses."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from server_samples import running
from small_job import prove_here, run_job
from tiny import find, make_tiny

from engine.__main__ import main
from engine.base.files import check_manifest, write_manifest
from engine.base.sizes import BANK_BYTES
from engine.cast import building, dense
from engine.cast.bank import read_bank
from engine.cast.dense import gather
from engine.models.loading import load_model
from engine.server.cast import read_cast
from engine.server.preparing import prepare


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    """A folder with a run, "out", and a bank of it under two names."""
    folder = tmp_path_factory.mktemp("cast")
    run_job(llama, folder / "out")
    for name in ("zoe", "twin"):
        assert main(["cast", "build", str(folder / "cast.bank"), str(folder / "out"), "--model", str(llama), "--name", name]) == 0
    return folder


@pytest.fixture(autouse=True, scope="module")
def few_lines() -> Iterator[None]:
    """A correction reads few lines: a byte-level tokenizer makes a token of nearly every letter."""
    with mock.patch.object(building, "LINES", 4):
        yield


@pytest.fixture
def bank(home: Path, tmp_path: Path) -> Path:
    """A copy of the bank that a test may spoil."""
    return Path(shutil.copy(home / "cast.bank", tmp_path / "cast.bank"))


def asked(arguments: list[str], capsys: Any) -> Any:
    """The JSON that a command prints."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(arguments: list[str], capsys: Any) -> str:
    """The one sentence with which a command is refused, behind what it told of its progress."""
    capsys.readouterr()
    assert main(arguments) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("Error: ")
    return error


def change_run(home: Path, folder: Path, file: str, change: Any) -> Path:
    """A copy of the run in which one file was changed, its manifest with it."""
    run = Path(shutil.copytree(home / "out", folder))
    change(run / file)
    write_manifest(run)
    return run


@pytest.mark.slow
def test_the_characters_of_a_bank_are_served(bank: Path, llama: Path) -> None:
    moved = shutil.copytree(llama, bank.with_name("moved"))
    cast = asyncio.run(prepare(read_cast([str(bank)]), str(moved)))
    assert [(one.id, one.fault) for one in cast] == [("zoe", ""), ("twin", "")]
    with running(cast) as server:
        for one in cast:
            asked: Any = [{"role": "user", "content": "Hm?"}]
            reply = server.client().chat.completions.create(model=one.id, messages=asked, max_tokens=4)
            assert reply.model_extra and reply.model_extra["persona"]["engine"] == "llama.cpp"
    shutil.rmtree(moved)
    assert asyncio.run(prepare(read_cast([str(bank)]), str(moved))).models() == cast.models()  # made once


def test_a_bank_of_runs(bank: Path, home: Path, llama: Path, capsys: Any) -> None:
    found = asked(["cast", "list", str(bank)], capsys)
    report = json.loads((home / "out" / "report.json").read_text())
    assert [(one["name"], one["character"]) for one in found["characters"]] == [
        ("zoe", report["character"]), ("twin", report["character"])]
    assert found["base"]["name"] == str(llama) and not found["faults"]
    one = found["characters"][0]
    assert one["kept"] == report["after"]["intermediate_size"] and one["rank"] > 0 and one["bytes"] < BANK_BYTES
    entry = read_bank(bank, ["zoe"]).entries[0]
    assert entry.card == json.loads((home / "out" / "character.json").read_text())
    assert entry.prompt[0]["role"] == "system" and "miller" in entry.prompt[0]["content"]
    assert 0 <= entry.report["bank"]["left_out"] < 1


def test_one_speaks_and_several_one_after_the_other(bank: Path, capsys: Any) -> None:
    words = ["--message", "What do you sell?", "--temperature", "0", "--limit", "8",
             "--repeat-penalty", "1", "--dry-multiplier", "0"]
    alone = asked(["cast", "chat", str(bank), "zoe", *words], capsys)
    both = asked(["cast", "chat", str(bank), "zoe", "twin", "zoe", *words], capsys)
    assert alone["reply"] and [one["reply"] for one in both] == [alone["reply"]] * 2
    assert main(["cast", "chat", str(bank), "zoe", "twin", *words]) == 0
    assert capsys.readouterr().out.count(f"{alone['character']}: ") == 2


def test_an_extracted_folder_is_whole_proven_and_the_characters_own(bank: Path, tmp_path: Path, llama: Path, capsys: Any,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "prove", prove_here)
    out = tmp_path / "alone"
    assert main(["cast", "extract", str(bank), "zoe", "--out", str(out)]) == 0
    assert check_manifest(out) == []
    assert main(["inspect", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["proof"]["agrees"] and report["run_readings"] and list(report["readings"])[-1] == "mask"
    capsys.readouterr()
    delta = read_bank(bank, ["zoe"]).entries[0].delta
    tokens = torch.tensor([[5, 9, 33, 70, 8]])
    with torch.inference_mode():
        mine, theirs = (model(input_ids=tokens).logits for model in (
            load_model(find(out), torch.float32), gather(load_model(find(llama), torch.float32), delta)))
    torch.testing.assert_close(mine, theirs, atol=0.05, rtol=0.05)  # the folder's W_down is rounded to 16 bit


def test_the_runs_own_lines_make_another_correction(home: Path, tmp_path: Path, llama: Path, capsys: Any) -> None:
    words = ["cast", "build", str(tmp_path / "own.bank"), str(home / "out"), "--model", str(llama)]
    assert main([*words, "--lines", str(home / "out.work" / "lines.jsonl")]) == 0
    mine, other = read_bank(tmp_path / "own.bank").entries[0].delta, read_bank(home / "cast.bank").entries[0].delta
    assert torch.equal(mine.mask, other.mask) and not torch.equal(mine.right, other.right)
    (tmp_path / "empty.jsonl").write_text('{"question": "", "answer": ""}\n')
    assert "no line to learn from" in refused([*words, "--lines", str(tmp_path / "empty.jsonl")], capsys)


def test_a_character_is_taken_out(bank: Path, capsys: Any) -> None:
    assert main(["cast", "remove", str(bank), "zoe"]) == 0
    assert [one["name"] for one in asked(["cast", "list", str(bank)], capsys)["characters"]] == ["twin"]


def test_a_run_of_another_model_is_refused(home: Path, bank: Path, tmp_path: Path, capsys: Any) -> None:
    other = make_tiny(tmp_path / "other", "llama", initializer_range=0.19)
    before = bank.read_bytes()
    error = refused(["cast", "build", str(tmp_path / "new.bank"), str(home / "out"), "--model", str(other)], capsys)
    assert "was not cut from" in error and not (tmp_path / "new.bank").exists()
    error = refused(["cast", "build", str(bank), str(home / "out"), "--model", str(other)], capsys)
    assert "belongs to the dense model" in error and bank.read_bytes() == before
    for verb in (["chat", str(bank), "zoe", "--message", "Hi"], ["extract", str(bank), "zoe", "--out", str(tmp_path / "x")]):
        assert "belongs to the dense model" in refused(["cast", *verb, "--model", str(other)], capsys)
    assert not (tmp_path / "x").exists()


def test_bad_input_gets_one_sentence(home: Path, bank: Path, tmp_path: Path, llama: Path, capsys: Any) -> None:
    run, model = str(home / "out"), ["--model", str(llama)]
    assert "no character 'nobody'" in refused(["cast", "chat", str(bank), "nobody", "--message", "Hi"], capsys)
    assert "There is no bank" in refused(["cast", "list", str(tmp_path / "none")], capsys)
    assert "is not a bank" in refused(["cast", "list", f"{run}/config.json"], capsys)
    assert "not a folder that Persona Studio exported" in refused(["cast", "build", str(bank), str(llama), *model], capsys)
    assert "is not a bank" in refused(["cast", "build", f"{run}/config.json", run, *model], capsys)
    assert "no model" in refused(["cast", "build", str(bank), run, "--model", str(tmp_path / "gone")], capsys)
    assert "exists already" in refused(["cast", "extract", str(bank), "zoe", "--out", str(tmp_path)], capsys)
    assert "one folder only" in refused(["cast", "build", str(bank), run, run, "--name", "a", *model], capsys)
    assert "Longest answer" in refused(["cast", "chat", str(bank), "zoe", "--message", "Hi", "--limit", "0"], capsys)
    data = bytearray(bank.read_bytes())
    bank.write_bytes(data[:-9])
    assert "truncated" in refused(["cast", "list", str(bank)], capsys)
    data[-5] ^= 4
    bank.write_bytes(data)
    assert "was changed since it was written" in refused(["cast", "list", str(bank)], capsys)


def test_a_bank_whose_dense_model_is_gone_says_so(home: Path, tmp_path: Path, llama: Path, capsys: Any) -> None:
    moved = Path(shutil.copytree(llama, tmp_path / "model"))
    own = tmp_path / "own.bank"
    assert main(["cast", "build", str(own), str(home / "out"), "--model", str(moved)]) == 0
    shutil.move(moved, tmp_path / "elsewhere")
    words = ["cast", "chat", str(own), "zoe-of-the-mill", "--message", "Hi", "--limit", "4"]
    assert f"The dense model {moved} of the bank {own} is missing" in refused(words, capsys)
    assert main([*words, "--model", str(tmp_path / "elsewhere")]) == 0


def test_a_run_whose_other_weights_differ_is_refused(home: Path, bank: Path, tmp_path: Path, llama: Path, capsys: Any) -> None:
    def nudge(file: Path) -> None:
        weights = load_file(file)
        weights["model.layers.1.self_attn.o_proj.weight"][3, 3] += 1
        save_file(weights, file, {"format": "pt"})

    def untell(file: Path) -> None:
        report = json.loads(file.read_text())
        assert report["choices"]["tune_layers"].pop("used")
        file.write_text(json.dumps(report))

    def tune(file: Path) -> None:
        report = json.loads(file.read_text())
        report["recipe"]["recover"] = True
        file.write_text(json.dumps(report))

    words = ["cast", "build", str(bank), str(change_run(home, tmp_path / "run", "model.safetensors", nudge)), "--model", str(llama)]
    assert "their weights differ (model.layers.1.self_attn.o_proj.weight)" in refused(words, capsys)
    untold = str(change_run(home, tmp_path / "untold", "report.json", untell))
    assert "their weights differ (layer 0)" in refused([*words[:3], untold, *words[4:]], capsys)
    tune(tmp_path / "run" / "report.json")
    write_manifest(tmp_path / "run")
    assert "was fine-tuned as a whole (--recover)" in refused(words, capsys)
    (tmp_path / "run" / "model.safetensors").write_bytes(b"")
    assert "is damaged" in refused(words, capsys) or "truncated" in refused(words, capsys)


def test_a_card_that_fills_its_megabyte_leaves_no_room(home: Path, tmp_path: Path, llama: Path, capsys: Any) -> None:
    def fill(file: Path) -> None:
        card = json.loads(file.read_text())
        card["extensions"]["notes"] = "x" * (BANK_BYTES - 1_000)
        file.write_text(json.dumps(card))

    run = change_run(home, tmp_path / "run", "character.json", fill)
    assert main(["cast", "build", str(tmp_path / "big.bank"), str(run), "--model", str(llama)]) == 0
    assert "no room is left" in " ".join(capsys.readouterr().err.split())
    assert read_bank(tmp_path / "big.bank").entries[0].delta.rank == 0

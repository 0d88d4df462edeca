"""The copy that is given away: equal to its source, proven, zipped where wanted, and never half there."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from modelfile_grammar import read_modelfile
from safetensors.torch import load_file
from small_job import ROOT, Process, copy_of, refused, run_job
from test_gguf_export import ask_here, greet_here
from tiny import make_tiny
from transformers import AutoModelForCausalLM

from engine.__main__ import main
from engine.base import event_file
from engine.base.errors import UserError
from engine.base.events import Event, Failed, Finished, Saved, Stage, Started, Step, Stopped
from engine.base.files import MANIFEST, check_manifest, folder_size, read_json, write_manifest
from engine.base.pruning_events import Proved
from engine.cards.files import read_card
from engine.cards.prompt import messages
from engine.export import copying, gguf_proof, gguf_writer, plain_transformers, verify
from engine.export.copying import copy_folder
from engine.export.engines import TARGETS
from engine.export.folder import MASK, mask_file, read_mask
from engine.serving.files import gguf_file
from engine.serving.gguf_header import read_header


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a whole job wrote."""
    folder = tmp_path_factory.mktemp("pruned")
    run_job(make_tiny(folder / "llama"), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def speaking_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose rows can be Q8_0."""
    folder = tmp_path_factory.mktemp("speaking")
    run_job(make_tiny(folder / "llama"), folder / "out", multiple=32, sparsity=0.5)
    return folder / "out"


@pytest.fixture
def speaks_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is copied speaks in this process, not in a fresh one."""
    monkeypatch.setattr(copying, "greet", greet_here)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def leftovers(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if ".partial" in file.name]


@pytest.mark.slow
def test_a_copy_is_equal_and_proven_in_a_fresh_process(pruned: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "gift" / "zoë"
    assert main(["export", str(pruned), "--out", str(out), "--zip", "--json", "--workdir", str(tmp_path / "work")]) == 0
    said = [event_file.decode(line) for line in capsys.readouterr().out.splitlines()]
    assert said == list(event_file.read(tmp_path / "work" / "events.jsonl"))
    assert isinstance(said[0], Started) and said[0].sparsity == 0.25
    assert said[0].stages == [("copy", ""), ("prove", ""), ("zip", "")]
    assert isinstance(said[-1], Finished) and said[-1].out == str(out)
    proved = next(event for event in said if isinstance(event, Proved))
    assert 0 < proved.tokens <= plain_transformers.ANSWER_TOKENS and proved.seconds > 0
    of_run = {name for name in files_of(pruned) if name.startswith("gguf/")}
    assert of_run and files_of(out).keys() == files_of(pruned).keys() - of_run and check_manifest(out) == []
    assert {name for name, data in files_of(out).items() if data != files_of(pruned)[name]} <= {MANIFEST}
    saved = {event.what: event for event in said if isinstance(event, Saved)}
    assert saved["pruned_model"].bytes == folder_size(out) and saved["zip_file"].bytes == out.with_name("zoë.zip").stat().st_size
    for stage in ("copy", "zip"):
        steps = [event for event in said if isinstance(event, Step) and event.stage == stage]
        assert steps[-1].done == steps[-1].total == next(one.total for one in said if isinstance(one, Stage) and one.stage == stage)


@pytest.mark.usefixtures("speaks_here")
def test_the_zip_holds_the_folder(pruned: Path, tmp_path: Path) -> None:
    list(copy_folder(copy_of(pruned, tmp_path / "zoë", zip=True)))
    with zipfile.ZipFile(tmp_path / "zoë.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "there")
        kinds = {info.filename: info.compress_type for info in archive.infolist()}
    assert files_of(tmp_path / "there" / "zoë") == files_of(tmp_path / "zoë")
    assert kinds["zoë/model.safetensors"] == zipfile.ZIP_STORED and kinds["zoë/tokenizer.json"] == zipfile.ZIP_DEFLATED
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("speaks_here")
def test_a_copy_can_have_a_name_of_its_own(pruned: Path, tmp_path: Path) -> None:
    assert main(["export", str(pruned), "--out", str(tmp_path / "out"), "--name", " The [miller]\n of Zoë "]) == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert '\n# "The miller of Zoë"\n' in card and read_json(tmp_path / "out" / "report.json")["name"] == "The [miller] of Zoë"
    told = json.loads(card.split("```json\n")[1].split("\n```")[0])
    assert told == messages(read_card(tmp_path / "out" / "character.json"), []) and told[0]["role"] == "system"
    assert check_manifest(tmp_path / "out") == [] and main(["inspect", str(tmp_path / "out")]) == 0
    changed = {name for name, data in files_of(tmp_path / "out").items() if data != files_of(pruned)[name]}
    assert changed == {"README.md", "report.json", MANIFEST}


@pytest.mark.usefixtures("speaks_here")
def test_files_of_the_run_are_taken_over_where_asked_for_and_else_left_out(speaking_run: Path, tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name for name in files_of(speaking_run) if name.startswith("gguf/")} == {
        "gguf/zoe-of-the-mill-F16.gguf", "gguf/zoe-of-the-mill-Q8_0.gguf"}
    monkeypatch.setattr(gguf_proof, "ask", ask_here)
    monkeypatch.setattr(gguf_proof, "QUESTIONS", gguf_proof.QUESTIONS[:2])
    write = lambda out, **more: list(copy_folder(copy_of(speaking_run, tmp_path / out, **more)))
    write("plain")
    assert not (tmp_path / "plain" / "gguf").exists() and check_manifest(tmp_path / "plain") == []
    with monkeypatch.context() as patch:
        patch.setattr(gguf_writer, "blocks", lambda _: pytest.fail("converted again"))
        write("same", gguf=["q8_0"])
        write("named", name="Zoë", gguf=["F16", "Q8_0"])
    name = "gguf/zoe-of-the-mill-Q8_0.gguf"
    assert files_of(tmp_path / "same")[name] == files_of(speaking_run)[name]
    assert read_json(tmp_path / "same" / "report.json")["gguf"]["Q8_0"]["proof"] and check_manifest(tmp_path / "same") == []
    assert [one for one in sorted(files_of(tmp_path / "named")) if "gguf/" in one] == ["gguf/zoe-F16.gguf", "gguf/zoe-Q8_0.gguf"]
    header = read_header(tmp_path / "named" / "gguf" / "zoe-Q8_0.gguf")
    assert header.metadata["general.name"] == "Zoë"
    data = files_of(tmp_path / "named")["gguf/zoe-Q8_0.gguf"][-header.weight_bytes:]
    assert files_of(speaking_run)[name].endswith(data)
    list(copy_folder(copy_of(tmp_path / "named", tmp_path / "of a copy")))  # proven files are part of an export
    assert files_of(tmp_path / "of a copy").keys() >= {"gguf/zoe-F16.gguf", "gguf/zoe-Q8_0.gguf"}


@pytest.mark.usefixtures("speaks_here")
def test_what_only_python_needs_can_be_left_out(speaking_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_proof, "ask", ask_here)
    monkeypatch.setattr(gguf_proof, "QUESTIONS", gguf_proof.QUESTIONS[:2])
    out = tmp_path / "out"
    list(copy_folder(copy_of(speaking_run, out, engines=["ollama"], gguf_only=True, zip=True)))
    assert files_of(out).keys() == {"character.json", "report.json", "README.md", MANIFEST, "ollama/Modelfile",
                                    "gguf/zoe-of-the-mill-Q8_0.gguf"}
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert "library_name: gguf" in readme and "persona/" not in readme
    assert check_manifest(out) == [] and main(["inspect", str(out)]) == 0
    assert gguf_file(str(out)) == out / "gguf" / "zoe-of-the-mill-Q8_0.gguf"  # chat and serve speak from it
    with zipfile.ZipFile(out.with_name("out.zip")) as archive:
        assert {f"out/{name}" for name in files_of(out)} == set(archive.namelist())
    for source, more, words in ((out, {}, "holds GGUF files alone"), (speaking_run, {"gguf_only": True}, "needs a GGUF file")):
        with pytest.raises(UserError, match=words):
            list(copy_folder(copy_of(source, tmp_path / "more", **more)))


@pytest.mark.usefixtures("speaks_here")
def test_a_file_of_the_run_with_a_changed_bit_is_not_taken_over(speaking_run: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(shutil.copytree(speaking_run, tmp_path / "source"))
    with (source / "gguf" / "zoe-of-the-mill-Q8_0.gguf").open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"!")
    monkeypatch.setattr(gguf_proof, "ask", ask_here)
    monkeypatch.setattr(gguf_proof, "QUESTIONS", gguf_proof.QUESTIONS[:2])
    with pytest.raises(UserError, match="was changed since it was made"):
        list(copy_folder(copy_of(source, tmp_path / "out", gguf=["Q8_0"])))
    assert not (tmp_path / "out").exists() and leftovers(tmp_path) == []


def flip(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 4
    (folder / name).write_bytes(data)


def rewrite(folder: Path, name: str, change: Any) -> None:
    value = read_json(folder / name)
    change(value)
    (folder / name).write_text(json.dumps(value))


DAMAGES: list[tuple[Any, str]] = [
    (lambda folder: flip(folder, "model.safetensors"), "model.safetensors was changed"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json cannot be read"),
    (lambda folder: (folder / MANIFEST).unlink(), "not a folder that Persona Studio exported"),
    (lambda folder: (folder / MANIFEST).write_text("[1]"), "is damaged"),
    (lambda folder: (folder / "report.json").write_text("{}"), "is damaged"),
    (lambda folder: rewrite(folder, MANIFEST, lambda value: value["files"].update({"../x": {"bytes": 1, "sha256": ""}})),
     "outside the folder"),
    (lambda folder: rewrite(folder, MANIFEST, lambda value: value["files"].update({"/etc/passwd": {"bytes": 1, "sha256": ""}})),
     "outside the folder"),
    (lambda folder: shutil.rmtree(folder), "not a folder that Persona Studio exported")]


@pytest.mark.usefixtures("speaks_here")
@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[str(number) for number in range(len(DAMAGES))])
def test_a_damaged_folder_is_not_given_away(damage: Any, words: str, pruned: Path, tmp_path: Path, capsys: Any) -> None:
    source = Path(shutil.copytree(pruned, tmp_path / "source"))
    damage(source)
    assert main(["export", str(source), "--out", str(tmp_path / "out"), "--zip", "--json", "--workdir", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert words in shown.err and shown.err.startswith("Error: ") and shown.err.count("\n") == 1
    failed = event_file.decode(shown.out.splitlines()[-1])
    assert isinstance(failed, Failed) and shown.err == f"Error: {f'{failed.sentence} {failed.hint}'.strip()}\n"
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.zip").exists() and leftovers(tmp_path) == []


@pytest.mark.slow
def test_a_folder_that_does_not_load_is_not_given_away(pruned: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(pruned, tmp_path / "source"))
    rewrite(source, "config.json", lambda value: value.update(hidden_act="no such function"))
    write_manifest(source)
    with pytest.raises(UserError, match="failed its proof of loading") as caught:
        list(copy_folder(copy_of(source, tmp_path / "out")))
    assert "no such function" in str(caught.value) and not (tmp_path / "out").exists() and leftovers(tmp_path) == []


@pytest.mark.usefixtures("speaks_here")
@pytest.mark.parametrize("stage", ["copy", "prove", "zip"])
def test_a_stopped_copy_leaves_nothing(stage: str, pruned: Path, tmp_path: Path) -> None:
    stream = copy_folder(copy_of(pruned, tmp_path / "out", zip=True))
    next(event for event in stream if isinstance(event, Stage) and event.stage == stage)
    if stage == "zip":
        assert isinstance(next(stream), Step) and ".out.zip.partial" in leftovers(tmp_path)
    stream.close()
    assert leftovers(tmp_path) == [] and not (tmp_path / "out").exists() and not (tmp_path / "out.zip").exists()


@pytest.mark.slow
def test_an_export_whose_owner_is_gone_stops(pruned: Path, tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-m", "engine", "export", str(pruned), "--out", str(tmp_path / "out"), "--leash",
                            "--json", "--workdir", str(tmp_path / "work")], cwd=ROOT, stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, check=False)
    logged: list[Event] = list(event_file.read(tmp_path / "work" / "events.jsonl"))
    assert ended.returncode == 130 and isinstance(logged[-1], Stopped) and not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == [] and "Traceback" not in ended.stderr


@pytest.mark.usefixtures("speaks_here")
def test_nothing_is_written_over(pruned: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "out.zip").write_bytes(b"mine")
    assert main(["export", str(pruned), "--out", str(tmp_path / "out"), "--zip"]) == 2
    assert "out.zip exists already" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(["export", str(pruned), "--out", str(tmp_path / "out")]) == 0
    assert main(["export", str(pruned), "--out", str(tmp_path / "out")]) == 2
    assert main(["export", str(pruned), "--out", str(pruned / "inside")]) == 2
    assert main(["export", str(pruned), "--out", str(tmp_path / "other"), "--name", "x" * 200]) == 2
    assert (tmp_path / "out.zip").read_bytes() == b"mine" and not (pruned / "inside").exists()


def test_an_export_for_engines_has_their_folders_and_tells_of_them(pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                   speaks_here: None, wllama: Path) -> None:
    monkeypatch.setattr(gguf_proof, "ask", ask_here)
    monkeypatch.setattr(gguf_proof, "QUESTIONS", gguf_proof.QUESTIONS[:2])
    model = pruned.parent / "llama"

    def run_here(_program: str, request: dict[str, Any], _reached: Any, _failure: str) -> Iterator[Any]:
        [found] = plain_transformers.time_decoding({**request, "rounds": 1, "tokens": 2})
        assert found["tokens_per_second"] > 0 and found["memory"] > 0
        yield from ()
        return {"tokens_per_second": 30.0 if request["folder"] == str(model) else 40.0, "memory": 9}

    monkeypatch.setattr(verify, "run", run_here)
    said = list(copy_folder(copy_of(pruned, tmp_path / "zoe", name="Zoë", zip=True, engines=[*TARGETS], measure=str(model))))
    started = next(event for event in said if isinstance(event, Started))
    assert [(event.stage, event.subject) for event in said if isinstance(event, Stage)] == started.stages
    out = tmp_path / "zoe"
    assert files_of(out).keys() >= {
        "gguf/zoe-Q8_0.gguf", "ollama/Modelfile", "lmstudio/zoe.preset.json", "lmstudio/opening.json", "lmstudio/README.md",
        "lmstudio/persona-studio/zoe/zoe-Q8_0.gguf", "unity/Zoe.cs", "unity/README.md", "godot/zoe.gd", "godot/README.md"}
    assert all(f"{engine}/{target.start}" in files_of(out) for engine, target in TARGETS.items())
    commands = dict(read_modelfile((out / "ollama" / "Modelfile").read_text(encoding="utf-8")))
    assert (out / "ollama" / commands["from"]).is_file() and commands["system"].startswith("You are Zoë")
    report = read_json(out / "report.json")
    assert report["name"] == "Zoë" and set(report["engines"]) == set(TARGETS) and report["speed"][1]["tokens_per_second"] == 40.0
    assert report["expected_bytes"]["Q8_0"] <= report["gguf"]["Q8_0"]["bytes"]
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert "1.33 times as fast" in readme and "ollama/Modelfile" in readme and "| GGUF Q8_0 |" in readme
    assert check_manifest(out) == []
    with zipfile.ZipFile(tmp_path / "zoe.zip") as archive:
        assert {f"zoe/{name}" for name in files_of(out)} == set(archive.namelist())


def test_a_dense_model_that_is_gone_is_said_before_anything_is_written(pruned: Path, tmp_path: Path, capsys: Any) -> None:
    error = refused(["export", str(pruned), "--out", str(tmp_path / "out"), "--measure", str(tmp_path / "gone"), "--json"], capsys)
    assert "not on this machine any more" in error and list(tmp_path.iterdir()) == []


PLACES = [("../../x", '".."'), ("CON", "every system"), ("nul.txt", "every system"), ("a\0b", "NUL"), ("x" * 300, "200 bytes"),
          ("what?", "every system"), ("file/out", "is a file"), ("nowhere/out", "is a broken link")]


@pytest.mark.parametrize(("name", "words"), PLACES, ids=[name[:8] for name, _ in PLACES])
def test_places_that_no_export_can_have(name: str, words: str, pruned: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    before = sorted(tmp_path.iterdir())
    assert words in refused(["export", str(pruned), "--out", f"{tmp_path}/{name}", "--zip"], capsys)
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "file").read_text() == "kept"


@pytest.mark.usefixtures("speaks_here")
def test_a_parent_that_is_a_link_is_followed(pruned: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    list(copy_folder(copy_of(pruned, tmp_path / "link" / "out")))
    assert check_manifest(tmp_path / "real" / "out") == [] and [file.name for file in (tmp_path / "real").iterdir()] == ["out"]


@pytest.mark.usefixtures("speaks_here")
@pytest.mark.parametrize("nth", [1, 4, 9])
def test_a_disk_that_fills_at_the_nth_write_leaves_the_old_export_whole(nth: int, pruned: Path, tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    list(copy_folder(copy_of(pruned, tmp_path / "old", zip=True)))
    before = files_of(tmp_path)
    writes = iter(range(1, 1000))

    def full(*_: Any) -> bool:
        return next(writes) >= nth

    class FullDisk(io.FileIO):
        def write(self, data: Any) -> int:
            if full():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r", *more, **named: FullDisk(self, mode) if mode == "wb" else
                        opened(self, mode, *more, **named))
    with pytest.raises(UserError, match="is full; nothing half-written was kept"):
        list(copy_folder(copy_of(pruned, tmp_path / "new", zip=True)))
    monkeypatch.undo()
    assert files_of(tmp_path) == before and sorted(file.name for file in tmp_path.iterdir()) == ["old", "old.zip"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["copy", "prove"])
def test_an_export_killed_at_any_moment_leaves_nothing_that_is_seen(stage: str, pruned: Path, tmp_path: Path) -> None:
    list_before = files_of(pruned)
    process = Process(["export", str(pruned), "--out", "out", "--json"], tmp_path, forked=True)
    for event in process.events():
        if event["event"] == "Stage" and event["stage"] == stage:
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.end()[0] == -signal.SIGKILL
    assert not (tmp_path / "out").exists() and files_of(pruned) == list_before
    assert all(name.startswith(".out.partial-") for name in leftovers(tmp_path))


def all_listed(folder: Path) -> set[str]:
    """The weight files of vLLM and SGLang: all *.safetensors of the folder; with an index, those of them that it names."""
    found, index = {file.name for file in folder.glob("*.safetensors")}, folder / "model.safetensors.index.json"
    return found & set(read_json(index)["weight_map"].values()) if index.exists() else found


def named_model(folder: Path) -> set[str]:
    """The weight files of mlx_lm and of llama.cpp's converter."""
    return {file.name for file in folder.glob("model*.safetensors")}


def to_former_layout(folder: Path) -> None:
    """What versions before this one wrote."""
    (folder / MASK).rename(folder / "mask.safetensors")
    shutil.rmtree(folder / "persona")
    write_manifest(folder)


@pytest.mark.parametrize("made", ["pruned", "copied", "sharded", "of a former version"])
def test_every_engine_finds_the_tensors_of_the_model_and_no_others(made: str, pruned: Path, tmp_path: Path,
                                                                   speaks_here: None) -> None:
    source, folder = tmp_path / "source", tmp_path / "out"
    shutil.copytree(pruned, source)
    model = AutoModelForCausalLM.from_pretrained(pruned)
    if made == "of a former version":
        to_former_layout(source)
        assert "mask.safetensors" in all_listed(source)
    if made == "sharded":
        (source / "model.safetensors").unlink()
        model.save_pretrained(source, max_shard_size="20KB")
        write_manifest(source)
        assert len(all_listed(source)) > 1
    if made == "pruned":
        folder = source
    else:
        list(copy_folder(copy_of(source, folder)))
    for files in (all_listed(folder), named_model(folder)):
        found = [name for file in files for name in load_file(folder / file)]
        assert sorted(found) == sorted(set(model.state_dict()) - set(model.all_tied_weights_keys))
    assert check_manifest(folder) == [] and (folder / MASK).is_file()


def test_a_folder_of_a_former_version_is_read_as_before(pruned: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "former"
    shutil.copytree(pruned, folder)
    to_former_layout(folder)
    assert main(["inspect", str(folder)]) == 0 and "Whole" in capsys.readouterr().out
    assert torch.equal(read_mask(mask_file(folder)), read_mask(mask_file(pruned)))
    assert main(["chat", str(folder), "--message", "Hello?", "--json", "--limit", "3"]) == 0

"""Which GGUF file speaks for a model, and that it is made once: whole, or not at all."""

import asyncio
import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from small_job import refused
from tiny import make_tiny

from engine.__main__ import main
from engine.base.errors import UserError
from engine.base.events import Event, Stage
from engine.base.files import data_folder, read_json, write_json
from engine.base.ids import ErrorCode
from engine.base.known_models import STARTER
from engine.export.gguf_writer import write_gguf
from engine.serving import files
from engine.serving.files import cache_folder, common_type, gguf_file, made_folder, make_gguf, speaks_by_llama, sweep
from engine.serving.gguf_header import read_header


def made() -> list[str]:
    return sorted(file.name for file in made_folder().rglob("*.gguf"))


def test_a_folder_speaks_with_its_own_file_the_best_one(speaking: Path, tmp_path: Path) -> None:
    assert gguf_file(str(speaking)) == speaking / "gguf" / "tiny-Q8_0.gguf"
    assert gguf_file(str(speaking), "F16") == speaking / "gguf" / "tiny-F16.gguf"
    assert gguf_file(str(speaking), "Q4_0") is None
    copy = Path(shutil.copytree(speaking, tmp_path / "copy"))
    (copy / "gguf" / "tiny-Q8_0.gguf").unlink()
    assert gguf_file(str(copy)) == copy / "gguf" / "tiny-F16.gguf"


def test_a_file_that_does_not_belong_to_the_weights_is_not_used(speaking: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(speaking, tmp_path / "copy"))
    manifest = read_json(copy / "manifest.json")
    shutil.copy(copy / "gguf" / "tiny-F16.gguf", copy / "gguf" / "stray-Q4_0.gguf")
    assert gguf_file(str(copy), "Q4_0") is None  # not in the manifest
    with (copy / "gguf" / "tiny-F16.gguf").open("ab") as file:
        file.write(b"more")
    assert gguf_file(str(copy), "F16") is None and gguf_file(str(copy), "Q8_0")
    write_json(copy / "manifest.json", {"files": [1, 2]})
    assert gguf_file(str(copy)) is None
    write_json(copy / "manifest.json", manifest)
    assert gguf_file(str(copy), "Q8_0")
    make_tiny(copy, intermediate_size=96)
    assert gguf_file(str(copy), "Q8_0") is None  # other weights than the manifest's


def test_what_is_not_here_has_no_file_and_what_does_not_exist_is_an_error(tmp_path: Path) -> None:
    assert gguf_file("starter") is None and gguf_file("owner/never-fetched") is None
    assert speaks_by_llama("starter") and speaks_by_llama("owner/never-fetched")
    with pytest.raises(UserError, match="There is no model"):
        gguf_file(str(tmp_path / "none"))


def test_the_verb_makes_a_file_once_and_a_changed_model_gets_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_tiny(tmp_path / "model")
    assert main(["gguf", str(folder), "--json"]) == 0
    saved = [json.loads(line) for line in capsys.readouterr().out.splitlines()][-2]
    assert (saved["event"], saved["subject"]) == ("Saved", "Q8_0")
    file = gguf_file(str(folder))
    assert file and str(file) == saved["path"] and file.is_relative_to(data_folder()) and read_header(file).type == "Q8_0"
    before = file.stat().st_mtime_ns
    assert main(["gguf", str(folder), "--json"]) == 0 and file.stat().st_mtime_ns == before
    make_tiny(folder, intermediate_size=96)
    assert gguf_file(str(folder)) is None
    assert main(["gguf", str(folder), "--type", "f16", "--json"]) == 0
    assert made() == ["model-F16.gguf"], "the file of the former weights was swept"


def test_the_verb_writes_a_named_file_and_never_over_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = make_tiny(tmp_path / "model"), tmp_path / "new" / "mine.gguf"
    assert main(["gguf", str(folder), "--type", "BF16", "--out", str(out)]) == 0
    assert read_header(out).type == "BF16" and made() == [] and os.listdir(out.parent) == ["mine.gguf"]
    capsys.readouterr()
    assert "exists already" in refused(["gguf", str(folder), "--out", str(out)], capsys)
    assert "no GGUF type 'Q9'" in refused(["gguf", str(folder), "--type", "Q9"], capsys)


def test_a_file_that_is_written_again_leaves_those_who_read_the_former_one_alone(tmp_path: Path) -> None:
    folder, file = make_tiny(tmp_path / "tiny"), tmp_path / "it.gguf"
    list(write_gguf(folder, file, "F16"))
    former = file.read_bytes()
    with file.open("rb") as reading:
        list(write_gguf(folder, file, "Q8_0"))
        assert reading.read() == former != file.read_bytes()


def test_rows_that_are_no_multiple_of_32_are_written_in_16_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_tiny(tmp_path / "model", intermediate_size=72)
    assert common_type(str(folder)) == "F16"
    assert main(["gguf", str(folder), "--json"]) == 0
    file = gguf_file(str(folder))
    assert file and read_header(file).type == "F16"


def test_models_are_compared_at_the_type_that_all_can_have(speaking: Path, tmp_path: Path) -> None:
    odd = make_tiny(tmp_path / "odd", intermediate_size=72)
    assert common_type(str(speaking)) == common_type("starter", str(speaking)) == "Q8_0"
    assert common_type(str(speaking), str(odd)) == "F16"


def test_a_family_that_llama_cpp_lacks_is_known_before_and_a_model_it_cannot_take_after(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not speaks_by_llama(str(make_tiny(tmp_path / "other", "olmo2")))
    folder = make_tiny(tmp_path / "model", hidden_act="relu")
    assert speaks_by_llama(str(folder))
    assert main(["gguf", str(folder), "--json"]) == 2
    failed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (failed["event"], failed["code"]) == ("Failed", ErrorCode.NO_GGUF) and "with silu, not with relu" in failed["sentence"]
    assert not speaks_by_llama(str(folder)) and made() == []


def test_a_model_that_has_a_file_of_its_own_gets_no_other(speaking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gguf", str(speaking), "--json"]) == 0
    saved = json.loads(capsys.readouterr().out.splitlines()[-2])
    assert (saved["path"], saved["subject"]) == (str(speaking / "gguf" / "tiny-Q8_0.gguf"), "Q8_0") and made() == []


def test_sweeping_leaves_models_that_are_there_and_files_in_the_making(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    for number, source in enumerate((folder, tmp_path / "gone", tmp_path / "at work")):
        cache = cache_folder(folder) if source == folder else made_folder() / f"{number:020}"
        assert cache
        write_json(cache / files.SOURCE, {"folder": str(source)})
    with files.lock_of(made_folder() / f"{2:020}"):
        sweep()
    left = {read_json(one)["folder"] for one in made_folder().rglob(files.SOURCE)}
    assert left == {str(folder), str(tmp_path / "at work")}


@pytest.mark.slow
def test_two_that_want_the_same_file_get_one_made_by_another_process(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    events: list[Event] = []

    async def both() -> list[Path]:
        return await asyncio.gather(*(make_gguf(str(folder), "", events.append) for _ in range(2)))

    first, second = asyncio.run(both())
    assert first == second == gguf_file(str(folder)) and made() == ["model-Q8_0.gguf"]
    assert {event.stage for event in events if isinstance(event, Stage)} == {"write_gguf"}


@pytest.mark.slow
def test_what_the_process_refuses_is_the_same_error_here(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model", hidden_act="relu")
    with pytest.raises(UserError, match="with silu, not with relu") as error:
        asyncio.run(make_gguf(str(folder)))
    assert error.value.code == ErrorCode.NO_GGUF


@pytest.mark.slow
def test_a_process_that_dies_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny(tmp_path / "model")
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(UserError, match=r"ended with code -9\. The memory was probably not enough"):
        asyncio.run(make_gguf(str(folder)))


@pytest.mark.slow
def test_a_cancelled_call_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, note = make_tiny(tmp_path / "model"), tmp_path / "ended"
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ncat > /dev/null\necho ended > {note}\n")  # ends when its standard input does
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    async def cancelled() -> None:
        task = asyncio.create_task(make_gguf(str(folder)))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    start = time.monotonic()
    asyncio.run(cancelled())
    assert note.read_text() == "ended\n" and time.monotonic() - start < 10


def test_the_starter_speaks_with_its_original(starter: Path) -> None:
    assert gguf_file(str(starter)) == starter / STARTER.file and read_header(starter / STARTER.file).type == "Q4_1"


@pytest.mark.slow
def test_the_starter_is_compared_at_q8(starter: Path, starter_q8: Path) -> None:
    assert gguf_file(str(starter), common_type(str(starter))) == starter_q8 and read_header(starter_q8).type == "Q8_0"

"""wllama: every way its fetching can fail, and what is kept when it succeeds."""

import io
import os
import tarfile
import time
from pathlib import Path

import pytest
from conftest import ends_its_download

from engine.base.errors import UserError
from engine.base.events import Stage, Step
from engine.export import wllama as module
from engine.export.wllama import VARIABLE, fetch_wllama, is_ready, wllama_folder

POSIX = pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a shell script")


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch, frequent_polls: None) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def leftovers(home: Path) -> list[str]:
    return [one.name for one in (home / "cache").iterdir()] if (home / "cache").exists() else []


def stand_in_for_npm(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """A program called as `npm pack PACKAGE --pack-destination FOLDER ...`, the only one on the path but the system's."""
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_package_gives_three_files_and_its_licences(wllama: Path, own_home: Path) -> None:
    assert not is_ready()
    events = list(fetch_wllama())
    assert isinstance(events[0], Stage) and isinstance(events[-1], Step)
    assert sorted(one.name for one in wllama_folder().iterdir()) == [
        "LICENCE", "LICENCE-llama.cpp", "index.js", "manifest.json", "wllama.wasm"]
    assert (wllama_folder() / "wllama.wasm").read_bytes()[:4] == b"\0asm"
    for name, holder in (("LICENCE", "Xuan Son"), ("LICENCE-llama.cpp", "ggml authors")):
        text = (wllama_folder() / name).read_text()
        assert text.startswith("MIT License") and holder in text and "shall be included in all" in text
    assert is_ready() and leftovers(own_home) == [wllama_folder().name]


def test_what_was_fetched_is_used_without_a_network_and_mended_when_damaged(wllama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(fetch_wllama())
    monkeypatch.setenv(VARIABLE, "/nowhere")
    list(fetch_wllama())  # reads nothing of it
    (wllama_folder() / "index.js").write_text("alert(1)")
    assert not is_ready()
    monkeypatch.setenv(VARIABLE, str(wllama))
    list(fetch_wllama())
    assert is_ready() and (wllama_folder() / "index.js").read_text() != "alert(1)"


def test_another_file_is_refused_and_not_unpacked(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "wrong.tgz"
    with tarfile.open(wrong, "w:gz") as archive:
        for name in (*module.MEMBERS, "../../escaped.js"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"evil"))
    monkeypatch.setenv(VARIABLE, str(wrong))
    with pytest.raises(UserError, match=r"wrong\.tgz.*sha512"):
        list(fetch_wllama())
    assert leftovers(own_home) == [] and not list(tmp_path.rglob("escaped.js"))


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "nowhere.tgz")
    with pytest.raises(UserError, match=r"nowhere\.tgz.*no such file"):
        list(fetch_wllama())


def test_without_npm_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=f"no npm.*Install Node.js.*{VARIABLE}"):
        list(fetch_wllama())


@POSIX
def test_without_a_network_it_says_what_to_do(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_npm(monkeypatch, tmp_path, "echo 'npm error code ENOTFOUND'; echo 'npm error network whatever'; exit 1")
    with pytest.raises(UserError, match=rf"could not be fetched \(npm: ENOTFOUND\).*Connect to the internet.*{VARIABLE}"):
        list(fetch_wllama())
    assert leftovers(own_home) == []


@POSIX
def test_a_stopped_fetch_ends_its_download(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "number"
    stand_in_for_npm(monkeypatch, tmp_path, f'echo $$ > {note}; sleep 1; head -c 2000000 /dev/zero > "$4/part"; exec sleep 60')
    assert ends_its_download(fetch_wllama(), note)
    end = time.monotonic() + 10
    while leftovers(own_home) and time.monotonic() < end:
        time.sleep(0.05)
    assert leftovers(own_home) == []

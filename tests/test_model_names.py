"""What a typed name of a model means, and what is said of a text that means none. No torch is needed for it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.base.errors import UserError
from engine.base.model_folder import folder_shape, model_folder
from engine.base.sizes import ModelShape, after_cut

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))


def test_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "link").symlink_to("owner")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_folder("starter") is None and model_folder(" Qwen/Qwen2.5-0.5B ") is None
    assert model_folder("owner/name") == (tmp_path / "owner" / "name").resolve()  # a folder goes before the hub
    assert model_folder("link/name") == model_folder("~/owner/name") == model_folder(str(tmp_path / "owner" / "name"))


NO_MODELS = [
    ("model.gguf", b"GGUF\3\0\0\0", "is a GGUF file, which is for running a model"),
    ("MODEL.GGUF", b"", "is a GGUF file"),
    ("sha256-abc", b"GGUF\3\0\0\0", "is a GGUF file"),  # as Ollama keeps them
    ("pytorch_model.bin", b"PK", "is a pickle file"),
    ("model.safetensors", b"", "Give its folder"),
    ("config.json", b"{}", "Give its folder"),
    ("notes.txt", b"notes", "is a file, not a folder"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), NO_MODELS, ids=[name for name, *_ in NO_MODELS])
def test_a_file_is_called_what_it_is(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        model_folder(str(tmp_path / name))


@pytest.mark.parametrize("name", ["llama3.2:1b", "mistral:latest", "library/qwen2.5:0.5b", "hf.co/owner/name:Q4_K_M", "installed"])
def test_a_name_of_ollama_is_called_so(name: str, tmp_path: Path) -> None:
    (tmp_path / "ollama" / "manifests" / "registry.ollama.ai" / "library" / "installed").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is a name in Ollama.*owner/name"):
        model_folder(name)


@pytest.mark.parametrize("name", ["https://huggingface.co/owner/some.model", "http://hf.co/owner/some.model/",
                                  "huggingface.co/owner/some.model/tree/main?x=1"])
def test_the_page_of_a_model_leads_to_its_name(name: str) -> None:
    with pytest.raises(UserError, match=r"Give the model's name: owner/some\.model\."):
        model_folder(name)


@pytest.mark.parametrize("name", ["", "llama3", "a/b/c", "/nowhere/at/all", "../x", "x" * 5000, "a\0b", "http://a/b", "~nobody/x",
                                  "C:\\models\\x", "c:/models", "\ud800", "/proc/1/root/x"])
def test_what_means_nothing_is_no_model(name: str) -> None:
    with pytest.raises(UserError, match="There is no model"):
        model_folder(name)


def test_a_gguf_file_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"There is no file .*nowhere\.gguf"):
        model_folder("/nowhere.gguf")


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a file, not a folder"):
        model_folder(str(tmp_path / "pipe"))


def test_sizes_come_from_the_folder_and_a_cut_is_planned_with_them(llama: Path, tmp_path: Path) -> None:
    shape = folder_shape(llama)
    assert (shape.layers, shape.hidden_size, shape.intermediate_size) == (2, 32, 64)
    assert after_cut(shape, 0.5, 32).kept == 32
    with pytest.raises(UserError, match="nothing is left of the model's 64 channels"):
        after_cut(shape, 0.25, 128)
    bad = Path(shutil.copytree(llama, tmp_path / "bad"))
    config = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 900}))
    with pytest.raises(UserError, match="do not fit"):
        folder_shape(bad)
    (bad / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        folder_shape(bad)


def test_a_folder_of_gguf_files_says_so(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="holds a GGUF file"):
        folder_shape(tmp_path)


def test_no_torch_is_needed() -> None:
    code = ("import sys; from engine.base import model_folder; print([name for name in ('torch', 'transformers', 'safetensors') "
            "if name in sys.modules])")
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_shape_of_a_model_by_hand(llama: Path) -> None:
    others = 2 * (2 * 32) + 32 + 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32)  # norms; queries, keys and values, output
    shape = folder_shape(llama)
    embedding = shape.parameters - shape.ffn_parameters - others
    assert shape == ModelShape(2, 32, 64, shape.parameters) and embedding % 32 == 0 < embedding

"""Model folders of strangers: whatever is in them, they load as they are, or are refused with one sentence, within seconds."""

import json
import math
import os
import shutil
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import find, make_tiny

from engine.__main__ import main
from engine.base.errors import UserError
from engine.models.chat_format import encode_chat, endings
from engine.models.folders import list_models
from engine.models.loading import load_model, load_tokenizer

Change = Callable[[Path], Any]


def use(folder: Path) -> torch.Tensor:
    """What a chat does with a folder: find, load, encode, compute."""
    source = find(folder)
    model, tokenizer = load_model(source, torch.float32), load_tokenizer(source)
    assert endings(tokenizer)
    ids = encode_chat(tokenizer, [{"role": "user", "content": "Who asked?"}])
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits


def refused(folder: Path) -> str:
    """The one sentence with which a folder is refused, within seconds."""
    start = time.monotonic()
    with pytest.raises(UserError) as found:
        use(folder)
    assert time.monotonic() - start < 60  # a second, on a machine with nothing else to do
    sentence = str(found.value)
    assert "\n" not in sentence and len(sentence) < 900
    return sentence


def config(**fields: Any) -> Change:
    """Set fields of config.json; ... removes one. Text is put in as it stands."""

    def change(folder: Path) -> None:
        value = {**json.loads((folder / "config.json").read_text()), **fields}
        (folder / "config.json").write_text(json.dumps({name: one for name, one in value.items() if one is not ...}))

    return change


NUMBERS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
           "head_dim", "max_position_embeddings", "rms_norm_eps")
NONSENSE = [0, -1, 10**12, 10**400, 0.5, math.nan, math.inf, "8", [1], {}, True]


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_of_a_config_can_be_nonsense(name: str, tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    good = (folder / "config.json").read_text()
    for value in NONSENSE:
        (folder / "config.json").write_text(good)
        config(**{name: value})(folder)
        assert name in refused(folder), value


FIELDS: dict[str, dict[str, Any]] = {
    "dtype [1]": {"dtype": [1]}, "dtype 1": {"torch_dtype": 1}, "dtype of nothing": {"dtype": "float99"},
    "no hidden size": {"hidden_size": ...}, "no FFN": {"intermediate_size": ...}, "no layers": {"num_hidden_layers": ...},
    "no vocabulary": {"vocab_size": None}, "heads that do not divide": {"num_attention_heads": 3, "head_dim": ...},
    "key heads that do not divide": {"num_key_value_heads": 3}, "odd heads": {"head_dim": 7}, "wide heads": {"head_dim": 64},
    "no angle": {"rope_theta": 0, "rope_parameters": ...}, "a negative angle": {"rope_parameters": {"rope_type": "default",
    "rope_theta": -1}},
    "no rope": {"rope_parameters": "linear"}, "rope of nothing": {"rope_scaling": {"rope_type": "nothing"}, "rope_parameters": ...},
    "rope of a list": {"rope_scaling": {"rope_type": ["linear"]}, "rope_parameters": ...},
    "factor 0": {"rope_parameters": {"rope_type": "linear", "factor": 0, "rope_theta": 1e4}},
    "factor NaN": {"rope_parameters": {"rope_type": "linear", "factor": math.nan, "rope_theta": 1e4}},
    "no factor": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
    "equal frequencies": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                                              "high_freq_factor": 1.0, "original_max_position_embeddings": 64}},
    "short factors": {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0],
    "long_factor": [1.0] * 4,
                                          "factor": 2.0, "original_max_position_embeddings": 64}},
    "an act of nothing": {"hidden_act": "nothing"}, "an act of a list": {"hidden_act": ["silu"]},
    "padding outside": {"pad_token_id": 10**6}, "padding text": {"pad_token_id": "0"},
    "a vocabulary of its own": {"vocab_size": 77}, "a larger vocabulary": {"vocab_size": 4_000_000},
    "biases that are not there": {"attention_bias": True}, "biases as text": {"attention_bias": "yes"},
    "a head of its own": {"tie_word_embeddings": False}, "tied as text": {"tie_word_embeddings": "no"},
    "a billion labels": {"num_labels": 10**9}, "labels of a list": {"id2label": [1]},
    "more types than layers": {"layer_types": ["full_attention"] * 9}, "layers of another type": {"layer_types": ["x", "y"]},
    "dropout": {"attention_dropout": math.nan}, "a range": {"initializer_range": math.inf},
    "a window": {"sliding_window": -5, "model_type": "mistral"}, "a thousand layers": {"num_hidden_layers": 1000},
    "another family": {"model_type": "phi3"}, "a dtype within": {"text_config": {"dtype": 5}, "hidden_size": 8},
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_config_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    config(**{"layer_types": ..., **FIELDS[name]})(folder)
    assert str(folder) in refused(folder)


HARMLESS: dict[str, dict[str, Any]] = {
    "tuples": {"return_dict": False}, "attentions": {"output_attentions": True}, "states": {"output_hidden_states": True},
    "no cache": {"use_cache": False}, "flash": {"attn_implementation": "flash_attention_2", "_attn_implementation": "owner/kernel"},
    "null": {"head_dim": None, "sliding_window": None}, "architectures": {"architectures": 5},
    "version": {"transformers_version": [1]},
    "extras": {"nobody_knows": {"deep": [[math.nan]]}}, "integral": {"rms_norm_eps": 1e-6, "attention_dropout": 0},
    "checkpointing": {"gradient_checkpointing": True}, "chunks": {"chunk_size_feed_forward": 3},
    "torchscript": {"torchscript": True},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_not_concern_us_changes_nothing(name: str, tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    expected = use(folder)
    config(**HARMLESS[name])(folder)
    assert torch.equal(use(folder), expected)


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    """Change the tensors of model.safetensors."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


def header(entries: Any) -> Change:
    """Put another header before the weights' bytes."""

    def apply(folder: Path) -> None:
        text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))

    return apply


def entry(**fields: Any) -> Any:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **fields}}


def sparse(name: str, size: int = 20_000_000_000) -> Change:
    """A huge file that takes no room on the disk."""

    def apply(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return apply


def pipe(name: str) -> Change:
    def apply(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return apply


def link(name: str, target: str) -> Change:
    def apply(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return apply


def listening(folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("README.md")
    finally:
        os.chdir(here)


def text(name: str, content: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def tokenizer(**fields: Any) -> Change:
    """Set fields of tokenizer_config.json."""

    def change(folder: Path) -> None:
        file = folder / "tokenizer_config.json"
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return change


FOLDERS: dict[str, Change] = {
    "NaN": weights(lambda all: all[UP][3].fill_(math.nan)), "one NaN": weights(lambda all: all[UP][3, 4].fill_(math.nan)),
    "inf": weights(lambda all: all[NORM][3:4].fill_(math.inf)),
    "NaN in one token": weights(lambda all: all["model.embed_tokens.weight"][9].fill_(-math.inf)),
    "huge": weights(lambda all: all[UP].fill_(1e38)),
    "another shape": weights(lambda all: all.update({UP: all[UP].T.contiguous()})),
    "a vector": weights(lambda all: all.update({UP: all[UP].flatten()})),
    "a scalar": weights(lambda all: all.update({NORM: torch.tensor(1.0)})),
    "empty": weights(lambda all: all.update({UP: torch.zeros(0, 32)})), "gone": weights(lambda all: all.pop(NORM)),
    "one more layer": weights(lambda all: all.update({UP.replace("1", "7"): all[UP].clone()})),
    "no tensors": weights(lambda all: all.clear()),
    "others' names": weights(lambda all: all.update({f"x.{name}": all.pop(name) for name in list(all)})),
    "header of nothing": header({}), "header of a list": header([]), "header of text": header(b'"x"'),
    "header of depth": header(b"[" * 100_000),
    "header of digits": header(b'{"a": ' + b"9" * 10_000 + b"}"), "entries of nothing": header({"a": {}}),
    "entries of null": header({"a": None}),
    "negative": header(entry(shape=[-2])), "half": header(entry(shape=[0.5])), "of text": header(entry(shape=["x", 10**10])),
    "of true": header(entry(shape=[True, 2])), "backwards": header(entry(data_offsets=[8, 0])),
    "beyond": header(entry(data_offsets=[0, 2**70])),
    "sides without end": header(entry(shape=[2] * 100_000)), "huge sides": header(entry(shape=[10**4000] * 500)),
    "a type of nothing": header(entry(dtype=[])), "sparse weights": sparse("model.safetensors"),
    "sparse README": sparse("LICENSE.json"),
    "sparse config": sparse("config.json"), "sparse tokenizer": sparse("tokenizer.json"),
    "sparse template": sparse("chat_template.jinja"),
    "sparse generation": sparse("generation_config.json"), "pipe README": pipe("README.md"), "pipe config": pipe("config.json"),
    "pipe weights": pipe("model.safetensors"), "pipe tokenizer": pipe("tokenizer.json"),
    "pipe settings": pipe("tokenizer_config.json"),
    "pipe template": pipe("chat_template.jinja"), "pipe generation": pipe("generation_config.json"),
    "pipe index": pipe("model.safetensors.index.json"),
    "pipe manifest": pipe("manifest.json"), "pipe templates": pipe("additional_chat_templates/a.jinja"),
    "pipe licence": pipe("LICENSE"),
    "pipe adapter": pipe("adapter_config.json"), "socket README": listening, "device config": link("config.json", "/dev/zero"),
    "device tokenizer": link("tokenizer.json", "/dev/zero"), "device README": link("README.md", "/dev/urandom"),
    "device weights": link("model.safetensors", "/dev/zero"), "loop config": link("config.json", "config.json"),
    "loop weights": link("model.safetensors", "model.safetensors"), "loop tokenizer": link("tokenizer.json", "tokenizer.json"),
    "folder config": lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir()),
    "folder tokenizer": lambda folder: ((folder / "tokenizer.json").unlink(), (folder / "tokenizer.json").mkdir()),
    "folder weights": lambda folder: ((folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()),
    "config of bytes": text("config.json", b"\xff\xfe\x00"), "config of NUL": text("config.json", b"\0" * 100),
    "config of depth": text("config.json", '{"a":' * 50_000),
    "config of digits": text("config.json", '{"vocab_size": ' + "9" * 5000 + "}"),
    "tokenizer of nothing": text("tokenizer.json", ""), "tokenizer of a list": text("tokenizer.json", "[]"),
    "tokenizer of depth": text("tokenizer.json", "[" * 100_000), "tokenizer of bytes": text("tokenizer.json", bytes(range(256))),
    "settings of a list": text("tokenizer_config.json", "[]"), "settings of depth": text("tokenizer_config.json", "[" * 100_000),
    "manifest of depth": text("manifest.json", "[" * 100_000),
    "manifest of infinity": text("manifest.json", '{"files": {"a": {"bytes": 1e999, "sha256": ""}}}'),
    "manifest of NUL": text("manifest.json", '{"files": {"a\\u0000": {"bytes": 1, "sha256": ""}}}'),
    "index of depth": text("model.safetensors.index.json", "[" * 100_000),
    "index of lists": text("model.safetensors.index.json", '{"weight_map": {"a": ["b"]}}'),
    "index of NUL": text("model.safetensors.index.json", '{"weight_map": {"a": "b\\u0000.safetensors"}}'),
    "adapter": text("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "owner/name"}'),
    "template of a number": tokenizer(chat_template=5), "template of lists": tokenizer(chat_template=[["default", 5]]),
    "template of depth": text("chat_template.jinja", "{{ " + "(" * 100_000),
    "template of bytes": text("chat_template.jinja", b"\xff\xfe"),
    "template of surrogates": tokenizer(chat_template="\ud800"),
    "template of nothing that is named": tokenizer(chat_template={"default": 5}),
    "tokens of numbers": tokenizer(eos_token=5), "tokens of lists": tokenizer(bos_token=["a"]),
    "decoder of text": tokenizer(added_tokens_decoder={"x": "y"}),
    "class of a number": tokenizer(tokenizer_class=5), "generation of a list": text("generation_config.json", "[]"),
    "generation of depth": text("generation_config.json", "[" * 100_000), "generation of nonsense": text(
        "generation_config.json", '{"watermarking_config": 5}'),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_a_stranger_is_refused(name: str, tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    FOLDERS[name](folder)
    refused(folder)


@pytest.fixture
def models(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder's models: a good one, `good`, between bad ones."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_XET_CACHE", str(tmp_path / "no-cache"))
    source = make_tiny(own_home / "models" / "good")
    for name in ("aaa", "zzz"):
        config(num_key_value_heads=0)(Path(shutil.copytree(source, source.with_name(name))))
    return source.parent


@pytest.mark.parametrize("name", ["pipe README", "pipe config", "device config", "loop config", "folder config",
                                  "config of depth", "header of digits", "huge sides",
                                  "sparse weights", "another shape", "pipe weights", "loop weights"])
def test_one_bad_folder_does_not_hide_the_others(name: str, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = Path(shutil.copytree(models / "good", models / "bad"))
    FOLDERS[name](bad)
    start = time.monotonic()
    assert main(["models", "--json"]) == 0
    assert time.monotonic() - start < 60
    found = {Path(one["name"]).name: one for one in json.loads(capsys.readouterr().out)}
    assert list(found) == ["starter", "small", "aaa", "bad", "good", "zzz"]
    assert found["good"]["ready"] and not found["good"]["fault"] and found["good"]["parameters"] > 0
    assert not found["bad"]["ready"] and str(bad) in found["bad"]["fault"] and "\n" not in found["bad"]["fault"]
    assert "num_key_value_heads is 0" in found["aaa"]["fault"]


def test_the_list_says_what_is_wrong_beside_what_is_good(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "good" / "not-here").symlink_to("nowhere")
    (models / "loop").symlink_to("loop")
    (models / "empty").mkdir()
    (models / "ggufs").mkdir()
    (models / "ggufs" / "m.gguf").write_bytes(b"GGUF")
    assert main(["models"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("num_key_value_heads is 0") == 2 and "holds a GGUF file" in said and said.count("cannot be used") == 3
    assert "empty" not in said and "Traceback" not in said


def test_a_broken_starter_is_said_too(models: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.base.known_models import STARTER
    from engine.models import folders

    folder = STARTER.folder
    shutil.copytree(models / "aaa", folder)
    monkeypatch.setattr(folders, "is_ready", lambda known: known is STARTER)
    listed = list_models()
    assert listed[0]["name"] == "starter" and "num_key_value_heads is 0" in listed[0]["fault"]
    assert [Path(one["name"]).name for one in listed if not one["fault"]] == ["small", "good"]


def test_a_defect_of_ours_hides_no_model(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.models import folders

    read = folders.read_front_matter
    monkeypatch.setattr(folders, "read_front_matter", lambda folder: 1 / 0 if folder.name == "good" else read(folder))
    good = next(one for one in list_models() if one["name"].endswith("good"))
    assert "ZeroDivisionError" in good["fault"] and not good["ready"]

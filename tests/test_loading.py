"""Model folders: every family loads and computes what was saved; every bad folder is refused with one sentence."""

import dataclasses
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_job import make_job
from tiny import find, make_tiny
from transformers import AutoModelForCausalLM

from engine.base.errors import UserError
from engine.base.families import FAMILIES
from engine.base.files import write_manifest
from engine.models import loading
from engine.models.folders import list_models
from engine.models.loading import load_model, load_tokenizer, parse_dtype
from engine.stages import context


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: field for key, field in value.items() if field is not None}))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_loads_as_it_was_saved(family: str, tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / family, family, attention_dropout=0.5)
    source = find(folder)
    assert source.config["model_type"] == family and source.folder == folder.resolve() and source.revision == ""
    model, tokenizer = load_model(source, torch.float32), load_tokenizer(source)
    assert not model.training and not any(weights.requires_grad for weights in model.parameters())
    assert model.config.attention_dropout == 0.0
    assert model.config._attn_implementation == ("eager" if family == "gemma2" else "sdpa")
    ids = torch.tensor([tokenizer.encode("The lantern keeper asked who was there, and the rain answered.")])
    with torch.no_grad():
        logits = model(ids).logits[0]
        expected = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")(ids).logits[0]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.3  # different enough for other tests to tell masks apart


DTYPES = [("bf16", torch.bfloat16), ("fp16", torch.float16), ("float32", torch.float32)]


@pytest.mark.parametrize(("name", "dtype"), DTYPES)
def test_weights_take_the_dtype_asked_for(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = load_model(find(make_tiny(tmp_path)), parse_dtype(name))
    assert {weights.dtype for weights in model.parameters()} == {dtype}


def test_auto_dtype_follows_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for speedup, expected in ((0.5, torch.float32), (1.1, torch.float32), (3.0, torch.bfloat16)):
        monkeypatch.setattr(loading, "_probe_speedup", lambda value=speedup: value)
        assert parse_dtype("auto", cpu) is expected
    assert parse_dtype("auto", torch.device("cuda")) is torch.bfloat16


@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
@pytest.mark.parametrize(("own", "expected"), [("float16", "float16"), ("bfloat16", "bfloat16"), ("float32", "bfloat16"),
                                               (None, "bfloat16")])
def test_on_cuda_half_precision_stays_half_precision(field: str, own: str | None, expected: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny(tmp_path / "model")
    edit(folder / "config.json", dtype=None, torch_dtype=None)
    edit(folder / "config.json", **{field: own})
    monkeypatch.setattr(loading, "best_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(context, "load_model", lambda source, dtype, load_in: dtype)
    bench = context.JobContext(dataclasses.replace(make_job(folder, tmp_path / "out"), dtype="auto"), tmp_path)
    (tmp_path / "job.json").write_text("{}")
    list(context.load_dense(bench, "4bit"))
    assert bench.model is bench.dtype is getattr(torch, expected)
    assert context.SHORT[str(bench.dtype)] in (tmp_path / "job.json").read_text()


def test_a_cpu_takes_no_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_probe_speedup", lambda: 1.0)
    assert parse_dtype("auto", torch.device("cpu"), "float16") is torch.float32
    with pytest.raises(UserError, match="int4"):
        parse_dtype("int4")


def test_the_probe_is_short() -> None:
    loading._probe_speedup.cache_clear()
    assert loading._probe_speedup() > 0
    assert loading._probe_speedup.cache_info().misses == 1


@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_quantised_weights_give_nearly_the_same_logits(load_in: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    source = find(make_tiny(tmp_path, hidden_size=64, intermediate_size=128))
    quantised, full = load_model(source, torch.float32, load_in), load_model(source, torch.float32)
    assert quantised.get_memory_footprint() < full.get_memory_footprint()
    with torch.no_grad():
        pair = [model(torch.arange(20)[None]).logits.flatten().float() for model in (quantised, full)]
    assert 0.8 < torch.corrcoef(torch.stack(pair))[0, 1] < 0.999999
    with pytest.raises(UserError, match="2bit"):
        load_model(source, torch.float32, "2bit")


def test_sharded_weights_load(tmp_path: Path) -> None:
    whole = load_model(find(make_tiny(tmp_path / "whole")), torch.float32)
    folder = make_tiny(tmp_path / "sharded")
    shard(folder)
    parts = load_model(find(folder), torch.float32)
    for (name, one), (other_name, other) in zip(whole.named_parameters(), parts.named_parameters(), strict=True):
        assert name == other_name and torch.equal(one, other)


def shard(folder: Path) -> None:
    """Split a tiny model's weights into two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def to_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])


def append(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")


def huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")


def false_header(folder: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def flip_a_bit(folder: Path) -> None:
    write_manifest(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-9] ^= 1
    (folder / "model.safetensors").write_bytes(weights)


def lose_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def point_outside(folder: Path) -> None:
    shard(folder)
    edit(folder / "model.safetensors.index.json", weight_map={"a": "../other.safetensors"})


BAD: list[tuple[Callable[[Path], Any], str]] = [
    (to_pickle, "Only safetensors are loaded"),
    (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    (lambda folder: (folder / "model.safetensors").rename(folder / "other.safetensors"), "has neither"),
    (truncate, "is incomplete: it has"),
    (append, "is incomplete: it has"),
    (huge_header, "truncated"),
    (false_header, "header is inconsistent"),
    (flip_a_bit, "model.safetensors was changed"),
    (lose_a_shard, "model-00002-of-00002.safetensors is missing"),
    (point_outside, r"names '../other.safetensors'"),
    (lambda folder: (folder / "config.json").unlink(), "there is no config.json"),
    (lambda folder: (folder / "config.json").write_text("[" * 100_000), "not valid JSON"),
    (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
    (lambda folder: (folder / "config.json").write_text(" " * 1_000_001), "larger than 1,000,000 bytes"),
    (lambda folder: edit(folder / "config.json", model_type="gpt2"), "'gpt2' are not supported: .*no gate.*llama"),
    (lambda folder: edit(folder / "config.json", model_type="gptx"), r"'gptx' are not supported\..*llama"),
    (lambda folder: edit(folder / "config.json", model_type=["llama"]), "not supported"),
    (lambda folder: edit(folder / "config.json", model_type=None), "None' are not supported"),
    (lambda folder: edit(folder / "config.json", auto_map={"AutoModel": "code.Model"}), "Python code"),
    (lambda folder: edit(folder / "config.json", deep=[{"auto_map": {}}]), "Python code"),
    (lambda folder: edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.T"]}), "Python code"),
    (lambda folder: edit(folder / "config.json", quantization_config={"quant_method": "gptq"}), "quantised already"),
    (lambda folder: edit(folder / "config.json", num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
]


@pytest.mark.parametrize(("spoil", "sentence"), BAD)
def test_bad_folders_are_refused_before_loading(spoil: Callable[[Path], Any], sentence: str, tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    find(folder)  # good before
    spoil(folder)
    with pytest.raises(UserError, match=sentence):
        find(folder)


CONTRADICTIONS = [{"hidden_size": 64}, {"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"intermediate_size": 48},
                  {"num_key_value_heads": 3}, {"hidden_act": "nothing"}, {"hidden_size": "wide"}]


@pytest.mark.parametrize("change", CONTRADICTIONS, ids=str)
def test_a_config_that_contradicts_the_weights(change: dict[str, Any], tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    edit(folder / "config.json", layer_types=None, **change)
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(find(folder), torch.float32)


def test_missing_weights_are_never_made_up(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj\.weight is missing"):
        load_model(find(folder), torch.float32)


def test_a_foreign_manifest_is_no_obstacle(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    (folder / "manifest.json").write_text('{"files": ["a", "b"]}')
    assert find(folder).config["model_type"] == "llama"


@pytest.mark.parametrize("name", ["", "nowhere", "a/b/c", "/nowhere/at/all", "../x", "x" * 5000, "a\0b", "http://a/b"])
def test_names_that_are_no_model(name: str) -> None:
    with pytest.raises(UserError, match="There is no model"):
        find(name)


def test_the_licence_is_read_from_the_front_matter(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    assert find(folder).licence is None
    (folder / "README.md").write_text("---\ntags:\n- a\nlicense: llama3.2\n---\nlicense: mit\n")
    assert find(folder).licence == "llama3.2"
    (folder / "README.md").write_text("license: mit\n")
    assert find(folder).licence is None


def test_models_on_this_machine_are_listed(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    starter, small = list_models()
    assert (starter["name"], starter["ready"], starter["bytes"], starter["parameters"]) == ("starter", False, 0, 134_515_008)
    assert (small["name"], small["ready"], small["family"]) == ("small", False, "qwen2")
    folder = make_tiny(own_home / "models" / "mine", "qwen3")
    (own_home / "models" / "other").mkdir()
    *_, mine = list_models()
    stored = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert (mine["name"], mine["family"], mine["parameters"]) == (str(folder), "qwen3", stored)
    assert find(mine["name"]).folder == folder.resolve()  # what is listed can be named


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = ("import sys; from engine.models import chat_format, folders, loading; folders.list_models()\n"
            "assert not {'torch', 'transformers'} & set(sys.modules), 'heavy'")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])

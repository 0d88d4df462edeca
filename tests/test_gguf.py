"""GGUF files of every family, loaded by llama.cpp itself and compared with transformers."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tiny import make_tiny
from transformers import AutoModelForCausalLM

from engine.base.errors import UserError
from engine.export import llama_cpp
from engine.export.gguf_writer import GgufReport, write_gguf

PROMPTS = [list(range(5, 5 + size)) for size in (3, 20, 41)]
CHANGES: dict[str, dict[str, Any]] = {
    "llama": {}, "llama-untied": {"tie_word_embeddings": False, "attention_bias": True},
    "llama-3-rope": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                         "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "llama-linear-rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "llama-yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                                       "original_max_position_embeddings": 128}},
    "mistral": {}, "qwen2": {}, "qwen3": {"num_hidden_layers": 3}, "smollm3": {"num_hidden_layers": 5},
    "gemma2": {"num_hidden_layers": 4},
    "gemma3_text": {"num_hidden_layers": 7, "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
                    "rope_parameters": {
                        "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
                        "full_attention": {"rope_type": "linear", "rope_theta": 500000.0, "factor": 8.0}}},
}


def result_of(work: Generator[Any, None, Any]) -> Any:
    """The value of a generator, its events passed over."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def last(lines: Any) -> Any:
    return list(lines)[-1]


@pytest.mark.parametrize("kind", CHANGES)
def test_llama_cpp_computes_what_transformers_computes(kind: str, tmp_path: Path) -> None:
    folder, file = make_tiny(tmp_path / "model", kind.split("-")[0], **CHANGES[kind]), tmp_path / "x.gguf"
    report: GgufReport = result_of(write_gguf(folder, file, "F32"))
    spoken = last(llama_cpp.speak({"file": str(file), "prompts": PROMPTS, "tokens": 32, "banned": [0, 1, 2]}))["texts"]
    random = torch.randint(3, 300, (24,), generator=torch.Generator().manual_seed(3)).tolist()
    last(llama_cpp.read({"file": str(file), "prompts": PROMPTS[:1], "texts": [random], "plain": 70, "spellings": [],
                             "out": tmp_path / "top"}))
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    given = lambda prompt, text: logprobs(model, prompt, text)
    for prompt, text in zip(PROMPTS, spoken, strict=True):  # greedy, without the special tokens
        assert (given(prompt, text)[:, 3:].argmax(-1) + 3).tolist() == text
    tolerance = 0.02 if "gemma" in kind else 2e-3  # llama.cpp looks gelu up in a table of 16-bit floats
    [positions] = json.loads((tmp_path / "top").read_text())
    for expected, top in zip(given(PROMPTS[0], random), positions, strict=True):
        tokens, found = zip(*top, strict=True)
        assert torch.allclose(expected[list(tokens)], torch.tensor(found), atol=tolerance) and len(tokens) > 200
    assert report.notes == [] and set(report.tensors) == {"F32"}


def test_a_window_that_llama_cpp_does_not_have_bounds_the_context(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model", "mistral", sliding_window=16)
    report: GgufReport = result_of(write_gguf(folder, tmp_path / "x.gguf", "F32"))
    assert gguf.GGUFReader(tmp_path / "x.gguf").fields["llama.context_length"].contents() == 16
    assert len(report.notes) == 1 and "gives 16 tokens as its context" in report.notes[0]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_act": "gelu"}, "with silu, not with gelu"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "of type 'dynamic'"),
    ("qwen2", {"rope_parameters": CHANGES["llama-3-rope"]["rope_parameters"]}, "of type 'llama3'"),
    ("smollm3", {"no_rope_layers": [1, 0]}, "every 4th layer"),
    ("gemma2", {"query_pre_attn_scalar": 32}, "scales the attention of this model by 8"),
    ("gemma3_text", {"num_hidden_layers": 3, "layer_types": ["full_attention", "full_attention", "sliding_attention"]},
     "pattern of full and sliding-window"), ("olmo2", {}, "of the family 'olmo2'")]


@pytest.mark.parametrize(("family", "changes", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_what_llama_cpp_computes_otherwise_is_refused(family: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model", family, **changes)
    with pytest.raises(UserError, match=words):
        result_of(write_gguf(folder, tmp_path / "x.gguf", "F16"))
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def logprobs(model: Any, prompt: list[int], text: list[int]) -> torch.Tensor:
    """What a model gives the next token at every position of a text (positions, vocabulary)."""
    with torch.inference_mode():
        said = model(input_ids=torch.tensor([[*prompt, *text[:-1]]]), logits_to_keep=len(text)).logits[0]
    return said.log_softmax(-1).clone()

"""LoRA adapters as files: peft's and llama.cpp's say the same, and an adapter on a cut model is that on a masked one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_gguf import CHANGES, PROMPTS, last, logprobs, result_of
from tiny import find, make_tiny
from transformers import AutoModelForCausalLM

from engine.export import llama_cpp
from engine.export.adapters import round_adapter, write_adapter, write_gguf_adapter
from engine.export.gguf_writer import write_gguf
from engine.models.ffn import masked
from engine.models.loading import load_model
from engine.models.steps import can_step
from engine.pruning.adapter import answering_copy, attach_adapter
from engine.pruning.cutting import cut, kept_indices

FAMILIES = [kind for kind in CHANGES if "-" not in kind]


def adapted_model(model: Any) -> Any:
    """The model with an adapter that changes what it says."""
    adapted = attach_adapter(model, 4, 1)
    draw = torch.Generator().manual_seed(2)
    for name, part in adapted.named_parameters():
        if "lora_B" in name:
            part.data = torch.randn(part.shape, generator=draw) * 0.1
    round_adapter(adapted)
    return adapted


@pytest.mark.parametrize("kind", FAMILIES)
def test_llama_cpp_says_with_an_adapter_what_peft_says(kind: str, tmp_path: Path) -> None:
    from peft import PeftModel

    folder, file = make_tiny(tmp_path / "model", kind.split("-")[0], **CHANGES[kind]), tmp_path / "x.gguf"
    result_of(write_gguf(folder, file, "F32"))
    size = write_adapter(adapted_model(load_model(find(folder), torch.float32)), tmp_path / "adapter", "tiny")
    write_gguf_adapter(tmp_path / "adapter", find(folder), tmp_path / "adapter.gguf")
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    plain = [logprobs(base, prompt, [5] * 32) for prompt in PROMPTS]
    model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    request = {"file": str(file), "prompts": PROMPTS, "tokens": 32, "banned": [0, 1, 2]}
    spoken = last(llama_cpp.speak({**request, "adapters": [str(tmp_path / "adapter.gguf")]}))["texts"]
    for prompt, text in zip(PROMPTS, spoken, strict=True):  # greedy, without the special tokens
        assert (logprobs(model, prompt, text)[:, 3:].argmax(-1) + 3).tolist() == text
    assert last(llama_cpp.speak(request))["texts"] != spoken and size < 60_000
    assert not torch.allclose(plain[0], logprobs(model, PROMPTS[0], [5] * 32), atol=0.1)


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "granite", "gemma2"])
def test_an_adapter_on_the_cut_model_is_that_on_the_masked_one(family: str, tmp_path: Path) -> None:
    """Where the masked model's adapter has the rows and columns of the kept channels."""
    folder = make_tiny(tmp_path / "model", family)
    whole = adapted_model(load_model(find(folder), torch.float32))
    plain: Any = load_model(find(folder), torch.float32)
    mask = torch.ones(plain.config.num_hidden_layers, plain.config.intermediate_size)
    mask[:, 1::3] = 0
    kept = kept_indices(mask)
    smaller = attach_adapter(cut(plain, kept), 4, 1)
    values = dict(whole.named_parameters())
    for name, part in smaller.named_parameters():
        if ".lora_" in name:
            value, index = values[name].data, kept[int(name.split(".layers.")[1].split(".")[0])]
            if part.shape != value.shape:  # W_down's columns; gate's and up's rows, one after the other where they are fused
                rows = torch.cat([index, index + mask.shape[1]]) if "gate_up" in name else index
                value = value[:, index] if "lora_A" in name else value[rows]
            part.data = value.clone()
    tokens = torch.tensor([PROMPTS[2]])
    with torch.inference_mode(), masked(whole.get_base_model(), mask):
        expected = whole(input_ids=tokens).logits
    with torch.inference_mode():
        assert torch.allclose(smaller(input_ids=tokens).logits, expected, atol=1e-5)
        merged = answering_copy(smaller)
        assert torch.allclose(merged(input_ids=tokens).logits, expected, atol=1e-4)
    assert not can_step(smaller.get_base_model())  # its fast steps would read the weights without the adapter

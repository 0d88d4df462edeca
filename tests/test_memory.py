"""The planner's formulas against memory that was measured: every tensor that real models, adapters and caches hold."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import find, make_tiny

from engine.base.model_config import check_config
from engine.base.sizes import WAYS, Cast, Decoder, ModelShape, adapter_bytes, decoder_of, memory_of, most_characters, plan
from engine.export.adapters import WEIGHTS, write_adapter
from engine.models.kv_cache import SPARE, growing_cache
from engine.models.loading import load_model
from engine.pruning.adapter import attach_adapter
from engine.pruning.cutting import cut, kept_indices
from engine.pruning.importance import random_scores, top_channels

STARTER = Decoder(ModelShape(30, 576, 1536, 134_515_008), 9, 3, 64)
LARGE = Decoder(ModelShape(28, 3072, 8192, 3_212_749_824), 24, 8, 128)  # Llama-3.2-3B's figures
CONTEXT = 200


def small(folder: Path, family: str = "llama") -> tuple[Any, Decoder]:
    """A model in which FFNs, keys and values weigh something, in fp32, and its figures."""
    made = make_tiny(folder / family, family, hidden_size=32, num_hidden_layers=2, vocab_size=300)
    model = load_model(find(made), torch.float32).cpu()
    return model, decoder_of(check_config(made / "config.json"), sum(one.numel() for one in model.parameters()), 4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_the_formulas_are_what_real_models_and_adapters_hold(tmp_path: Path, family: str) -> None:
    model, decoder = small(tmp_path, family)
    shorter = cut(model, kept_indices(top_channels(random_scores(2, 64, 1), 40)))
    write_adapter(attach_adapter(shorter, 5, 0), tmp_path / "adapter", "tiny")
    adapter = sum(one.nbytes for one in load_file(tmp_path / "adapter" / WEIGHTS).values())
    weights = sum(one.nbytes for name, one in shorter.named_parameters() if ".lora_" not in name)
    alone, cast = plan(decoder, Cast(characters=3, players=4, context=CONTEXT, kept=40, rank=5))
    assert (alone.weights, alone.adapters) == (3 * weights, 0)
    assert (cast.weights, cast.adapters) == (weights, 3 * adapter)


def test_a_conversation_holds_as_many_keys(tmp_path: Path) -> None:
    model, decoder = small(tmp_path)
    cache: Any = growing_cache()
    with torch.inference_mode():
        model(input_ids=torch.tensor([[5] * CONTEXT]), past_key_values=cache, use_cache=True)
    held = sum(part.untyped_storage().nbytes() for layer in cache.layers for part in (layer.key_buffer, layer.value_buffer))
    wanted = memory_of("cast", decoder, Cast(1, 1, CONTEXT, 40, 8)).key_values
    assert wanted <= held <= wanted + SPARE * decoder.token_bytes


def test_the_starters_figures() -> None:
    assert STARTER.token_bytes == 2 * 30 * 3 * 64 * 2
    assert adapter_bytes(STARTER, 1152, 1) == 2 * 30 * (4 * 576 + 2 * (576 + 192) + 3 * (576 + 1152))
    assert decoder_of({"num_attention_heads": 8, "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96},
                      10**6).token_bytes == 2 * 2 * 64 * 2


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 9000), st.sampled_from(WAYS), st.integers(10**8, 3 * 10**11))
@settings(max_examples=60)
def test_what_fits_fits_and_one_more_does_not(characters: int, players: int, context: int, way: str, memory: int) -> None:
    cast = Cast(characters, players, context, 6144, 8)
    count = most_characters(way, LARGE, cast, memory)
    with_count = lambda number: memory_of(way, LARGE, replace(cast, characters=number)).bytes
    assert count == 0 or with_count(count) <= memory
    assert with_count(count + 1) > memory


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Cast(0, 1, 1, 1, 1)

"""One token a row in few operations: the same numbers as transformers' forward pass, and known limits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import find, make_tiny
from torch import Tensor

from engine.base.families import FAMILIES
from engine.models.ffn import decoder, masked
from engine.models.kv_cache import growing_cache
from engine.models.loading import load_model
from engine.models.steps import Attend, TokenSteps, can_step

CHANGES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True,
              "rope_parameters": {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                  "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "qwen3": {"head_dim": 16}, "smollm3": {"no_rope_layers": [1, 0]}}
WORDS = torch.randint(3, 290, (3, 30), generator=torch.Generator().manual_seed(3))


def attend_cached(cache: Any) -> Attend:
    """Attention of rows that see all of their own keys in `cache`, the new ones included."""

    def attend(index: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        grown = cache.layers[index].update(keys[:, :, None], values[:, :, None])
        grouped = queries.reshape(len(queries), keys.shape[1], -1, queries.shape[-1])  # a key head's queries as its rows
        return torch.nn.functional.scaled_dot_product_attention(grouped, *grown).reshape(len(queries), -1)

    return attend


STEPPED = {name for name, family in FAMILIES.items() if family.stepped}


@pytest.fixture(scope="module", params=sorted(STEPPED))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = load_model(find(make_tiny(tmp_path_factory.mktemp("steps"), request.param, **CHANGES.get(request.param, {}))),
                       torch.float32).cpu()
    for name, weights in model.named_parameters():
        if name.endswith("bias"):  # transformers makes them zero
            weights.data += torch.randn_like(weights) * 0.1
    return model


@pytest.mark.parametrize("rows", [1, 3])
@torch.inference_mode()
def test_steps_equal_the_forward_pass(model: Any, rows: int) -> None:
    assert can_step(model)
    words, cache, steps = WORDS[:rows], growing_cache(), TokenSteps(model)
    decoder(model)(input_ids=words[:, :10], past_key_values=cache, use_cache=True)
    expected = decoder(model)(input_ids=words).last_hidden_state
    for place in range(10, words.shape[1]):
        found = steps.step(words[:, place], torch.full((rows,), place), attend_cached(cache))
        torch.testing.assert_close(found, expected[:, place], rtol=1e-4, atol=1e-4)


def test_weights_are_moved_once_and_stay_the_models_own(model: Any) -> None:
    with torch.inference_mode():
        before = decoder(model)(input_ids=WORDS).last_hidden_state
        TokenSteps(model)
        places = {name: weights.data_ptr() for name, weights in model.named_parameters()}
        steps = TokenSteps(model)
        assert {name: weights.data_ptr() for name, weights in model.named_parameters()} == places
        assert torch.equal(decoder(model)(input_ids=WORDS).last_hidden_state, before)
    layer = decoder(model).layers[0]
    own = [layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight, layer.self_attn.v_proj.weight]
    joined = steps.layers[0].attended.matrix
    assert torch.equal(joined, torch.cat(own)) and joined.data_ptr() == own[0].data_ptr()
    assert joined.untyped_storage().nbytes() == sum(weights.numel() for weights in own) * 4
    words = decoder(model).embed_tokens(WORDS).clone().requires_grad_()
    decoder(model)(inputs_embeds=words).last_hidden_state.square().sum().backward()  # what is learned later goes through them
    assert words.grad is not None and words.grad.abs().sum() > 0


def test_what_hooks_into_a_layer_is_left_to_transformers(model: Any) -> None:
    with masked(model, torch.ones(2, 64)):
        assert not can_step(model)
    assert can_step(model)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - STEPPED))
def test_other_builds_are_left_to_transformers(family: str, tmp_path: Path) -> None:
    assert not can_step(load_model(find(make_tiny(tmp_path, family)), torch.float32))


def test_a_sliding_window_is_left_to_transformers(tmp_path: Path) -> None:
    assert not can_step(load_model(find(make_tiny(tmp_path, "mistral", sliding_window=8)), torch.float32))

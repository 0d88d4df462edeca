"""Cutting equals masking: in memory, after a save and a plain load, with sliced and with replaced W_down."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import find, make_tiny
from torch import Tensor
from transformers import AutoModelForCausalLM

from engine.base.families import FAMILIES
from engine.models.ffn import feed_forwards, masked
from engine.models.loading import load_model
from engine.pruning.cutting import cut, kept_indices, with_columns
from engine.pruning.importance import random_scores, top_channels

CASES = [*((family, False) for family in sorted(FAMILIES)), ("llama", True), ("granite", True)]
TOKENS = torch.tensor([[5, 80, 17, 201, 44, 9, 133, 60, 5, 12, 90, 31, 7, 250, 66, 3, 110, 28, 41, 77]])
ModelOf = Callable[..., Any]


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> ModelOf:
    """The dense tiny model of a family, made once; with mlp_bias, its FFN has biases that are not zero."""

    @functools.cache
    def build(family: str, mlp_bias: bool = False) -> Any:
        changes = {"mlp_bias": True} if mlp_bias else {}
        model = load_model(find(make_tiny(tmp_path_factory.mktemp(family), family, **changes)), torch.float32).cpu()
        generator = torch.Generator().manual_seed(3)
        for name, weights in model.named_parameters():
            if name.endswith("bias"):
                weights.data = torch.randn(weights.shape, generator=generator)
        return model

    return build


def random_cut(k: int, seed: int = 1) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """A random mask (2, 64) of k channels, its indices, and random W_down columns (32, k) a layer."""
    mask = top_channels(random_scores(2, 64, seed), k)
    generator = torch.Generator().manual_seed(seed)
    return mask, kept_indices(mask), [torch.randn(32, k, generator=generator) * 0.3 for _ in range(2)]


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    """What a model says after each of the test tokens."""
    return model(input_ids=TOKENS, use_cache=False).logits


def masked_logits(model: Any, mask: Tensor, kept: list[Tensor], columns: list[Tensor] | None) -> Tensor:
    """What the dense model says under a mask, with some W_down columns replaced where they are given."""
    with masked(model, mask):
        if columns is None:
            return logits(model)
        with with_columns(model, kept, columns):
            return logits(model)


def assert_same(one: Tensor, other: Tensor) -> None:
    """Equal up to fp32 rounding."""
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize(("family", "mlp_bias"), CASES)
def test_the_cut_model_equals_the_masked_one(model_of: ModelOf, family: str, mlp_bias: bool, replaced: bool) -> None:
    dense = model_of(family, mlp_bias)
    mask, kept, columns = random_cut(40)
    expected = masked_logits(dense, mask, kept, columns if replaced else None)
    small = cut(copy.deepcopy(dense), kept, columns if replaced else None)
    assert_same(logits(small), expected)
    assert float((expected - logits(dense)).abs().max()) > 0.05  # the mask does matter
    assert small.config.intermediate_size == 40
    assert [ffn.size for ffn in feed_forwards(small)] == [40, 40]


@pytest.mark.parametrize("k", [1, 63, 64])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_the_smallest_and_the_largest_cut(model_of: ModelOf, family: str, k: int) -> None:
    mask, kept, _ = random_cut(k)
    small = cut(copy.deepcopy(model_of(family)), kept)
    assert_same(logits(small), masked_logits(model_of(family), mask, kept, None))


@pytest.mark.parametrize(("family", "mlp_bias"), CASES)
def test_plain_transformers_loads_the_cut_folder(model_of: ModelOf, tmp_path: Path, family: str,
                                                 mlp_bias: bool) -> None:
    dense = model_of(family, mlp_bias)
    mask, kept, columns = random_cut(40)
    cut(copy.deepcopy(dense), kept, columns).save_pretrained(tmp_path / "cut")
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "cut", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert loaded.config.intermediate_size == 40
    assert loaded.dtype == torch.float32
    assert_same(logits(loaded.eval()), masked_logits(dense, mask, kept, columns))


@pytest.mark.parametrize("family", ["llama", "granite"])
def test_biases_are_cut_too(model_of: ModelOf, family: str) -> None:
    _, kept, _ = random_cut(40)
    dense = model_of(family, True)
    small = cut(copy.deepcopy(dense), kept)
    for before, after, index in zip(feed_forwards(dense), feed_forwards(small), kept, strict=True):
        for old, new in zip(before.row_projections(), after.row_projections(), strict=True):
            assert torch.equal(new.bias, old.bias[index])
            assert new.out_features == 40
        assert torch.equal(after.down.bias, before.down.bias)  # one a hidden entry: it stays whole


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_layers_must_keep_equally_many(model_of: ModelOf, family: str) -> None:
    _, kept, _ = random_cut(40)
    model = copy.deepcopy(model_of(family))
    for wrong in ([kept[0], kept[1][:-1]], kept[:1], [*kept, kept[0]], []):
        with pytest.raises(ValueError, match="same number of channels"):
            cut(model, wrong)
    assert torch.equal(logits(model), logits(model_of(family)))  # nothing was touched


def test_the_dtype_stays(model_of: ModelOf) -> None:
    _, kept, columns = random_cut(40)
    small = cut(copy.deepcopy(model_of("llama")).bfloat16(), kept, columns)
    assert {weights.dtype for weights in small.parameters()} == {torch.bfloat16}
    assert not any(weights.requires_grad for weights in small.parameters())

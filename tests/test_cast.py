"""A character of a bank, gathered from the dense model, equals its standalone pruned model, in every family."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cast_samples import logits_after, make_delta, random_prompts, standalone
from tiny import find, make_tiny

from engine.base.families import FAMILIES
from engine.cast.delta import Delta, fit_layer, without_correction
from engine.cast.dense import gather
from engine.models.loading import load_model

CASES = [*((family, {}) for family in sorted(FAMILIES)), ("llama", {"mlp_bias": True}), ("mistral", {"sliding_window": 9})]
NAMES = [family + "".join(f" {key}" for key in changes) for family, changes in CASES]
ModelOf = Callable[..., Any]


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> ModelOf:
    """The dense tiny model of a family, and two characters of it."""

    @functools.cache
    def build(family: str, changes: tuple[tuple[str, Any], ...] = ()) -> tuple[Any, list[Delta]]:
        model = load_model(find(make_tiny(tmp_path_factory.mktemp(family), family, **dict(changes))), torch.float32).cpu()
        draw = torch.Generator().manual_seed(3)
        for name, weights in model.named_parameters():
            if name.endswith("bias"):
                weights.data = torch.randn(weights.shape, generator=draw)
        plain = without_correction(make_delta(model, 3).mask, 32)
        return model, [make_delta(model, 1), make_delta(model, 2, kept=48, rank=3), plain]

    return build


@pytest.mark.parametrize(("family", "changes"), CASES, ids=NAMES)
def test_a_gathered_model_equals_the_standalone_one(model_of: ModelOf, family: str, changes: dict[str, Any]) -> None:
    model, deltas = model_of(family, tuple(changes.items()))
    for delta in deltas:
        gathered, alone = gather(model, delta), standalone(model, delta)
        for prompt in random_prompts(3):
            expected = logits_after(alone, prompt)
            torch.testing.assert_close(logits_after(gathered, prompt), expected, atol=1e-5, rtol=1e-5)
            assert (logits_after(model, prompt) - expected).abs().max() > 0.01, "the deltas must matter"


def test_a_gathered_model_shares_all_but_its_ffns(model_of: ModelOf) -> None:
    model, deltas = model_of("phi3")
    before = {name: weights.clone() for name, weights in model.named_parameters()}
    gathered = gather(model, deltas[0])
    own = {id(weights) for weights in model.parameters()}
    fresh = {name.split(".")[-2] for name, weights in gathered.named_parameters() if id(weights) not in own}
    assert fresh == {"gate_up_proj", "down_proj"}
    assert gathered.config.intermediate_size == 40 and model.config.intermediate_size == 64
    assert all(torch.equal(weights, before[name]) for name, weights in model.named_parameters())


def test_the_correction_is_the_best_in_the_activations_norm() -> None:
    draw = torch.Generator().manual_seed(1)
    own = torch.randn(24, 40, generator=draw)
    few = torch.randn(40, 4, generator=draw)  # the activations lie near a plane of four directions
    activations = torch.randn(500, 4, generator=draw) @ few.T + 0.01 * torch.randn(500, 40, generator=draw)
    wanted = own + 0.3 * torch.randn(24, 40, generator=draw)
    gram = activations.T @ activations
    weighted, plain = (fit_layer(wanted, own, one, 4) for one in (gram, torch.eye(40)))

    def error(fitted: Any) -> float:
        scales = 1 + fitted.scale_step * fitted.scales.float()
        made = own * scales + (fitted.left.float() * fitted.factor_step[:, None]).T @ fitted.right.float()
        return float(((wanted - made) @ activations.T).square().sum() / ((wanted - own) @ activations.T).square().sum())

    assert error(weighted) < 0.02 < 0.2 < error(plain)
    assert weighted.left_out < 0.02  # the ridge counts as well
    assert error(fit_layer(wanted, own, gram, 0)) < 1, "the scales alone bring something"

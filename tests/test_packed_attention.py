"""Attention in parts: the states of the whole row, for rows of every shape, and no part where it cannot be."""

import gc
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import find, make_tiny, random_examples

from engine.base.families import FAMILIES
from engine.models import packing
from engine.models.attention import can_divide
from engine.models.loading import load_model
from engine.models.memory_saving import recomputed
from engine.models.packing import Example, Row, answer_states, pack, run_row, states_that_predict

WHOLE = {"gemma2", "gemma3_text"}  # these slide


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(find(make_tiny(tmp_path_factory.mktemp(request.param), request.param)), torch.float32).cpu()


def other_prefix() -> list[Row]:
    return pack([Example((5, 6, 7, 8), (9, 10)), Example((5, 6, 7, 11), (12,))], 60)


@torch.inference_mode()
def test_states_are_those_of_the_whole_row(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_divide(model) == (model.config.model_type not in WHOLE)
    rows = [*pack(random_examples([3, 9, 1, 6, 12, 0]), 40), *pack(random_examples([4]), 40), *other_prefix()]
    assert len(rows) > 3
    found, answers = [run_row(model, row) for row in rows], list(answer_states(model, rows))
    monkeypatch.setattr(packing, "can_divide", lambda _model: False)
    for row, states, answer in zip(rows, found, answers, strict=True):
        torch.testing.assert_close(states, run_row(model, row), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(answer, states_that_predict(model, row), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_shared_prefix_is_computed_once(model: Any) -> None:
    seen: list[int] = []
    handle = model.model.embed_tokens.register_forward_pre_hook(lambda _module, given: seen.append(given[0].numel()))
    rows = pack(random_examples([3, 9, 1, 6, 12, 0]), 40)
    list(answer_states(model, rows))
    handle.remove()
    whole, prefix = sum(row.size for row in rows), 7
    assert sum(seen) == (whole if model.config.model_type in WHOLE else whole - (len(rows) - 1) * prefix)


def gradients(model: Any, row: Row, recompute: bool) -> list[torch.Tensor]:
    """Of everything that attention is computed from: what enters each layer, and the weights of the first one."""
    scale = torch.ones(len(model.model.layers), 32, requires_grad=True)
    handles = [layer.register_forward_pre_hook(lambda _module, given, own=own: (given[0] * own, *given[1:]))
               for layer, own in zip(model.model.layers, scale, strict=True)]
    weights = [weight.requires_grad_() for weight in model.model.layers[0].self_attn.parameters()]
    with recomputed(model) if recompute else nullcontext():
        states_that_predict(model, row).pow(3).sum().backward()
    for handle in handles:
        handle.remove()
    found = [scale.grad, *(weight.grad for weight in weights)]
    model.requires_grad_(False).zero_grad()
    assert all(part is not None and bool((part != 0).any()) for part in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_the_whole_row(model: Any, recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*pack(random_examples([3, 9, 1, 6, 12]), 60), *pack(random_examples([4]), 40), *other_prefix()]
    found = [gradients(model, row, recompute) for row in rows]
    monkeypatch.setattr(packing, "can_divide", lambda _model: False)
    for row, parts in zip(rows, found, strict=True):
        for part, whole in zip(parts, gradients(model, row, recompute), strict=True):
            torch.testing.assert_close(part, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


def test_nothing_of_a_row_is_held_after_its_backward_pass(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[Any]] = []
    lay_out = packing.lay_out
    monkeypatch.setattr(packing, "lay_out", lambda *given: seen.append(weakref.ref(layout := lay_out(*given))) or layout)
    rows = pack(random_examples([3, 9, 1, 6, 12]), 30)
    for row in rows:
        gradients(model, row, False)
    gc.collect()
    assert len(seen) == (0 if model.config.model_type in WHOLE else len(rows)) and all(layout() is None for layout in seen)


@torch.inference_mode()
@pytest.mark.parametrize(("family", "changes"), [("mistral", {"sliding_window": 8}), ("phi3", {"sliding_window": 8})])
def test_a_sliding_window_is_computed_whole(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    assert not can_divide(load_model(find(make_tiny(tmp_path, family, **changes)), torch.float32).cpu())

"""Activations are computed once more where memory is short, and the estimate of what a row keeps is near."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import find, make_tiny, random_examples

from engine.base.families import FAMILIES
from engine.models import memory_saving
from engine.models.ffn import feed_forwards, masked
from engine.models.loading import load_model
from engine.models.memory_saving import activation_bytes, recomputed_where_tight
from engine.models.packing import pack, states_that_predict

ROW = pack(random_examples([9, 12, 30, 25, 14]), 200)[0]


@pytest.fixture(params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(find(make_tiny(tmp_path_factory.mktemp(request.param), request.param)), torch.float32).cpu()


@pytest.fixture
def passes(model: Any) -> Iterator[list[int]]:
    """Grows by one whenever the first layer's FFN is computed."""
    seen: list[int] = []
    handle = feed_forwards(model)[0].module.register_forward_pre_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


def backward(model: Any) -> None:
    mask = torch.ones(len(feed_forwards(model)), feed_forwards(model)[0].size, requires_grad=True)
    with masked(model, mask), recomputed_where_tight(model, ROW.size):
        states_that_predict(model, ROW).sum().backward()


@pytest.mark.parametrize(("share", "times"), [(0.9, 2), (1.1, 1)])
def test_layers_are_computed_twice_where_a_quarter_of_the_free_memory_does_not_hold_the_row(
        model: Any, passes: list[int], monkeypatch: pytest.MonkeyPatch, share: float, times: int) -> None:
    monkeypatch.setattr(memory_saving, "free_bytes", lambda _model: int(4 * share * activation_bytes(model, ROW.size)))
    backward(model)
    assert len(passes) == times


def test_the_estimate_is_about_what_the_layers_keep(model: Any) -> None:
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    mask = torch.ones(len(feed_forwards(model)), feed_forwards(model)[0].size, requires_grad=True)
    with masked(model, mask), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = states_that_predict(model, ROW)
    assert len(states) and 0.3 < sum(kept.values()) / activation_bytes(model, ROW.size) < 1.1

"""Unlike widths: a budget that is kept, shared out where it costs least."""

from itertools import product

import pytest
import torch

from benchmarks.methods.widths import estimate_costs, share_out, top_by_width
from engine.base.errors import UserError


def test_no_other_sharing_costs_less() -> None:
    steps = torch.rand(3, 6, generator=torch.Generator().manual_seed(4)).sort(dim=1).values
    costs = torch.cat([torch.zeros(3, 1), steps], dim=1).cumsum(1).flip(1)  # convex and falling with the width
    for budget in range(3, 19):
        found = share_out(costs, budget)
        price = lambda widths: float(sum(costs[layer, width] for layer, width in enumerate(widths)))
        least = min(price(widths) for widths in product(range(1, 7), repeat=3) if sum(widths) == budget)
        assert sum(found) == budget and price(found) == pytest.approx(least)


def test_alike_layers_get_alike_widths_and_dear_ones_more() -> None:
    importance = torch.rand(1, 32, generator=torch.Generator().manual_seed(4)).expand(4, 32)
    assert share_out(estimate_costs(importance, torch.ones(4), 24, 4), 24) == [6, 6, 6, 6]
    dear = share_out(estimate_costs(importance, torch.tensor([1.0, 1.0, 50.0, 1.0]), 24, 4), 24)
    assert sum(dear) == 24 and dear[2] == max(dear) > 6


def test_what_a_layer_costs_at_the_measured_width_is_what_was_measured() -> None:
    importance = torch.rand(2, 32, generator=torch.Generator().manual_seed(5))
    costs = estimate_costs(importance, torch.tensor([0.3, 0.7]), 24, 4)
    torch.testing.assert_close(costs[:, 6], torch.tensor([0.3, 0.7], dtype=torch.float64))
    torch.testing.assert_close(costs[:, 8], torch.zeros(2, dtype=torch.float64))


def test_the_mask_keeps_each_layers_most_important_channels() -> None:
    importance = torch.tensor([[3.0, 1.0, 2.0, 4.0], [1.0, 2.0, 4.0, 3.0]])
    assert top_by_width(importance, [1, 1], 2).tolist() == [[1, 0, 0, 1], [0, 0, 1, 1]]
    assert top_by_width(importance, [2, 1], 1).tolist() == [[1, 0, 0, 1], [0, 0, 1, 0]]


def test_a_budget_that_layers_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be shared out"):
        share_out(torch.zeros(2, 5), 11)

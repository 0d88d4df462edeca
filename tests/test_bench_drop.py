"""How much less a run loses than a plain cut: margins, items, the interval, and what is said where nothing was lost."""

import numpy as np
import pytest

from benchmarks import drop
from engine.evaluation.measure import MEASURES, Sample


def spoken(*values: float | None) -> list[Sample]:
    return [Sample(f"talk-{number // 2}#{number % 2}", 0, value) for number, value in enumerate(values)]


def test_drops_are_in_margins_an_item_each_and_only_where_all_three_have_a_value() -> None:
    better = MEASURES["identification"]
    found = drop.drops(better, {"dense": spoken(1, 1, 1, None), "plain": spoken(0.5, 0, 0, 0), "run": spoken(1, 0.5, None, 1)})
    assert found.tolist() == [[pytest.approx(0.75 / better.margin), pytest.approx(0.25 / better.margin)]]
    worse = MEASURES["loops"]  # fewer are better
    (pair,) = drop.drops(worse, {"dense": spoken(0), "plain": spoken(1), "run": spoken(0)}).tolist()
    assert pair == [pytest.approx(1 / worse.margin), 0]


def test_the_reduction_is_of_the_mean_drop_over_characters_and_measures() -> None:
    figures = drop.summarise({("Pim", "loops"): np.array([[4.0, 1.0]] * 6), ("Pim", "drift"): np.array([[2.0, 0.5]] * 5),
                              ("Bodo", "loops"): np.empty((0, 2)), ("Pim", "identity"): np.array([[0.0, 20.0]] * 4)})  # too few
    assert figures["reduction"] == pytest.approx(0.75) and figures["interval"] == [pytest.approx(0.75)] * 2
    assert figures["items"] == 11 and [one["character"] for one in figures["rows"]] == ["Pim", "Pim"]
    assert drop.words(figures) == ("The run loses 75% less than the plain cut; "
                                   "95 % interval of what it avoids: 75% to 75% (11 items; Pim).")


def test_where_the_plain_cut_loses_nothing_there_is_no_reduction() -> None:
    assert "nothing" in drop.words(drop.summarise({("Pim", "loops"): np.array([[0.0, 1.0]] * 4)}))
    unsure = drop.summarise({("Pim", "loops"): np.array([[9.0, 0.0], *[[-2.0, 0.0]] * 4])})
    assert unsure["reduction"] == 1 and unsure["interval"] is None and "too few" in drop.words(unsure)
    assert drop.summarise({})["reduction"] is None
    worse = drop.summarise({("Pim", "loops"): np.array([[1.0, 1.5]] * 5)})
    assert drop.words(worse).startswith("The run loses 50% more than the plain cut;")

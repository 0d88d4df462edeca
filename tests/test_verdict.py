"""The arithmetic of a verdict, against values worked out by hand."""

import pytest

from engine.base.ids import Outcome
from engine.base.verdict import FEWEST, Interval, auc, compare, estimate, more_needed, wilson


def samples(*values: float | None) -> dict[tuple[str, int], float | None]:
    return {(f"item-{number}", 0): value for number, value in enumerate(values)}


def test_a_mean_counts_items_alike_and_says_what_is_missing() -> None:
    found = estimate({("a", 0): 1.0, ("a", 1): 0.0, ("b", 0): 0.0, ("c", 0): None, ("d", 0): float("nan")})
    assert found and (found.mean, found.items, found.samples, found.missing) == (0.25, 2, 3, 2)
    assert estimate(samples(None, None)) is None
    assert estimate(samples(*[0.5] * 8)) == Interval(0.5, 0.5, 0.5, 8, 8)


def test_turns_of_a_conversation_belong_to_one_item() -> None:
    found = estimate({("talk#1", 0): 0.0, ("talk#2", 0): 1.0, ("other#1", 0): 1.0})
    assert found and (found.mean, found.items, found.samples) == (0.75, 2, 3)


@pytest.mark.parametrize(("run", "margin", "higher", "outcome"), [
    ([0.8] * 10, 0.05, True, Outcome.HOLDS),
    ([0.9] * 10, 0.05, True, Outcome.HOLDS),
    ([0.7] * 10, 0.05, True, Outcome.LOST),
    ([0.7] * 10, 0.05, False, Outcome.HOLDS),
    ([0.9] * 10, 0.05, False, Outcome.LOST),
    ([1.6, 0.0] * 5, 0.05, True, Outcome.UNSURE),
])
def test_holds_is_lost_or_cannot_be_told(run: list[float], margin: float, higher: bool, outcome: Outcome) -> None:
    found = compare(samples(*[0.8] * 10), samples(*run), margin, higher)
    assert found.outcome is outcome
    assert (found.more > 0) == (outcome is Outcome.UNSURE)


def test_a_difference_is_taken_pair_by_pair() -> None:
    """Items differ by far more than the margin, and the run is equally a little worse on each: paired, that is no noise."""
    dense = [0.0, 1.0] * 5
    found = compare(samples(*dense), samples(*(value - 0.02 for value in dense)), 0.05)
    assert found.outcome is Outcome.HOLDS and found.interval
    assert found.interval.low == pytest.approx(-0.02) == found.interval.high


def test_few_or_missing_pairs_decide_nothing() -> None:
    assert compare(samples(*[1.0] * 4), samples(*[0.0] * 4), 0.05).outcome is Outcome.UNSURE
    assert compare(samples(1.0), samples(None), 0.05).outcome is Outcome.UNMEASURED
    found = compare(samples(*[1.0] * 8), samples(*[None] * 2, *[1.0] * 6), 0.05)
    assert found.outcome is Outcome.HOLDS and found.interval and (found.interval.items, found.interval.missing) == (6, 2)
    lacking = compare(samples(*[1.0] * 8), samples(*[1.0] * FEWEST), 0.05)
    assert lacking.interval and lacking.interval.missing == 3


def test_how_many_more_items_are_needed() -> None:
    # Half of the interval is .2 and must become .1, a half: four times the 10 items.
    assert more_needed(Interval(0.05, -0.15, 0.25, 10, 10), 0.05) == 30
    assert more_needed(Interval(-0.049, -0.3, 0.2, 18, 18), 0.05) == 0  # tens of thousands: nobody will ask them


def test_auc_by_hand() -> None:
    # Pairs: 3>1, 3>2, 2>1 count one, 2=2 a half, of four.
    assert auc([3, 2], [1, 2]) == pytest.approx(3.5 / 4)
    assert auc([0], [1]) == 0 and auc([1], [1]) == 0.5
    with pytest.raises(ValueError):
        auc([], [1])


def test_the_interval_of_a_share() -> None:
    # 41 of 100, worked out by Wilson's formula: centre (.41 + .019207) / 1.038415, half .0946.
    low, high = wilson(41, 100)
    assert (round(low, 3), round(high, 3)) == (0.319, 0.508)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == pytest.approx(1)

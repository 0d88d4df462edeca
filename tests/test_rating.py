"""Bradley and Terry's model: strengths and intervals against values worked out by hand."""

import math

import pytest

from engine.base.rating import MOST, rate
from engine.base.verdict import Z


def test_one_pair_by_hand() -> None:
    # 8 to 4, and half a vote each: odds 8.5 / 4.5; the variance of their logarithm is 1 / 8.5 + 1 / 4.5.
    found = rate([("a", "b", 8), ("b", "a", 4)]).preference("a", "b")
    gap, spread = math.log(8.5 / 4.5), math.sqrt(1 / 8.5 + 1 / 4.5)
    assert found.share == pytest.approx(8.5 / 13) and found.votes == 12
    assert found.low == pytest.approx(1 / (1 + math.exp(Z * spread - gap)))
    assert found.high == pytest.approx(1 / (1 + math.exp(-Z * spread - gap)))
    # The interval leaves out one half from 12 · (Z · spread / gap)² = 38.73 votes on: 27 more than 12.
    assert not found.decided and 12 * (Z * spread / gap) ** 2 == pytest.approx(38.73, abs=0.01) and found.more == 27


def test_two_that_never_met_are_compared_by_what_both_met() -> None:
    rating = rate([("dense", "half", 9), ("half", "dense", 3), ("quarter", "dense", 7), ("dense", "quarter", 7)])
    found, back = rating.preference("quarter", "half"), rating.preference("half", "quarter")
    gap = math.log(7.5 / 7.5) - math.log(3.5 / 9.5)  # of a star, each pair counts by itself
    spread = math.sqrt(1 / 7.5 + 1 / 7.5 + 1 / 3.5 + 1 / 9.5)
    assert found.share == pytest.approx(1 / (1 + math.exp(-gap))) and found.votes == 26
    assert found.low == pytest.approx(1 / (1 + math.exp(Z * spread - gap)))
    assert (back.share, back.low, back.high) == pytest.approx((1 - found.share, 1 - found.high, 1 - found.low))


def test_a_ring_of_three_agrees_with_the_equations_of_the_likelihood() -> None:
    wins = {("a", "b"): 6.0, ("b", "a"): 2.0, ("b", "c"): 5.0, ("c", "b"): 3.0, ("a", "c"): 9.0, ("c", "a"): 1.0}
    rating = rate([(*pair, count) for pair, count in wins.items()])
    for one in "abc":  # as many votes are won as are expected to be
        others = [other for other in "abc" if other != one]
        expected = sum((wins[one, other] + wins[other, one] + 1) * rating.preference(one, other).share for other in others)
        assert expected == pytest.approx(sum(wins[one, other] + 0.5 for other in others))
    assert rating.strengths[0] == 0 and rating.strengths[1] < 0 and rating.strengths[2] < rating.strengths[1]


def test_votes_that_all_agree_and_many_votes_have_a_finite_estimate() -> None:
    found = rate([("a", "b", 400)]).preference("a", "b")
    assert found.share == pytest.approx(400.5 / 401) and 0.9 < found.low < found.share < found.high < 1 and found.decided
    assert rate([("a", "b", 3)]).preference("a", "b").more > 0  # three votes alone decide nothing


def test_even_votes_are_decided_when_the_interval_is_narrow() -> None:
    few, many = (rate([("a", "b", count), ("b", "a", count)]).preference("a", "b") for count in (10, 60))
    assert not few.decided and many.decided and many.more == 0
    needed = rate([("a", "b", 10 + few.more / 2), ("b", "a", 10 + few.more / 2)]).preference("a", "b")
    assert needed.decided or needed.more <= 5  # about so many: the half votes do not grow along
    assert few.more < MOST


def test_ties_count_half_and_what_nothing_connects_is_refused() -> None:
    assert rate([("a", "b", 2.5), ("b", "a", 2.5)]).preference("a", "b").share == pytest.approx(0.5)
    for votes in ([], [("a", "b", 1), ("c", "d", 1)]):
        with pytest.raises(ValueError, match="connect"):
            rate(votes)  # type: ignore[arg-type]

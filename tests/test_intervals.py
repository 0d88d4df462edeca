"""Bootstrap intervals: exact means, both levels of sampling, pairing, and what cannot be read."""

import math
from typing import Any

import numpy as np
import pytest

from benchmarks.intervals import Interval, bootstrap_mean, bootstrap_reduction


def make_groups(dice: Any, sizes: tuple[int, ...], between: float = 0.2, within: float = 0.3, mean: float = 1.0) -> list[Any]:
    """Characters whose means scatter by `between` around `mean`, lines of 5 to 40 tokens that scatter by `within`."""
    groups = []
    for size in sizes:
        tokens = dice.integers(5, 41, size=size).astype(float)
        centre = mean + between * dice.standard_normal()
        groups.append(np.stack([tokens * (centre + within * dice.standard_normal(size)), tokens], axis=1))
    return groups


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_the_mean_is_that_of_characters_and_within_them_of_tokens() -> None:
    groups = [np.array([[2.0, 1.0], [3.0, 9.0]]), np.array([[6.0, 4.0]])]
    assert bootstrap_mean(groups, 0, resamples=50).mean == (5 / 10 + 6 / 4) / 2
    halved = [group * [0.25, 1] for group in groups]
    assert bootstrap_reduction(halved, groups, 0, resamples=50).mean == 0.75
    assert bootstrap_reduction(groups, halved, 0, resamples=50).mean == -3


def test_constant_data_has_an_interval_without_width() -> None:
    tokens = [np.array([1.0, 2.0, 8.0]), np.array([4.0, 16.0])]
    groups = [np.stack([0.5 * counts, counts], axis=1) for counts in tokens]
    assert bootstrap_mean(groups, 3) == Interval(0.5, 0.5, 0.5)


def test_a_seed_fixes_the_interval() -> None:
    groups = make_groups(np.random.default_rng(1), (20, 30, 25))
    assert bootstrap_mean(groups, 7) == bootstrap_mean(groups, 7)
    assert bootstrap_mean(groups, 7) != bootstrap_mean(groups, 8)
    found, wide = bootstrap_mean(groups, 7, level=0.5), bootstrap_mean(groups, 7, level=0.95)
    assert wide.low < found.low < found.mean < found.high < wide.high


@pytest.mark.parametrize("sizes", [(40, 40, 40, 40), (3, 200, 5)])
def test_intervals_equal_those_of_a_naive_loop(sizes: tuple[int, ...]) -> None:
    dice = np.random.default_rng(2)
    groups = make_groups(dice, sizes)
    values = []
    for _ in range(3000):
        drawn = [groups[number] for number in dice.integers(len(groups), size=len(groups))]
        totals = [group[dice.integers(len(group), size=len(group))].sum(axis=0) for group in drawn]
        values.append(np.mean([total[0] / total[1] for total in totals]))
    low, high = np.quantile(values, [0.025, 0.975])
    found = bootstrap_mean(groups, 4, resamples=6000)
    assert found.low == pytest.approx(low, abs=0.08 * (high - low))
    assert found.high == pytest.approx(high, abs=0.08 * (high - low))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    dice = np.random.default_rng(5)
    found = [bootstrap_mean(make_groups(dice, (15,) * 12), seed, resamples=400) for seed in range(150)]
    covered = sum(interval.low <= 1 <= interval.high for interval in found) / len(found)
    assert 0.88 <= covered <= 0.99  # lines alone would cover less than half as often


def test_pairing_takes_out_what_makes_a_line_hard_for_both() -> None:
    dice = np.random.default_rng(6)
    baseline = make_groups(dice, (48,) * 6)
    ours = [group * [0.4, 1] for group in baseline]
    paired = bootstrap_reduction(ours, baseline, 1)
    assert (paired.mean, paired.low, paired.high) == pytest.approx((0.6, 0.6, 0.6), abs=1e-12)
    shuffled = bootstrap_reduction([dice.permutation(group) for group in ours], baseline, 1)
    assert shuffled.mean == pytest.approx(0.6)
    assert width(shuffled) > 0.01
    other_characters = bootstrap_reduction(ours[1:] + ours[:1], baseline, 1)
    assert width(other_characters) > width(shuffled)


def test_where_the_baseline_loses_nothing_the_reduction_has_no_lower_bound() -> None:
    tokens = np.full(20, 10.0)
    lost = np.zeros(20)
    lost[0] = 1.0  # about a third of the resamples do not see this line
    baseline, ours = [np.stack([lost, tokens], axis=1)], [np.stack([lost / 2, tokens], axis=1)]
    found = bootstrap_reduction(ours, baseline, 0)
    assert (found.mean, found.low, found.high) == (0.5, -math.inf, 0.5)


def test_what_cannot_be_read_is_refused() -> None:
    fine = [np.array([[1.0, 2.0]]), np.array([[1.0, 2.0], [3.0, 4.0]])]
    wrong = [np.zeros((0, 2)), np.ones((3, 3)), np.ones(3), np.array([[1.0, 0.0]]), np.array([[math.nan, 1.0]])]
    for groups in ([], *([*fine, group] for group in wrong)):
        with pytest.raises(ValueError, match="bootstrap needs"):
            bootstrap_mean(groups, 0)
    for other in (fine[:1], fine[::-1]):
        with pytest.raises(ValueError, match="same lines"):
            bootstrap_reduction(fine, other, 0)

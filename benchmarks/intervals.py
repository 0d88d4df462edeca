"""How sure a figure is: bootstrap intervals over characters and over their lines.

A benchmark reads few characters and a few dozen lines of each; both are samples
of what might have been read. The hierarchical bootstrap (Davison and Hinkley
1997, section 3.8) draws characters with replacement, then, within each drawn
one, lines with replacement, and takes the middle of the statistic's values
(percentile interval). With few characters such intervals are somewhat too
narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
RESAMPLES, LEVEL = 2000, 0.95


@dataclass(frozen=True)
class Interval:
    """A statistic of the data as it is (`mean`), and the ends of its interval; the data's own unit."""

    mean: float
    low: float
    high: float


def bootstrap_mean(groups: Sequence[Numbers], seed: int, resamples: int = RESAMPLES, level: float = LEVEL) -> Interval:
    """The mean over characters of sum(numerator) / sum(denominator), and its interval.

    `groups`: an array (lines, 2) a character, of a line's numerator (KL in nats, agreeing tokens, ...) and
    denominator (its tokens). Characters count alike, and within one its tokens. Equal arguments give equal results.
    Raises ValueError where a group has no lines, a number is not finite, or a denominator is not above zero.
    """
    arrays = _checked(groups)
    mean = float(_ratios(np.stack([array.sum(axis=0) for array in arrays])[None])[0])
    return _interval(mean, _resampled(arrays, seed, resamples), level)


def bootstrap_reduction(ours: Sequence[Numbers], baseline: Sequence[Numbers], seed: int, resamples: int = RESAMPLES,
                        level: float = LEVEL) -> Interval:
    """Drop reduction, 1 - mean(ours) / mean(baseline), with the means of `bootstrap_mean`, and its interval.

    Both read the same lines of the same characters in the same order, and each resample draws the same of them for
    both, so that what makes a line hard for both cancels. Where the baseline's mean is not above zero nothing can
    be reduced: that counts as minus infinity, the careful side. Raises ValueError as `bootstrap_mean` does, and where
    the shapes of the two differ.
    """
    if [np.shape(group) for group in ours] != [np.shape(group) for group in baseline]:
        raise ValueError("both methods have to be read on the same lines of the same characters")
    pairs = [np.concatenate(both, axis=1) for both in zip(_checked(ours), _checked(baseline), strict=True)]
    totals = np.stack([pair.sum(axis=0) for pair in pairs])[None]
    return _interval(float(_reductions(totals)[0]), _resampled(pairs, seed, resamples), level)


def _checked(groups: Sequence[Numbers]) -> list[Numbers]:
    """The groups as arrays (lines, 2) of fp64."""
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    if not arrays or any(array.ndim != 2 or array.shape[1] != 2 or not len(array) for array in arrays):
        raise ValueError("a bootstrap needs an array (lines, 2) for each of one or more characters, with a line or more")
    if not all(np.isfinite(array).all() and (array[:, 1] > 0).all() for array in arrays):
        raise ValueError("a bootstrap needs finite numbers and denominators above zero")
    return arrays


def _resampled(groups: Sequence[Numbers], seed: int, resamples: int) -> Numbers:
    """The statistic of each resample, (resamples,), sorted; of groups (lines, 2) the mean, of (lines, 4) the reduction.

    A slot of the resample (as many as there are characters) is drawn for all resamples at once.
    """
    dice = np.random.default_rng(seed)
    sizes = np.array([len(group) for group in groups])
    longest, columns = int(sizes.max()), groups[0].shape[1]
    padded = np.zeros((len(groups), longest, columns))
    for number, group in enumerate(groups):
        padded[number, : len(group)] = group
    totals = np.empty((resamples, len(groups), columns))
    for slot in range(len(groups)):
        character = dice.integers(len(groups), size=resamples)
        line = dice.integers(sizes[character][:, None], size=(resamples, longest))
        drawn = np.arange(longest) < sizes[character][:, None]  # as many lines as the character has
        totals[:, slot] = np.einsum("rlc,rl->rc", padded[character[:, None], line], drawn)
    return np.sort(_ratios(totals) if columns == 2 else _reductions(totals))


def _ratios(totals: Numbers) -> Numbers:
    """Means (resamples,) over characters of numerator / denominator, of totals (resamples, characters, 2)."""
    means: Numbers = (totals[..., 0] / totals[..., 1]).mean(axis=-1)
    return means


def _reductions(totals: Numbers) -> Numbers:
    """1 - ours / baseline, (resamples,), of totals (resamples, characters, 4): ours, then the baseline's."""
    ours, baseline = _ratios(totals[..., :2]), _ratios(totals[..., 2:])
    shares = np.divide(ours, baseline, out=np.full_like(ours, np.inf), where=baseline > 0)
    return 1 - shares


def _interval(mean: float, values: Numbers, level: float) -> Interval:
    """The middle `level` share of sorted values; picked, not interpolated, so that an infinite end stays one."""
    outside = round((1 - level) / 2 * len(values))
    return Interval(mean, float(values[outside]), float(values[-1 - outside]))

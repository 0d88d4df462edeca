"""Is it still the character? What samples of two speakers say: mean, interval, and whether a difference is within a margin.

The dense model and a run answered the same items with the same seeds, so samples are compared pair by pair. Items are what was
drawn from all that could be asked, so the bootstrap draws items, with all of their seeds. The verdict is that of a non-inferiority
test: a run *holds* where the whole interval of its difference is above minus the margin, is *lost* where the whole interval is
below it, and else nobody can tell yet, which is not the same as holding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.base.ids import Outcome

Numbers = NDArray[np.float64]
Key = tuple[str, int]  # of a sample: item and seed
RESAMPLES, LEVEL, SEED = 2000, 0.95, 7
Z = 1.959963984540054  # of a 95 % interval, where an estimate is about normal
FEWEST = 5  # items below which nothing is said
MOST = 2000  # more items than these are not worth asking


@dataclass(frozen=True)
class Interval:
    """A mean over `items` items (`samples` samples of them; `missing` more had no value), and its 95 % interval."""

    mean: float
    low: float
    high: float
    items: int
    samples: int
    missing: int = 0


@dataclass(frozen=True)
class Difference:
    """A run's difference from the dense model, more is better: `interval` in the measure's unit; `more`: about how many more
    items would decide, 0 where it is decided or where no number would."""

    interval: Interval | None
    margin: float
    outcome: Outcome
    more: int = 0


def estimate(values: Mapping[Key, float | None]) -> Interval | None:
    """The mean of the samples of one speaker, items counted alike. None where no sample has a value."""
    items, missing = _by_item(values)
    if not items:
        return None
    means = np.array([float(np.mean(one)) for one in items.values()])
    low, high = _interval(means)
    return Interval(float(means.mean()), low, high, len(items), sum(map(len, items.values())), missing)


def compare(dense: Mapping[Key, float | None], run: Mapping[Key, float | None], margin: float, higher: bool = True) -> Difference:
    """The verdict on a run. Samples that one of the two lacks are missing."""
    sign = 1.0 if higher else -1.0
    pairs = {key: sign * (b - a) if (a := dense[key]) is not None and (b := run[key]) is not None else None
             for key in dense if key in run}
    lacking = len(dense.keys() ^ run.keys())
    found = estimate(pairs)
    if found is None or found.items < FEWEST:
        return Difference(found, margin, Outcome.UNMEASURED if found is None else Outcome.UNSURE, FEWEST)
    found = Interval(found.mean, found.low, found.high, found.items, found.samples, found.missing + lacking)
    if found.low > -margin:
        return Difference(found, margin, Outcome.HOLDS)
    if found.high < -margin:
        return Difference(found, margin, Outcome.LOST)
    return Difference(found, margin, Outcome.UNSURE, more_needed(found, margin))


def more_needed(found: Interval, margin: float) -> int:
    """About how many more items decide, if the mean stays: an interval's width falls with the root of their number.

    0 where that would take more than MOST: the difference is then as good as the margin.
    """
    distance = abs(found.mean + margin)
    half = (found.high - found.low) / 2
    if distance <= 1e-9 or half <= 0:
        return 0
    more = max(1, math.ceil(found.items * (half / distance) ** 2) - found.items)
    return more if more <= MOST else 0


def auc(above: Sequence[float], below: Sequence[float]) -> float:
    """The probability that a value of `above` is larger than one of `below`, ties counted half (Mann and Whitney 1947).

    Raises ValueError where one of them is empty.
    """
    if not len(above) or not len(below):
        raise ValueError("an AUC needs values on both sides")
    first, second = np.asarray(above, float)[:, None], np.asarray(below, float)[None, :]
    return float(np.mean((first > second) + 0.5 * (first == second)))


def wilson(successes: float, total: float) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927), good for few samples; (0, 1) without samples."""
    if not total:
        return 0.0, 1.0
    share = successes / total
    centre = (share + Z * Z / (2 * total)) / (1 + Z * Z / total)
    half = Z / (1 + Z * Z / total) * math.sqrt(share * (1 - share) / total + Z * Z / (4 * total * total))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _by_item(values: Mapping[Key, float | None]) -> tuple[dict[str, list[float]], int]:
    """The values of each item that has one (turns of a conversation belong to it), and the number of those that are missing."""
    items: dict[str, list[float]] = {}
    missing = 0
    for (item, _), value in sorted(values.items()):
        if value is None or not math.isfinite(value):
            missing += 1
        else:
            items.setdefault(item.partition("#")[0], []).append(value)
    return items, missing


def _interval(means: Numbers) -> tuple[float, float]:
    """Percentile bootstrap over items. Equal arguments give equal results."""
    drawn = np.random.default_rng(SEED).integers(0, len(means), (RESAMPLES, len(means)))
    low, high = np.quantile(means[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

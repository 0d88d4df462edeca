"""Votes on pairs of several models, in one scale: who is preferred to whom, even where the two never met.

The model of Bradley and Terry (1952): P(a is preferred to b) = 1 / (1 + exp(s_b − s_a)), with a strength s for each. Strengths are
those under which the votes are likeliest (Newton's method; the first is fixed at 0), their covariance is the inverse of the
information. Half a vote is added to either side of each pair that was voted on (Haldane 1956), so that a pair in which all votes
are for one has a finite estimate as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.base.verdict import Z

Numbers = NDArray[np.float64]
NARROW = 0.2  # width of an interval around one half from which a difference, if any, is called small
MOST = 2000  # more votes than anyone gives
_PRIOR, _STEPS, _LARGEST, _CLOSE = 0.5, 200, 1.0, 1e-10


@dataclass(frozen=True)
class Preference:
    """How often one is preferred to another, 0 to 1, with its 95 % interval, and on how many votes on either of them it rests.

    `more`: about how many more votes decide, shared out as they were; 0: decided, or no number would.
    """

    share: float
    low: float
    high: float
    votes: float
    more: int

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out one half, or is so narrow around it that the two are alike."""
        return _decided(self.low, self.high)


@dataclass(frozen=True)
class Rating:
    """`strengths` (n,) of `names`, the first 0; `covariance` (n, n) of them; `votes` (n, n): on each pair, half of it each way."""

    names: tuple[str, ...]
    strengths: Numbers
    covariance: Numbers
    votes: Numbers

    def preference(self, first: str, second: str) -> Preference:
        """How often `first` is preferred to `second`. Raises ValueError for one that nobody voted on."""
        a, b = self.names.index(first), self.names.index(second)
        gap = float(self.strengths[a] - self.strengths[b])
        spread = math.sqrt(max(float(self.covariance[a, a] + self.covariance[b, b] - 2 * self.covariance[a, b]), 0.0))
        votes = float(self.votes[a].sum() + self.votes[b].sum() - self.votes[a, b])
        low, high = _share(gap - Z * spread), _share(gap + Z * spread)
        return Preference(_share(gap), low, high, votes, 0 if _decided(low, high) else _more(gap, spread, votes))


def rate(votes: Sequence[tuple[str, str, float]]) -> Rating:
    """The strengths of all that were voted on: (the preferred one, the other, how many votes); a tie is half a vote each way.

    Raises ValueError where votes do not connect all of them, and without votes.
    """
    names = tuple(dict.fromkeys(name for winner, loser, _ in votes for name in (winner, loser)))
    wins = np.zeros((len(names), len(names)))
    for winner, loser, count in votes:
        wins[names.index(winner), names.index(loser)] += count
    given = wins + wins.T
    if not names or not _connected(given > 0):
        raise ValueError("votes must connect all that are rated")
    wins = wins + _PRIOR * (given > 0)
    strengths = np.zeros(len(names))
    for _ in range(_STEPS):
        likely = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))  # (n, n): that the row is preferred to the column
        weight = (wins + wins.T) * likely * likely.T
        information = np.diag(weight.sum(axis=1)) - weight
        gradient = (wins - (wins + wins.T) * likely).sum(axis=1)
        step = np.linalg.solve(information[1:, 1:], gradient[1:])
        strengths[1:] += step * min(1.0, _LARGEST / max(float(np.abs(step).max(initial=0.0)), _CLOSE))
        if float(np.abs(step).max(initial=0.0)) < _CLOSE:
            break
    covariance = np.zeros_like(wins)
    covariance[1:, 1:] = np.linalg.inv(information[1:, 1:])
    return Rating(names, strengths, covariance, given)


def _connected(met: NDArray[np.bool_]) -> bool:
    reached, new = {0}, {0}
    while new:
        new = {int(other) for one in new for other in np.flatnonzero(met[one])} - reached
        reached |= new
    return len(reached) == len(met)


def _more(gap: float, spread: float, votes: float) -> int:
    """The fewest further votes at which the interval, which narrows with the root of their number, decides; 0: more than MOST."""
    for more in range(1, MOST + 1):
        half = Z * spread * math.sqrt(votes / (votes + more))
        if _decided(_share(gap - half), _share(gap + half)):
            return more
    return 0


def _decided(low: float, high: float) -> bool:
    return not low <= 0.5 <= high or high - low <= NARROW


def _share(gap: float) -> float:
    return 1 / (1 + math.exp(-gap))

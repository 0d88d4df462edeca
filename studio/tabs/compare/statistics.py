"""What votes say, in plain words and as a figure's data. Pure.

A claim is made only where the 95 % interval leaves one half out and there are enough votes for such an interval to mean
something to somebody who looks at it after every vote.
"""

from collections.abc import Mapping, Sequence

from studio.figures.votes import RunVotes
from studio.figures.words import count, percent
from studio.store.rounds import Tally
from studio.store.runs import Run
from studio.tabs.models import removed_by

FEWEST = 10  # decided votes before a preference is called one
_NARROW = 0.2  # width of an interval around one half from which a difference, if any, is called small
HOW = ("Only votes in blind rounds count, and each is kept for the model it was given to, whichever side it stood on. A tie "
       "counts half for each; “Both bad” counts for neither. The range is the 95 % Wilson interval: if it holds 50 %, chance "
       "alone could have made this result. Decide beforehand how many votes you will give. If you stop as soon as one model "
       f"leads, chance decides more often than it seems. With fewer than {FEWEST} votes nothing is claimed at all.")


def verdict_words(tally: Tally) -> str:
    """What the votes on one pruned model say, with how many there are."""
    bad = f" Both were bad in {count(tally.both_bad, 'more round')}." if tally.both_bad else ""
    if tally.share is None:
        return f"No votes for either model yet.{bad or ' Compare blind, then say which answer is better.'}"
    decided = tally.pruned + tally.dense + tally.tie
    after = f"After {count(decided, 'vote')}"
    spread = f"{percent(tally.share)} for the pruned model; likely between {percent(tally.low)} and {percent(tally.high)}."
    if tally.low <= 0.5 <= tally.high:
        if tally.high - tally.low <= _NARROW:
            return f"{after} you cannot tell them apart. If there is a difference, it is small: {spread}{bad}"
        return f"{after} you cannot tell them apart yet: {spread}{bad}"
    leader = "pruned" if tally.low > 0.5 else "dense"
    if decided < FEWEST:
        return f"{after} the {leader} model leads, but that is too few to go by: {spread}{bad}"
    return f"{after} you prefer the {leader} model: {spread}{bad}"


def run_votes(runs: Sequence[Run], tallies: Mapping[str, Tally]) -> list[RunVotes]:
    """The figure's data: the runs that were voted on."""
    found = []
    for run in runs:
        tally = tallies.get(run.id)
        if tally and tally.total:
            found.append(RunVotes(run.name, removed_by(run), tally.share, tally.low, tally.high,
                                  tally.pruned + tally.dense + tally.tie, tally.both_bad))
    return found

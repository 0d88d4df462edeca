"""What the votes on a pruned model say, in words, as HTML and as a figure's data, and how many more would decide. Pure."""

import html
import itertools
from collections.abc import Mapping, Sequence

from engine.base.verdict import wilson
from studio.figures.votes import RunVotes
from studio.figures.words import count, percent
from studio.store.rounds import Tally
from studio.store.runs import Run
from studio.tabs.compare.scene import Scene
from studio.tabs.models import removed_by

FEWEST = 10  # decided votes before a preference is called one
_NARROW = 0.2  # width of an interval around one half from which a difference, if any, is called small
HOW = ("Only votes in blind rounds count, each for the model that it was given to, whichever side it was on. A tie "
       "counts half for each; “Both bad” counts for neither. The range is the 95 % Wilson interval: if it holds 50 %, chance "
       "alone could have made this result. Decide beforehand how many votes you will give. If you stop as soon as one model "
       f"leads, chance decides more often than it seems. With fewer than {FEWEST} votes nothing is claimed at all.")


def tally_html(scene: Scene) -> str:
    """What the votes say so far, and how they are counted."""
    tally = scene.tallies.get(scene.run.id) if scene.run else None
    if tally is None:
        return ""
    parts = [("pruned", "Pruned better", tally.pruned), ("tie", "Tie", tally.tie), ("dense", "Dense better", tally.dense),
             ("bad", "Both bad", tally.both_bad)]
    bar = "".join(f'<i class="{kind}" style="flex:{number}"></i>' for kind, _, number in parts if number)
    legend = "".join(f'<li class="{kind}"><b>{number:,}</b> {word}</li>' for kind, word, number in parts)
    return (f'<div class="tally"><h3>Your votes · {html.escape(scene.run.name if scene.run else "")}</h3>'
            f'<p class="tally-words" id="compare-verdict" role="status">{html.escape(verdict_words(tally))}</p>'
            f'<p class="quiet" id="compare-needed">{html.escape(needed_words(tally))}</p>'
            f'<div class="tally-bar" aria-hidden="true">{bar}</div><ul id="compare-tally" class="measure">{legend}</ul>'
            f'<details><summary>How this is counted</summary><p>{html.escape(HOW)}</p></details></div>')


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


def votes_needed(tally: Tally) -> int:
    """How many more votes decide, if they go on as they did: until the interval leaves out one half, or is narrow around it.

    0: decided. Without votes: the fewest that can decide, all for one model.
    """
    decided = tally.pruned + tally.dense + tally.tie
    share = 1.0 if tally.share is None else tally.share
    return next(more for more in itertools.count() if _is_decided(share, decided + more))


def _is_decided(share: float, votes: int) -> bool:
    low, high = wilson(share * votes, votes)
    return votes >= FEWEST and (not low <= 0.5 <= high or high - low <= _NARROW)


def needed_words(tally: Tally) -> str:
    """How many votes are still needed."""
    decided, more = tally.pruned + tally.dense + tally.tie, votes_needed(tally)
    if not decided:
        return f"It takes at least {count(more, 'vote')} to decide."
    return (f"If the votes go on like these {decided:,}, {count(more, 'more vote')} will decide." if more else
            f"Decided, by {count(decided, 'vote')}.")


def run_votes(runs: Sequence[Run], tallies: Mapping[str, Tally]) -> list[RunVotes]:
    """The figure's data: the runs that were voted on."""
    found = []
    for run in runs:
        tally = tallies.get(run.id)
        if tally and tally.total:
            found.append(RunVotes(run.name, removed_by(run), tally.share, tally.low, tally.high,
                                  tally.pruned + tally.dense + tally.tie, tally.both_bad))
    return found

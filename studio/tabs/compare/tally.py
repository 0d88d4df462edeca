"""What the votes on a pruned model say, in words, as HTML and as a figure's data, and how many more would decide. Pure."""

import html
import itertools
from collections.abc import Mapping, Sequence

from engine.base.rating import NARROW, Preference, rate
from engine.base.verdict import wilson
from studio.figures.votes import RunVotes
from studio.figures.words import count, percent
from studio.store.rounds import Tally
from studio.store.runs import Run
from studio.tabs.compare.scene import Scene
from studio.tabs.models import dense_of, pruned_name, removed_by

FEWEST = 10  # decided votes before a preference is called one
MANY = 30  # more votes than a writer gives in one sitting
HOW = ("Only votes in blind rounds count, each for the model that it was given to, whichever side it was on. A tie "
       "counts half for each; “Both bad” counts for neither. The range is the 95 % Wilson interval: if it holds 50 %, chance "
       "alone could have made this result. Decide beforehand how many votes you will give. If you stop as soon as one model "
       f"leads, chance decides more often than it seems. With fewer than {FEWEST} votes nothing is claimed at all. Two runs are "
       "compared by the dense model, which both of them met (Bradley and Terry, with half a vote added on either side).")


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
            f'{_all_html(scene)}<details><summary>How this is counted</summary><p>{html.escape(HOW)}</p></details></div>')


def verdict_words(tally: Tally) -> str:
    """What the votes on one pruned model say, with how many there are."""
    bad = f" Both were bad in {count(tally.both_bad, 'more round')}." if tally.both_bad else ""
    if tally.share is None:
        return f"No votes for either model yet.{bad or ' Compare blind, then say which answer is better.'}"
    decided = _decided_votes(tally)
    after = f"After {count(decided, 'vote')}"
    spread = f"{percent(tally.share)} for the pruned model; likely between {percent(tally.low)} and {percent(tally.high)}."
    if tally.low <= 0.5 <= tally.high:
        if tally.high - tally.low <= NARROW:
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
    decided = _decided_votes(tally)
    share = 1.0 if tally.share is None else tally.share
    return next(more for more in itertools.count() if _is_decided(share, decided + more))


def _is_decided(share: float, votes: int) -> bool:
    low, high = wilson(share * votes, votes)
    return votes >= FEWEST and (not low <= 0.5 <= high or high - low <= NARROW)


def needed_words(tally: Tally) -> str:
    """How many votes are still needed."""
    decided, more = _decided_votes(tally), votes_needed(tally)
    if not decided:
        return f"It takes at least {count(more, 'vote')} to decide."
    if not more:
        return f"Decided, by {count(decided, 'vote')}."
    alike = " So far they are nearly alike; the verdict in the Prune room needs no votes." if more > MANY else ""
    return f"If the votes go on like these {decided:,}, {count(more, 'more vote')} will decide.{alike}"


def _all_html(scene: Scene) -> str:
    """All runs of the same dense model that were voted on, those that lost to it first; "" for fewer than two."""
    voted = ranked([(run, scene.tallies[run.id]) for run in scene.runs
                    if scene.run and dense_of(run).model == dense_of(scene.run).model and run.id in scene.tallies])
    if len(voted) < 2:
        return ""
    rows = "".join(f'<tr class="{_standing(tally)}"><th scope="row">{html.escape(pruned_name(run))}</th>'
                   f"<td>{_spread(tally.share or 0.0, tally.low, tally.high)} of {_decided_votes(tally):,}</td>"
                   f"<td>{html.escape(_STANDINGS[_standing(tally)].format(more=votes_needed(tally)))}</td></tr>"
                   for run, tally in voted)
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in between(voted))
    return ('<table class="plain-table" id="compare-all-runs"><caption>All runs with votes, beside the dense model</caption>'
            '<thead><tr><th scope="col">Run</th><th scope="col">Preferred, of votes</th><th scope="col">Says</th></tr></thead>'
            f'<tbody>{rows}</tbody></table><ul class="tally-between">{lines}</ul>')


def ranked(voted: Sequence[tuple[Run, Tally]]) -> list[tuple[Run, Tally]]:
    """The runs with decided votes: those that lost to the dense model first, then as often as they were preferred to it."""
    known = [(run, tally) for run, tally in voted if tally.share is not None]
    return sorted(known, key=lambda one: (_standing(one[1]) != "worse", one[1].share or 0.0))


def between(voted: Sequence[tuple[Run, Tally]]) -> list[str]:
    """For each two neighbours in the order of `ranked` a sentence on what their votes say of the two."""
    votes = [vote for run, one in voted for vote in (("", run.id, one.dense + one.tie / 2), (run.id, "", one.pruned + one.tie / 2))]
    rating = rate(votes)
    names = [pruned_name(run) for run, _ in voted]
    return [_between_words(rating.preference(better.id, worse.id), names[place + 1], names[place])
            for place, ((worse, _), (better, _)) in enumerate(itertools.pairwise(voted))]


def _between_words(found: Preference, better: str, worse: str) -> str:
    spread = _spread(found.share, found.low, found.high)
    if not found.decided:
        more = f"; about {count(found.more, 'more vote')} on the two would tell" if found.more else ""
        return f"“{better}” and “{worse}” cannot be told apart yet: {spread} for the former{more}."
    if found.low <= 0.5 <= found.high:
        return f"“{better}” and “{worse}” are about alike: {spread} for the former."
    return f"“{better}” is preferred to “{worse}”: {spread}."


_STANDINGS = {"worse": "worse than dense", "unsure": "cannot tell yet, {more:,} more needed", "alike": "about alike",
              "better": "better than dense"}


def _standing(tally: Tally) -> str:
    if votes_needed(tally):
        return "unsure"
    return "worse" if tally.high < 0.5 else "better" if tally.low > 0.5 else "alike"


def _decided_votes(tally: Tally) -> int:
    return tally.pruned + tally.dense + tally.tie


def _spread(share: float, low: float, high: float) -> str:
    return f"{percent(share)} ({100 * low:.0f} to {100 * high:.0f})"


def run_votes(runs: Sequence[Run], tallies: Mapping[str, Tally]) -> list[RunVotes]:
    """The figure's data: the runs that were voted on."""
    found = []
    for run in runs:
        tally = tallies.get(run.id)
        if tally and tally.total:
            found.append(RunVotes(run.name, removed_by(run), tally.share, tally.low, tally.high,
                                  _decided_votes(tally), tally.both_bad))
    return found

"""Does a reply sound like the character's own lines? Authorship verification by runs of four characters.

The baseline of the PAN competitions: TF-IDF of character n-grams and cosines. It is a few lines of counting, so nothing is
installed for it. Source: consistency in Eval4Sim (arXiv 2603.02876); a share of others for each reply in place of their F1 and AUC.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from engine.base.events import Stream
from engine.cards.card import Card
from engine.cards.prompt import render_greeting, render_text
from engine.cards.speaking import START, split_dialogue
from engine.evaluation.measure import Evidence, Need, Sample, measure
from engine.evaluation.turns import ALONE, SPOKEN, Turn, beaten, each

RUN = 4  # characters


@measure("consistency", "Sounds like itself", "How often a reply is written more like this character's own lines than another's.",
         unit="share of others", margin=0.05, kinds=SPOKEN, needs=(Need.OTHERS,), quick=True, source="arXiv 2603.02876")
def consistency(evidence: Evidence) -> Stream[list[Sample]]:
    """For each answer the share of other characters whose lines are less like it: 0 to 1, chance .5."""
    yield from ()
    spoken = [own_lines(card) for card in (evidence.card, *(evidence.others[name] for name in sorted(evidence.others)))]
    authors = Authors(spoken) if spoken[0] else None

    def look(turn: Turn) -> float | str:
        if authors is None:
            return "The card has no greeting and no example dialogue."
        own, *others = authors.likeness(turn.answer)
        others = [one for one, text in zip(others, spoken[1:], strict=True) if text]
        return beaten(own, others) if others else ALONE

    return each(evidence.replies, look)


def own_lines(card: Card) -> str:
    """What a card's character says in it: greetings and its turns of the example dialogue."""
    turns = [said for dialogue in START.split(card.example_dialogue) for said in split_dialogue(dialogue, card.names)]
    return "\n".join([render_greeting(card), *(render_text(text, card) for text in (*card.alternate_greetings, *turns))]).strip()


class Authors:
    """Authors' texts as TF-IDF vectors of their character runs: (1 + ln count) · ln((1 + texts) / (1 + texts with it))."""

    def __init__(self, texts: Sequence[str]) -> None:
        runs = [_runs(text) for text in texts]
        having = Counter(run for one in runs for run in one)
        self._weight = {run: math.log((1 + len(texts)) / (1 + number)) for run, number in having.items()}
        self._known = [self._vector(one) for one in runs]

    def likeness(self, text: str) -> list[float]:
        """The cosine of a text with each author's, 0 to 1; runs that no author has do not count."""
        vector = self._vector(_runs(text))
        return [sum(weight * known.get(run, 0.0) for run, weight in vector.items()) for known in self._known]

    def _vector(self, runs: Mapping[str, int]) -> dict[str, float]:
        found = {run: (1 + math.log(count)) * self._weight[run] for run, count in runs.items() if self._weight.get(run)}
        length = math.sqrt(sum(value * value for value in found.values()))
        return {run: value / length for run, value in found.items()}


def _runs(text: str) -> Counter[str]:
    plain = f" {' '.join(text.casefold().split())} "
    return Counter(plain[place:place + RUN] for place in range(len(plain) - RUN + 1))

"""Does it speak as the character, or about it? What changes where "I" becomes the character's name.

For a model that has taken on the role, "I keep the gate" reads far better than "Bodo keeps the gate" would in its place. The reader
has no persona, so that only the wording counts.
"""

import re

from engine.base.events import Step, Stream
from engine.base.ids import StageId
from engine.cards.card import Card
from engine.cards.prompt import Message
from engine.evaluation.measure import Evidence, Need, Sample, measure
from engine.evaluation.turns import EMPTY, SPOKEN, turns

_SPOKEN_I = re.compile(r"\bI(?:['’](?:m|ve|ll|d))?\b(?!\.\w)")
_FORMS = {"m": " is", "ve": " has", "ll": " will", "d": " would"}
_WITHOUT = "The answer does not say I."


@measure("dissonance", "Speaks as itself", "How much better its answers read with I than with its name instead.",
         unit="nats a token", margin=0.1, kinds=SPOKEN, needs=(Need.READER,))
def dissonance(evidence: Evidence) -> Stream[list[Sample]]:
    """For each answer that says I: ln p a token as it is, minus ln p a token with the name instead, under the neutral model."""
    spoken, reader = list(turns(evidence.replies)), evidence.reader
    said = {(turn.id, turn.seed): turn for turn in spoken if by_name(turn.answer, evidence.card) != turn.answer}
    if reader is None:
        return [turn.sample("The dense model is not at hand.") for turn in spoken]
    prompts: list[list[Message]] = [[{"role": "user", "content": turn.line}] for turn in said.values()]
    both = []
    for texts in ([turn.answer for turn in said.values()], [by_name(turn.answer, evidence.card) for turn in said.values()]):
        sums, tokens = reader.log_likelihoods(prompts, texts)
        both.append((sums / tokens).tolist())
        yield Step(StageId.ASSESS, len(both), 2)
    found = {key: own - named for key, own, named in zip(said, *both, strict=True)}
    return [turn.sample(found.get((turn.id, turn.seed), _WITHOUT if turn.answer.strip() else EMPTY)) for turn in spoken]


def by_name(text: str, card: Card) -> str:
    """The text with the character's name for "I": "I'm late" becomes "Pim is late"."""
    return _SPOKEN_I.sub(lambda found: card.char + _FORMS.get(re.sub(r"^I['’]?", "", found[0]), ""), text)

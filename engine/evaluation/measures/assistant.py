"""Does the character talk like an assistant: offers of help, refusals by policy, being an AI?

The rules are about English. Of a card in another language nothing is said.
"""

from engine.base.events import Stream
from engine.cards.card import Card
from engine.cards.script import ADMISSIONS
from engine.cards.speaking import has_assistant_phrase
from engine.evaluation.answers import Speaker, mentions
from engine.evaluation.measure import EVERY, Evidence, Sample, measure
from engine.evaluation.turns import each


@measure("assistant", "Talks like an assistant", "The share of answers that offer help, refuse by policy, or admit to be an AI.",
         unit="share of answers", margin=0.05, higher=False, kinds=EVERY, quick=True)
def assistant(evidence: Evidence) -> Stream[list[Sample]]:
    """1 for an answer with an assistant's phrase, else 0."""
    yield from ()
    reason = not_english(evidence.card)
    return each(evidence.replies, lambda turn: reason or float(sounds_like_assistant(turn.answer)))


def sounds_like_assistant(text: str) -> bool:
    """Whether a text has an assistant's phrases, a refusal by policy, or an admission to be an AI."""
    return has_assistant_phrase(text) or any(mentions(text, entry) for entry in ADMISSIONS)


def not_english(card: Card) -> str:
    """Why English rules say nothing about a card; "" where they do."""
    language = Speaker.of(card, "").language
    return f"The rules are for English, and the card is in another language ({language})." if language not in ("", "en") else ""

"""Does a reply find its own card among others? Retrieval by static vectors, without a judge.

A reply is as near to a card as it is, on average, to the card's three nearest sentences. What all cards have in common is taken
off first. Source: adherence in Eval4Sim (arXiv 2603.02876), with small vectors and a share of cards in place of the rank.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.base.embedding import embedder
from engine.base.events import Stream
from engine.cards.card import Card
from engine.cards.prompt import render_greeting, render_text
from engine.evaluation.measure import Evidence, Need, Sample, measure
from engine.evaluation.turns import ALONE, SPOKEN, Turn, beaten, each

NEAREST = 3  # sentences of a card that count
_SENTENCE = re.compile(r"(?<=[.!?…。！？])\s*")
_NOT_INSTALLED = "The package wordllama is not installed (pip install persona-studio[memory])."


@measure("adherence", "Speaks of its world", "How often a reply is nearer to this character's card than to another's.",
         unit="share of others", margin=0.05, kinds=SPOKEN, needs=(Need.OTHERS,), quick=True, source="arXiv 2603.02876")
def adherence(evidence: Evidence) -> Stream[list[Sample]]:
    """For each answer the share of other cards that it is less near to: 0 to 1, chance .5."""
    yield from ()
    vectors = embedder()
    cards = [evidence.card, *(evidence.others[name] for name in sorted(evidence.others))]
    if vectors is None or len(cards) < 2:
        return each(evidence.replies, lambda _: _NOT_INSTALLED if vectors is None else ALONE)
    known = [vectors(sentences(card)) for card in cards]

    def look(turn: Turn) -> float | str:
        own, *others = nearness(vectors([turn.answer])[0], known)
        return beaten(own, others)

    return each(evidence.replies, look)


def sentences(card: Card) -> list[str]:
    """What a card says of its character, and its greeting, sentence by sentence. The example dialogue is left for `consistency`."""
    said = [render_text(text, card) for text in (card.description, card.personality, card.scenario)] + [render_greeting(card)]
    return [part for text in said for part in _SENTENCE.split(text) if len(part) > 8] or [card.name]


def nearness(answer: NDArray[np.float32], known: Sequence[NDArray[np.float32]]) -> list[float]:
    """How near an answer (d,) is to each card, given by its sentences (n, d): the mean cosine with its nearest sentences."""
    common = np.concatenate(list(known)).mean(axis=0)
    aim = _unit(answer - common)
    return [float(np.sort(_unit(card - common) @ aim)[-NEAREST:].mean()) for card in known]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)

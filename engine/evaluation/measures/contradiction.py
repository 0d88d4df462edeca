"""Does a character contradict its card in a long conversation? Statement by statement, by a judge.

A judge is asked three times a statement, so only every fourth turn and the first statements are looked at; the later a turn, the
more has been said that a model may confuse with its card.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.base.events import Stream
from engine.evaluation.measure import Evidence, ItemKind, Need, Sample, measure
from engine.evaluation.statements import CONTRADICTED, by_statements, relation_of
from engine.evaluation.turns import Turn, turns

if TYPE_CHECKING:
    from engine.evaluation.judge import Judge

EVERY, MOST = 4, 6  # turns; statements


@measure("contradiction", "Contradicts its card", "The share of the card's statements that it contradicts in long conversations.",
         unit="share of statements", margin=0.05, higher=False, kinds=(ItemKind.LONG,), needs=(Need.JUDGE,))
def contradiction(evidence: Evidence) -> Stream[list[Sample]]:
    """For every fourth turn of a conversation the mean probability, over the first six statements, that it contradicts one."""
    chosen = [turn for reply in evidence.replies for turn in list(turns([reply]))[EVERY - 1::EVERY]]
    return (yield from by_statements(evidence, chosen, MOST, _look))


def _look(judge: "Judge", turn: Turn, statements: Sequence[str]) -> float | str:
    said = 0.0
    for statement in statements:
        relation = relation_of(judge, statement, turn)
        if relation.probabilities is None:
            return relation.reason
        said += relation.probabilities[CONTRADICTED]
    return said / len(statements)

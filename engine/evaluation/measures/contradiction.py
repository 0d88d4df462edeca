"""Does a character contradict its card in a long conversation? Statement by statement, by a judge.

A judge is asked three times a statement, so only every fourth turn and the first statements are looked at; the later a turn, the
more has been said that a model may confuse with its card.
"""

from engine.base.events import Step, Stream
from engine.base.ids import StageId
from engine.cards.dossier import read_dossier
from engine.cards.prompt import PLAYER
from engine.evaluation.measure import Evidence, ItemKind, Need, Sample, measure
from engine.evaluation.measures.faithfulness import relation_of
from engine.evaluation.turns import EMPTY, NOT_JUDGED, Turn, turns

EVERY, MOST = 4, 6  # turns; statements


@measure("contradiction", "Contradicts its card", "The share of the card's statements that it contradicts in long conversations.",
         unit="share of statements", margin=0.05, higher=False, kinds=(ItemKind.LONG,), needs=(Need.JUDGE,))
def contradiction(evidence: Evidence) -> Stream[list[Sample]]:
    """For every fourth turn of a conversation the mean probability, over the first six statements, that it contradicts one."""
    chosen = [turn for reply in evidence.replies for turn in list(turns([reply]))[EVERY - 1::EVERY]]
    statements = read_dossier(evidence.card, PLAYER).statements[:MOST]
    found = []
    for number, turn in enumerate(chosen, start=1):
        found.append(turn.sample(_look(evidence, turn, statements)))
        yield Step(StageId.ASSESS, number, len(chosen))
    return found


def _look(evidence: Evidence, turn: Turn, statements: tuple[str, ...]) -> float | str:
    if evidence.judge is None:
        return NOT_JUDGED
    if not statements:
        return "The card makes no statement that could be checked."
    if not turn.answer.strip():
        return EMPTY
    said = 0.0
    for statement in statements:
        relation = relation_of(evidence.judge, statement, turn)
        if relation.probabilities is None:
            return relation.reason
        said += relation.probabilities[2]
    return said / len(statements)

"""Answers beside the statements of a card, one statement at a time, by a judge."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engine.base.events import Step, Stream
from engine.base.ids import StageId
from engine.cards.dossier import read_dossier
from engine.cards.prompt import PLAYER
from engine.evaluation.measure import Evidence, Sample
from engine.evaluation.turns import EMPTY, NOT_JUDGED, Turn

if TYPE_CHECKING:
    from engine.evaluation.judge import Choice, Judge

SYSTEM = "You compare what a character in a game says with a statement about that character. Answer with one word."
_ENTAILED = ("Statement: {statement}\n\nThe player says: {line}\n\nThe character answers: {answer}\n\nDoes the answer entail the "
             "statement, does it contradict the statement, or is it neutral?")
_RELATIONS = ("entails", "neutral", "contradicts")
ENTAILED, CONTRADICTED = _RELATIONS.index("entails"), _RELATIONS.index("contradicts")
Look = Callable[["Judge", Turn, Sequence[str]], float | str]  # an answer's value, or why it has none


def by_statements(evidence: Evidence, spoken: Sequence[Turn], most: int, look: Look) -> Stream[list[Sample]]:
    """What `look` makes of each answer beside the first `most` statements of the card's dossier."""
    statements = read_dossier(evidence.card, PLAYER).statements[:most]
    found = []
    for number, turn in enumerate(spoken, start=1):
        found.append(turn.sample(_value(evidence, turn, statements, look)))
        yield Step(StageId.ASSESS, number, len(spoken))
    return found


def _value(evidence: Evidence, turn: Turn, statements: Sequence[str], look: Look) -> float | str:
    if evidence.judge is None:
        return NOT_JUDGED
    if not statements:
        return "The card makes no statement that could be checked."
    return look(evidence.judge, turn, statements) if turn.answer.strip() else EMPTY


def relation_of(judge: "Judge", statement: str, turn: Turn) -> "Choice":
    """Whether an answer entails a statement, is neutral, or contradicts it; ENTAILED and CONTRADICTED are places in the result."""
    text = _ENTAILED.format(statement=statement, line=turn.line, answer=turn.answer)
    return judge.choose(SYSTEM, text, _RELATIONS, True)

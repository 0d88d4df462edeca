"""Is the reply true to the card? Statement by statement, by a judge: the APC score (arXiv 2405.07726).

A statement that matters for what was asked should be entailed by the reply; one that does not must not be contradicted. The value
is the gain over saying nothing, which entails and contradicts nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from engine.base.events import Step, Stream
from engine.base.ids import StageId
from engine.cards.dossier import read_dossier
from engine.cards.prompt import PLAYER
from engine.evaluation.measure import Evidence, ItemKind, Need, Sample, measure
from engine.evaluation.turns import EMPTY, NOT_JUDGED, Turn, turns

if TYPE_CHECKING:
    from engine.evaluation.judge import Choice, Judge

MOST = 12  # statements, the first of the dossier: each costs five questions to the judge
_SYSTEM = "You compare what a character in a game says with a statement about that character. Answer with one word."
_RELEVANT = "Statement: {statement}\n\nThe player says: {line}\n\nDoes the statement matter for the character's answer to this?"
_ENTAILED = ("Statement: {statement}\n\nThe player says: {line}\n\nThe character answers: {answer}\n\nDoes the answer entail the "
             "statement, does it contradict the statement, or is it neutral?")
_YES_NO, _RELATIONS = ("yes", "no"), ("entails", "neutral", "contradicts")
_KNOWN: "WeakKeyDictionary[Judge, dict[tuple[str, str], float]]" = WeakKeyDictionary()


@measure("faithfulness", "True to its card", "How many of the card's statements an answer bears out, contradictions taken off.",
         unit="statements", margin=0.1, kinds=(ItemKind.TALK, ItemKind.TASK), needs=(Need.JUDGE,), source="arXiv 2405.07726")
def faithfulness(evidence: Evidence) -> Stream[list[Sample]]:
    """For each answer the APC score minus that of an empty one: the sum over statements."""
    spoken = list(turns(evidence.replies))
    statements = read_dossier(evidence.card, PLAYER).statements[:MOST]
    found = []
    for number, turn in enumerate(spoken, start=1):
        found.append(turn.sample(_look(evidence, turn, statements)))
        yield Step(StageId.ASSESS, number, len(spoken))
    return found


def apc(relevant: Sequence[float], entailed: Sequence[float], contradicted: Sequence[float]) -> float:
    """The sum over statements of P(relevant)·P(entailed) + (1 − P(relevant))·(1 − P(contradicted))."""
    return sum(r * e + (1 - r) * (1 - c) for r, e, c in zip(relevant, entailed, contradicted, strict=True))


def gain(relevant: Sequence[float], entailed: Sequence[float], contradicted: Sequence[float]) -> float:
    """What an answer has over an empty one, which entails and contradicts nothing."""
    nothing = [0.0] * len(relevant)
    return apc(relevant, entailed, contradicted) - apc(relevant, nothing, nothing)


def relation_of(judge: "Judge", statement: str, turn: Turn) -> "Choice":
    """How an answer stands to a statement: it entails it, is neutral, or contradicts it."""
    text = _ENTAILED.format(statement=statement, line=turn.line, answer=turn.answer)
    return judge.choose(_SYSTEM, text, _RELATIONS, True)


def _look(evidence: Evidence, turn: Turn, statements: Sequence[str]) -> float | str:
    judge = evidence.judge
    if judge is None:
        return NOT_JUDGED
    if not statements:
        return "The card makes no statement that could be checked."
    if not turn.answer.strip():
        return EMPTY
    table = []
    for statement in statements:
        relevant = _relevance(judge, statement, turn.line)
        relation = relation_of(judge, statement, turn)
        if isinstance(relevant, str) or relation.probabilities is None:
            return relevant if isinstance(relevant, str) else relation.reason
        table.append((relevant, relation.probabilities[0], relation.probabilities[2]))
    return gain(*zip(*table, strict=True))


def _relevance(judge: "Judge", statement: str, line: str) -> float | str:
    """P(relevant), asked once for all speakers; why there is none."""
    known = _KNOWN.setdefault(judge, {})
    if (statement, line) not in known:
        found = judge.choose(_SYSTEM, _RELEVANT.format(statement=statement, line=line), _YES_NO, True)
        if found.probabilities is None:
            return found.reason
        known[statement, line] = found.probabilities[0]
    return known[statement, line]

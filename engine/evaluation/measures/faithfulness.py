"""Is the reply true to the card? Statement by statement, by a judge: the APC score (arXiv 2405.07726).

A statement that matters for what was asked should be entailed by the reply; one that does not must not be contradicted. The value
is the gain over saying nothing, which entails and contradicts nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from engine.base.events import Stream
from engine.evaluation.measure import Evidence, ItemKind, Need, Sample, measure
from engine.evaluation.statements import CONTRADICTED, ENTAILED, SYSTEM, by_statements, relation_of
from engine.evaluation.turns import Turn, turns

if TYPE_CHECKING:
    from engine.evaluation.judge import Judge

MOST = 12  # statements, the first of the dossier: each costs five questions to the judge
_RELEVANT = "Statement: {statement}\n\nThe player says: {line}\n\nDoes the statement matter for the character's answer to this?"
_YES_NO = ("yes", "no")
_KNOWN: "WeakKeyDictionary[Judge, dict[tuple[str, str], float]]" = WeakKeyDictionary()


@measure("faithfulness", "True to its card", "How many of the card's statements an answer bears out, contradictions taken off.",
         unit="statements", margin=0.1, kinds=(ItemKind.TALK, ItemKind.TASK), needs=(Need.JUDGE,), source="arXiv 2405.07726")
def faithfulness(evidence: Evidence) -> Stream[list[Sample]]:
    """For each answer the APC score minus that of an empty one: the sum over statements."""
    return (yield from by_statements(evidence, list(turns(evidence.replies)), MOST, _look))


def apc(relevant: Sequence[float], entailed: Sequence[float], contradicted: Sequence[float]) -> float:
    """The sum over statements of P(relevant)·P(entailed) + (1 − P(relevant))·(1 − P(contradicted))."""
    return sum(r * e + (1 - r) * (1 - c) for r, e, c in zip(relevant, entailed, contradicted, strict=True))


def gain(relevant: Sequence[float], entailed: Sequence[float], contradicted: Sequence[float]) -> float:
    """What an answer has over an empty one, which entails and contradicts nothing."""
    nothing = [0.0] * len(relevant)
    return apc(relevant, entailed, contradicted) - apc(relevant, nothing, nothing)


def _look(judge: "Judge", turn: Turn, statements: Sequence[str]) -> float | str:
    table = []
    for statement in statements:
        relevant = _relevance(judge, statement, turn.line)
        relation = relation_of(judge, statement, turn)
        if isinstance(relevant, str) or relation.probabilities is None:
            return relevant if isinstance(relevant, str) else relation.reason
        table.append((relevant, relation.probabilities[ENTAILED], relation.probabilities[CONTRADICTED]))
    return gain(*zip(*table, strict=True))


def _relevance(judge: "Judge", statement: str, line: str) -> float | str:
    """P(relevant), asked once for all speakers; why there is none."""
    known = _KNOWN.setdefault(judge, {})
    if (statement, line) not in known:
        found = judge.choose(SYSTEM, _RELEVANT.format(statement=statement, line=line), _YES_NO, True)
        if found.probabilities is None:
            return found.reason
        known[statement, line] = found.probabilities[0]
    return known[statement, line]

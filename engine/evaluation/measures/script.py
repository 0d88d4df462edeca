"""The card's own test: are the rules of its test script kept, and does it know who it is and what it knows?"""

from collections.abc import Mapping

from engine.base.events import Stream
from engine.base.ids import Verdict
from engine.cards.prompt import PLAYER
from engine.cards.script import Question, read_script
from engine.evaluation.answers import Speaker, check_answers, mentions, verdict_of
from engine.evaluation.measure import Evidence, ItemKind, Reply, Sample, measure

_OPEN = "No rule decides it; a judge would have to."
_VALUES: dict[Verdict, float | None] = {Verdict.PASS: 1.0, Verdict.FAIL: 0.0, Verdict.OPEN: None}


@measure("script", "Passes its test script", "The share of its test script's questions that keep every rule.",
         unit="share of questions", margin=0.05, kinds=(ItemKind.SCRIPT,), quick=True)
def script(evidence: Evidence) -> Stream[list[Sample]]:
    """1 where all rules are kept, 0 where one is broken; missing where rules leave it open. An empty answer breaks them."""
    yield from ()
    speaker = Speaker.of(evidence.card, PLAYER)
    questions = {question.id.replace("#", "-"): question for question in read_script(evidence.card).questions}  # "#": of turns
    return [_graded(reply, questions, speaker) for reply in evidence.replies]


def _graded(reply: Reply, questions: Mapping[str, Question], speaker: Speaker) -> Sample:
    question = questions.get(reply.item.id)
    if question is None:
        return Sample(reply.item.id, reply.seed, None, "The card's test script no longer has this question.")
    value = _VALUES[verdict_of(check_answers(question, reply.answers, speaker))]
    return Sample(reply.item.id, reply.seed, value, _OPEN if value is None else "")


def _mentioned(kind: str, evidence: Evidence) -> list[Sample]:
    """1 where the answer has every entry that is expected (one a line), else 0: an empty answer, too."""
    found = []
    for reply in evidence.replies:
        entries = reply.item.expected.split("\n") if reply.item.expected.strip() else []
        value = float(all(mentions(reply.last, entry) for entry in entries)) if entries else None
        found.append(Sample(reply.item.id, reply.seed, value, "" if entries else f"No words are given that show its {kind}."))
    return found


@measure("identity", "Knows who it is", "The share of questions about itself that it answers with what the card says.",
         unit="share of questions", margin=0.05, kinds=(ItemKind.IDENTITY,), source="arXiv 2401.12474")
def identity(evidence: Evidence) -> Stream[list[Sample]]:
    """1 where the answer mentions what is expected, else 0."""
    yield from ()
    return _mentioned("identity", evidence)


@measure("facts", "Knows its facts", "The share of questions about its world that it answers with what the card says.",
         unit="share of questions", margin=0.05, kinds=(ItemKind.KNOWLEDGE,), quick=True, source="arXiv 2401.12474")
def facts(evidence: Evidence) -> Stream[list[Sample]]:
    """1 where the answer mentions what is expected, else 0."""
    yield from ()
    return _mentioned("facts", evidence)

"""The test of a character by its script: every question to every model, exact checks, and a judge where there is one.

Answers come about as in a chat (serving/interview.py). The same card, files, sampling and seed give the same answers on one
machine. Nothing is stored here: the caller keeps the events.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from engine.base.errors import UserError
from engine.base.evaluation_events import Graded, Preferred, Untested
from engine.base.events import Event, Finished, Stage, Step, Warned
from engine.base.ids import StageId
from engine.base.sampling import SamplingParams
from engine.cards.card import Card
from engine.cards.macros import expand_macros
from engine.cards.prompt import PLAYER, render_description
from engine.cards.script import Question, read_script
from engine.evaluation.answers import Check, Speaker, check_answers, verdict_of
from engine.evaluation.judge import PASSING, Judge
from engine.serving.interview import Interview, shared_type


@dataclass(frozen=True)
class ScriptTest:
    """What is tested and how. `models`: as the chat worker names them; the first is what others are compared with.
    `type`: of the GGUF files, the same for all models; "": Q8_0 where all can have it."""

    card: Card
    models: Sequence[str]
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(seed=0))
    judge: Judge | None = None
    type: str = ""


def run_script(job: ScriptTest) -> Iterator[Event]:
    """Graded for every question and model; Untested where a model cannot be used, Warned for what else is amiss.

    Raises UserError where the card has no question, or its only model cannot be used.
    """
    began = time.monotonic()
    script = read_script(job.card)
    if not script.questions:
        raise UserError("The test script of this card has no questions.", "Add one, or restore those that were removed.")
    for fault in script.faults:
        yield Warned(fault)
    judging = _Judging(job)
    answers: dict[str, dict[str, Graded]] = {}
    job = replace(job, type=job.type or shared_type(job.models))
    try:
        for model in job.models:
            answers[model] = {}
            try:
                yield from _test_model(job, model, script.questions, judging, answers[model])
            except UserError as error:
                if len(job.models) == 1:
                    raise
                yield Untested(model, str(error))
        yield from judging.compare(script.questions, answers)
    finally:
        judging.close()
    yield Finished("", time.monotonic() - began)


def _test_model(job: ScriptTest, model: str, questions: Sequence[Question], judging: "_Judging",
                found: dict[str, Graded]) -> Iterator[Event]:
    speaker = Speaker.of(job.card, PLAYER)
    yield Stage(StageId.SCRIPT, len(questions), subject=model)
    with Interview(model, job.card, job.sampling, job.type) as interview:
        for done, question in enumerate(questions):
            said = yield from interview.ask(question.lines, Step(StageId.SCRIPT, done, len(questions), subject=model))
            answers = [text for text, _ in said]
            checks = check_answers(question, answers, speaker)
            score, checks, words = judging.score(question, answers, checks)
            if words:
                yield Warned(words)
            tested = Graded(model, question.id, question.kind, [speaker.named(line) for line in question.lines], answers,
                            verdict_of(checks), [asdict(check) for check in checks], score, job.sampling.seed or 0)
            found[question.id] = tested
            yield tested
            yield Step(StageId.SCRIPT, done + 1, len(questions), subject=model)


class _Judging:
    """The judge of a job, if it has one. A judge that fails is not asked again; its questions stay open."""

    def __init__(self, job: ScriptTest) -> None:
        self.job = job
        self.judge = job.judge
        self._persona = render_description(job.card)

    def close(self) -> None:
        """Ask no more."""
        if self.judge:
            self.judge.close()
        self.judge = None

    def score(self, question: Question, answers: Sequence[str], checks: list[Check]) -> tuple[float | None, list[Check], str]:
        """The judge's points, the checks with its verdict, and a warning for the user ("": none)."""
        if self.judge is None or not question.rules.judge or not answers[-1]:
            return None, checks, ""
        said = self._said(question, answers)
        try:
            score = self.judge.score(self._persona, said, self._named(question.rules.judge))
        except UserError as error:
            self.close()
            return None, checks, f"{error} What needs a judge is not judged."
        if score.points is None:
            judged = Check("judge", "open", score.reason)
        else:
            words = f"The judge gives {score.points:.0f} of 100 points ({score.mass:.0%} of its probability was on numbers)."
            judged = Check("judge", "pass" if score.points >= PASSING else "fail", words)
        return score.points, [judged if check.rule == "judge" else check for check in checks], ""

    def compare(self, questions: Sequence[Question], answers: dict[str, dict[str, Graded]]) -> Iterator[Event]:
        """Preferred for each later model's answer against the first one's, in both orders."""
        first, *others = [*(model for model in answers if answers[model]), ""]
        pairs = [(question, other) for other in others if other for question in questions
                 if question.rules.judge and question.id in answers[other] and question.id in answers[first]]
        if self.judge is None or not pairs:
            return
        yield Stage(StageId.COMPARE, len(pairs))
        for done, (question, other) in enumerate(pairs, start=1):
            one, two = answers[first][question.id].answers, answers[other][question.id].answers
            try:
                score = self.judge.compare(self._persona, self._said(question, one[:-1]), two[-1], one[-1],
                                           self._named(question.rules.judge))
            except UserError as error:
                yield Warned(f"{error} The comparison of the answers is incomplete.")
                return
            if score.points is not None:
                yield Preferred(question.id, other, first, score.points)
            yield Step(StageId.COMPARE, done, len(pairs))

    def _said(self, question: Question, answers: Sequence[str]) -> list[tuple[str, str]]:
        said: list[tuple[str, str]] = []
        for number, line in enumerate(question.lines):
            said.append((PLAYER, self._named(line)))
            if number < len(answers):
                said.append((self.job.card.char, answers[number]))
        return said

    def _named(self, text: str) -> str:
        return expand_macros(text, self.job.card, PLAYER)

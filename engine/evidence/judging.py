"""The judge of an evaluation: opened where a measure needs one, examined first, and asked nothing twice.

In the work folder, judged.jsonl has a line for each question to the judge, so that a job that ended early goes on.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from engine.base.errors import UserError
from engine.base.events import Stream, Warned
from engine.base.files import explain_write_errors
from engine.base.judges import sentence_of
from engine.calibration.lines import Journal
from engine.evaluation.exam import take_exam
from engine.evaluation.judge import Choice, Judge, Score
from engine.serving.judging import fetch_judge, open_judge

JUDGED = "judged.jsonl"
Said = TypeVar("Said", Choice, Score)


class KeptJudge:
    """A judge that keeps what it said in a file; as engine.evaluation.judge.Judge."""

    def __init__(self, judge: Judge, file: Path) -> None:
        self.name, self.identity = judge.name, judge.identity
        self._judge, self._journal = judge, Journal(file)
        self._known = {one["key"]: one["said"] for one in self._journal.records if {"key", "said"} <= one.keys()}

    def choose(self, system: str, text: str, options: Sequence[str], words: bool = False) -> Choice:
        """See Judge."""
        said = self._kept(Choice, lambda: self._judge.choose(system, text, options, words), "choose", system, text, [*options],
                          words)
        return Choice(tuple(said.probabilities) if said.probabilities else None, said.mass, said.reason)

    def score(self, persona: str, said: Sequence[tuple[str, str]], criterion: str) -> Score:
        """See Judge."""
        return self._kept(Score, lambda: self._judge.score(persona, said, criterion), "score", persona, [*said], criterion)

    def compare(self, persona: str, said: Sequence[tuple[str, str]], first: str, second: str, criterion: str) -> Score:
        """See Judge."""
        return self._kept(Score, lambda: self._judge.compare(persona, said, first, second, criterion), "compare", persona, [*said],
                          first, second, criterion)

    def _kept(self, kind: type[Said], ask: Callable[[], Said], *asked: Any) -> Said:
        key = hashlib.sha256(json.dumps([self.identity, *asked]).encode()).hexdigest()[:24]
        if key not in self._known:
            said = asdict(ask())
            with explain_write_errors(self._journal.path, "run the same command again"):
                self._journal.add({"key": key, "said": said})
            self._journal.records.clear()
            self._known[key] = said
        return kind(**self._known[key])


@dataclass(frozen=True)
class Bench:
    """Who judges, or `refusal`: why nobody does. `words`: on how the judge did in its exam."""

    judge: KeptJudge | None = None
    refusal: str = "not judged: no judge was named"
    words: str = ""


def call_judge(name: str, model: str, folder: Path, stack: ExitStack) -> Stream[Bench]:
    """Open a job's judge, if it names one, and let it take the exam unless it has. `stack` closes it.

    A judge that cannot be used, or does not pass, judges nothing; the rest of the job goes on.
    """
    if not name:
        return Bench()
    try:
        yield from fetch_judge(name)
        judge = stack.enter_context(open_judge(name, model))
        result = yield from take_exam(judge)
    except UserError as error:
        yield Warned(f"{error} What needs a judge is not judged.")
        return Bench(refusal=f"not judged: {error.sentence}")
    words = f"Judge: {judge.name}. {sentence_of(result)}"
    if not result.passed:
        said = sentence_of(result)
        return Bench(refusal=f"{said[:1].lower()}{said[1:]}", words=words)
    return Bench(KeptJudge(judge, folder / JUDGED), "", words)

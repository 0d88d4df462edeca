"""The result of an evaluation, as a file: what was asked of whom, what every measure says, and the verdict in words.

`persona evaluate` writes it, and the page, the command line and a gate read it. All words about results are made here, so that
they are the same everywhere.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.base.errors import UserError
from engine.base.evaluation_events import Assessed, Compared
from engine.base.files import read_json, write_json
from engine.base.ids import Outcome

RESULT = "evaluation.json"
ANSWERS = "answers.jsonl"  # beside it: every answer as it comes
DENSE = "dense"  # the id of the speaker that the others are compared with
OUTCOMES = {Outcome.HOLDS: "holds", Outcome.LOST: "lost", Outcome.UNSURE: "cannot tell yet", Outcome.UNMEASURED: "not measured"}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Voiced(_Part):
    """A speaker. `sparsity`: share of FFN channels removed, 0 for the dense model; `bytes`: of its GGUF file, 0 where unknown."""

    id: str
    name: str
    model: str
    sparsity: float = 0.0
    bytes: int = 0
    type: str = ""


class Asked(_Part):
    """A measure that was asked for; see evaluation/measure.py."""

    name: str
    label: str
    about: str
    unit: str
    higher: bool = True
    margin: float
    judged: bool = False
    source: str = ""


class Telling(_Part):
    """An item that shows a difference: what was asked, both answers, and by which measure they differ most."""

    speaker: str
    item: str
    kind: str
    lines: list[str]
    dense: list[str]
    run: list[str]
    measure: str = ""


class Evaluation(_Part):
    """The whole result. `judge`: a sentence on who judged and how it did in its exam, "" where nobody was asked; `notes`: sentences
    on what all of it rests on."""

    character: str
    dense: str
    speakers: list[Voiced]
    measures: list[Asked]
    figures: list[Assessed]
    findings: list[Compared]
    telling: list[Telling] = []
    judge: str = ""
    notes: list[str] = []
    quick: bool = False
    replies: int = 0
    seeds: int = 1
    seconds: float = 0.0
    made: float = 0.0

    def runs(self) -> list[Voiced]:
        """Everybody but the dense model, in order."""
        return [one for one in self.speakers if one.id != DENSE]

    def figure(self, measure: str, speaker: str) -> Assessed | None:
        """What a measure says of a speaker."""
        return next((one for one in self.figures if (one.measure, one.speaker) == (measure, speaker)), None)

    def finding(self, measure: str, speaker: str) -> Compared | None:
        """What a measure says of a run beside the dense model."""
        return next((one for one in self.findings if (one.measure, one.speaker) == (measure, speaker)), None)

    def findings_of(self, speaker: str) -> list[Compared]:
        """A run's findings, in the order of the measures."""
        order = [one.name for one in self.measures]
        return sorted((one for one in self.findings if one.speaker == speaker), key=lambda one: order.index(one.measure))


def read_evaluation(file: Path) -> Evaluation:
    """The result in a file. Raises UserError for a file that holds none."""
    try:
        return Evaluation.model_validate(read_json(file))
    except ValidationError as error:
        raise UserError(f"{file} is not the result of an evaluation.", "Evaluate the run again.") from error


def write_evaluation(file: Path, result: Evaluation) -> None:
    """Write a result, whole or not at all."""
    write_json(file, result.model_dump(mode="json"))


def headline(result: Evaluation, speaker: str) -> str:
    """The verdict on a run in one sentence, like "Mari at 25%: holds in 7 of 9 measures, cannot tell in 2 (about 40 more
    questions)."."""
    run = next(one for one in result.speakers if one.id == speaker)
    who = f"{result.character} at {run.sparsity:.0%}" if run.sparsity else f"{result.character}, {run.name}"
    counted = [one for one in result.findings_of(speaker) if one.outcome is not Outcome.UNMEASURED]
    if not counted:
        return f"{who}: nothing could be measured."
    parts = []
    tally = {outcome: [one for one in counted if one.outcome is outcome] for outcome in Outcome}
    if lost := tally[Outcome.LOST]:
        names = {one.name: one.label for one in result.measures}
        parts.append(f"lost in {len(lost)} of {len(counted)} measures ({', '.join(names[one.measure].lower() for one in lost)})")
    if held := tally[Outcome.HOLDS]:
        parts.append(f"holds in {len(held)}" + ("" if lost else f" of {len(counted)} measures"))
    if unsure := tally[Outcome.UNSURE]:
        more = max((one.more for one in unsure), default=0)
        parts.append(f"cannot tell in {len(unsure)}" + ("" if lost or held else f" of {len(counted)} measures")
                     + (f" (about {_round(more):,} more questions)" if more else ""))
    return f"{who}: {', '.join(parts)}."


def recommend(result: Evaluation) -> str:
    """Which of several runs to ship: the smallest that lost nothing; a sentence, "" where there is only one."""
    runs = sorted(result.runs(), key=lambda one: one.sparsity)
    if len(runs) < 2:
        return ""
    whole = [one for one in runs if not lost(result, one.id)]
    if not whole:
        return "Every run lost something: ship the dense model, or make a more thorough run."
    best = whole[-1]
    sure = any(one.outcome is Outcome.HOLDS for one in result.findings_of(best.id))
    rest = [one for one in runs if one not in whole]
    words = f"{best.name} is the smallest that lost nothing" + ("." if sure else ", but nothing about it is certain yet.")
    return words + (f" {_listed([one.name for one in rest])} lost something." if rest else "")


def lost(result: Evaluation, speaker: str) -> list[Compared]:
    """The measures in which a run lost."""
    return [one for one in result.findings_of(speaker) if one.outcome is Outcome.LOST]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _round(count: int) -> int:
    """A count of what is only estimated, to two digits."""
    if count < 20:
        return count
    unit = 10 ** (len(str(count)) - 2)
    return -(-count // unit) * unit

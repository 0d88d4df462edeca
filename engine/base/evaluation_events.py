"""What is said of how a character speaks: answers to a script, samples and verdicts of an evaluation, exams of judges, scenes; and
of cards that are drafted."""

import dataclasses
from typing import Any

from engine.base.events import Count, Event
from engine.base.ids import Outcome, Verdict


@dataclasses.dataclass(frozen=True)
class Graded(Event):
    """A model has answered a question of a character's test script.

    `lines`: what the player said, names put in; `answers`: one to each. `verdict`: pass, fail or not judged; `checks`: an
    object {rule, outcome, detail} a rule (see evaluation/answers.py); `score`: the judge's points, 0 to 100, or None.
    """

    model: str
    question: str
    kind: str
    lines: list[str]
    answers: list[str]
    verdict: Verdict
    checks: list[dict[str, str]]
    score: float | None
    seed: Count


@dataclasses.dataclass(frozen=True)
class Preferred(Event):
    """A judge has compared two models' answers to a question: `points` for the first, 0 to 100; 50 means they are alike."""

    question: str
    first: str
    second: str
    points: float


@dataclasses.dataclass(frozen=True)
class Untested(Event):
    """A model could not be tested, or not to the end; `sentence` is for the user. The other models go on."""

    model: str
    sentence: str


@dataclasses.dataclass(frozen=True)
class Replied(Event):
    """A speaker has answered an item of an evaluation: the player's `lines`, and an answer to each; see evaluation/measure.py."""

    speaker: str
    item: str
    kind: str
    seed: Count
    lines: list[str]
    answers: list[str]
    reasons: list[str]


@dataclasses.dataclass(frozen=True)
class Assessed(Event):
    """What a measure says of a speaker: mean and 95 % interval, in the measure's unit, over `items` items (`samples` samples;
    `missing` more had no value). `note`: why there is no mean, or what limits it."""

    measure: str
    speaker: str
    mean: float | None
    low: float | None
    high: float | None
    items: Count
    samples: Count
    missing: Count
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Compared(Event):
    """A run beside the dense model by one measure: the difference (more is better) with its 95 % interval, and the verdict
    (base/verdict.py) at `margin`; `more`: about how many more items would decide."""

    measure: str
    speaker: str
    difference: float | None
    low: float | None
    high: float | None
    margin: float
    items: Count
    outcome: Outcome
    more: Count = 0


@dataclasses.dataclass(frozen=True)
class Examined(Event):
    """A judge has said who speaks a line of the exam: `probabilities` by the characters' ids, 1 in all; none where its answer was
    rejected, and `reason` says why. `model`: what the server called its model."""

    judge: str
    line: str
    speaker: str
    probabilities: dict[str, float]
    model: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class ExamTaken(Event):
    """The result of a judge's exam; see evaluation/exam.py. `low`, `high`: the 95 % interval of `top1` (Wilson). `missing`: lines
    without an answer. `passed`: what it judges counts."""

    judge: str
    right: Count
    lines: Count
    missing: Count
    top1: float
    low: float
    high: float
    brier: float | None
    ece: float | None
    passed: bool


@dataclasses.dataclass(frozen=True)
class Spoken(Event):
    """A turn of a scene: who spoke ("": the narrator), what was said, and why it ended (ids.FinishReason, "" for the narrator)."""

    speaker: str
    text: str
    turn: Count
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Acted(Event):
    """How a character of a scene was played: its `turns`, how many of them run in circles or say an earlier one again (`loops`),
    how many talk like an assistant (None: not known of its language), and a judge's `grades` from 1 to 5 by criterion
    (base/acting.py; None where it gave none). `judge`: a sentence on the judge and its exam, or why nobody has graded."""

    speaker: str
    turns: Count
    loops: Count
    assistant: Count | None
    grades: dict[str, float | None]
    judge: str = ""


@dataclasses.dataclass(frozen=True)
class Drafted(Event):
    """A card of a cast. `position`: its row in the plan; `line`: who it is; `thin`: fields that hold next to nothing; `unsaid`:
    values of its row that its texts never mention.

    `twin`: the name of one that it is too like even after `tries` drafts, "" for none, and `shared`, the words that both have.
    """

    position: Count
    card: dict[str, Any]
    line: str
    thin: list[str] = dataclasses.field(default_factory=list)
    unsaid: list[str] = dataclasses.field(default_factory=list)
    twin: str = ""
    shared: list[str] = dataclasses.field(default_factory=list)
    tries: Count = 1

"""What a long job says while it runs: frozen dataclasses, one JSON object each.

A job is a generator of these events. The command line prints them, a worker
appends them to `events.jsonl`, the studio reads that file. This module knows
nothing about what the jobs compute.
"""

import dataclasses
import json
import os
import time
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from engine.base import migrate
from engine.base.ids import ArtifactId, ErrorCode, Outcome, ReadingId, Rejection, StageId, Verdict

UNDER_WAY = "under_way"
LAST_TIME = 253_402_300_799.0  # the end of the year 9999, in seconds since the epoch
Count = Annotated[int, Field(gt=-(2**63), lt=2**63)]
Time = Annotated[float, Field(ge=0, lt=LAST_TIME)]


@dataclasses.dataclass(frozen=True)
class Event:
    """Base of all events. `time` is seconds since the epoch, set when the event is made."""

    time: Time = dataclasses.field(default_factory=time.time, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Started(Event):
    """The job has begun (or goes on, when `resumed`). `stages`: each stage with its subject, in order."""

    character: str
    model: str
    sparsity: float
    stages: list[tuple[StageId, str]]
    resumed: bool = False


@dataclasses.dataclass(frozen=True)
class Stage(Event):
    """A stage begins. `total` is its number of steps (0: unknown); `reused`: its result was on disk already.

    `subject`: what it is done for, where a job has several such stages ("Q8_0").
    """

    stage: StageId
    total: Count = 0
    reused: bool = False
    subject: str = ""


@dataclasses.dataclass(frozen=True)
class Step(Event):
    """So many steps of a stage are done. `values` are its readings, e.g. {"loss": nats a token}; under UNDER_WAY, what the steps
    under way come to."""

    stage: StageId
    done: Count
    total: Count
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    subject: str = ""


@dataclasses.dataclass(frozen=True)
class LayerTuned(Event):
    """A layer was reconstructed or tuned: its squared error on held-out rows before and after, as a share of what it is to put out.

    `after` is None where tuning was not tried, since the layers before it had lost; `used`: the new weights were kept.
    """

    stage: StageId
    layer: Count
    layers: Count
    before: float
    after: float | None
    used: bool


@dataclasses.dataclass(frozen=True)
class Writing(Event):
    """An answer is being written, one of many at once: what it is so far."""

    stage: StageId
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class ChannelUse(Event):
    """How the character uses the channels while it speaks, beside `others`: other characters, and the plain assistant ("").

    `ratio`: layers x bins, log2 of how much more strongly a group of channels acts, by root mean square; channels in their
    order. After `done` of `total` rows: `tokens` of the character, `other_tokens` of the others together.
    `subject`: the character, where a job has several.
    """

    done: Count
    total: Count
    tokens: Count
    others: list[str]
    other_tokens: Count
    ratio: list[list[float]]
    subject: str = ""


@dataclasses.dataclass(frozen=True)
class MaskSnapshot(Event):
    """The mask after `step` steps of learning (0: before them).

    `kept`: layers x bins, the share of channels kept, channels in falling order of how much they matter to others than the
    character (those of ChannelUse). `changed`: a number a layer, channels that entered the mask since the previous snapshot.
    `sparsity`: share of channels removed. `otherwise`: a number a layer, channels kept that a cut would remove which knows the
    others alone. Earlier versions had none, and another order.
    """

    step: Count
    sparsity: float
    kept: list[list[float]]
    changed: list[int]
    otherwise: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Answered(Event):
    """The model so far has answered a question that it does not learn from: the likeliest words, cut short after some tokens.

    `what`: the reading that this state of the model belongs to.
    """

    what: ReadingId
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Lines(Event):
    """The calibration lines are ready: how many of each, and how many were rejected for which reason."""

    path: str
    train: Count
    validation: Count
    test: Count
    rejected: dict[Rejection, int]


@dataclasses.dataclass(frozen=True)
class Measured(Event):
    """A fidelity reading of `what` on `lines` held-out lines (`tokens` answer tokens): see evaluation/fidelity.py.

    `step`: of a reading while something learns; `subject`: what a benchmark reads.
    """

    what: ReadingId
    split: str
    kl: float
    top1: float
    nll: float
    lines: Count
    tokens: Count
    step: Count | None = None
    subject: str = ""


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
class Untested(Event):
    """A model could not be tested, or not to the end; `sentence` is for the user. The other models go on."""

    model: str
    sentence: str


@dataclasses.dataclass(frozen=True)
class Saved(Event):
    """A file or folder of lasting value was written."""

    what: ArtifactId
    path: str
    bytes: Count
    subject: str = ""


@dataclasses.dataclass(frozen=True)
class Warned(Event):
    """Something that the user should know, and that does not stop the job."""

    sentence: str


@dataclasses.dataclass(frozen=True)
class Finished(Event):
    """The job is done. `out` is the exported folder ("" where none was asked for), `seconds` the wall time of this process."""

    out: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Proved(Event):
    """A fresh process loaded a folder with plain transformers and let it say `text`: `tokens` tokens; `seconds` in all."""

    text: str
    seconds: float
    tokens: Count


@dataclasses.dataclass(frozen=True)
class ProvedFile(Event):
    """llama.cpp loaded a GGUF file and was compared with transformers at `tokens` positions of `prompts` texts.

    `same`: positions with the same likeliest token; `ties`: others, where transformers' own two best are as good as equal.
    `kl`: nats a token, the model in fp32 against the file. `memory`: bytes.
    """

    type: str
    prompts: Count
    tokens: Count
    same: Count
    ties: Count
    kl: float
    tokens_per_second: float
    memory: Count


@dataclasses.dataclass(frozen=True)
class Timed(Event):
    """A model spoke on this machine: median of `rounds` rounds of `tokens` tokens each, one at a time; `memory` in bytes.

    `what`: dense or pruned; `dtype`: the number format of its weights.
    """

    what: str
    dtype: str
    tokens_per_second: float
    rounds: Count
    tokens: Count
    memory: Count


@dataclasses.dataclass(frozen=True)
class Placed(Event):
    """A model of a character at a file type: a point of what can be shipped, see base/frontier.py.

    `model`: the folder, or the name, of the model; `name`: what it is called; `sparsity`: 0 for the dense model; `baked`: its
    prompt is short. `kl` (nats a token) and `top1`: against the dense model under the whole prompt, on `lines` test lines. `exact`:
    the file is the one that the dense model came from; `matrix`: an importance matrix was used. Medians of `rounds` rounds by
    llama.cpp with `threads` threads, 0 before they are measured: `tokens_per_second`, `first_token_seconds` after a prompt of
    `prompt_tokens`, `memory` in bytes.
    """

    model: str
    name: str
    sparsity: float
    baked: bool
    type: str
    bytes: Count
    kl: float
    top1: float
    lines: Count
    tokens: Count
    exact: bool = False
    matrix: bool = False
    tokens_per_second: float = 0.0
    first_token_seconds: float = 0.0
    prompt_tokens: Count = 0
    memory: Count = 0
    rounds: Count = 0
    threads: Count = 0

    @property
    def key(self) -> str:
        """What tells points apart."""
        return f"{self.model}:{self.type}"


@dataclasses.dataclass(frozen=True)
class Stopped(Event):
    """The job was stopped on purpose and can go on; `sentence` is for the user."""

    sentence: str


@dataclasses.dataclass(frozen=True)
class Failed(Event):
    """The job has ended without a result. `sentence`: why; `hint`: what to do, said for a terminal; see errors.UserError."""

    sentence: str
    hint: str = ""
    code: ErrorCode = ErrorCode.OTHER


Result = TypeVar("Result")
Stream = Generator[Event, None, Result]  # a stage: yields events, and returns its result
_KINDS = {kind.__name__: kind for kind in Event.__subclasses__()}


def encode(event: Event) -> str:
    """One line of JSON with the event's kind under "event" (no line break inside)."""
    return json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)}, ensure_ascii=False, allow_nan=True)


def decode(line: str) -> Event:
    """The event of one line, also of one that an earlier version wrote. Raises ValueError for a line that is none."""
    try:
        fields: dict[str, Any] = json.loads(line)
        adapter = _adapter(fields["event"])
    except (KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"not an event: {line[:80]}") from error
    try:
        return adapter.validate_json(line, strict=True)
    except ValidationError:
        return adapter.validate_json(json.dumps(migrate.event(fields)), strict=True)


@cache
def _adapter(kind: str) -> TypeAdapter[Event]:
    return TypeAdapter(_KINDS[kind])


def append(path: Path, event: Event) -> None:
    """Append the event to a file of events with one write, so that a reader sees it whole or torn at the end.

    Begins a new line where a process that died left a torn one. What UTF-8 cannot write, of a path, becomes question marks.
    """
    data = (encode(event) + "\n").encode(errors="replace")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        os.lseek(descriptor, max(end - 1, 0), os.SEEK_SET)
        torn = os.read(descriptor, 1) not in (b"", b"\n")
        os.write(descriptor, b"\n" + data if torn else data)
    finally:
        os.close(descriptor)


def read(path: Path) -> Iterator[Event]:
    """The events of a file, in order. A torn line (no line break), and one that is no event, are passed over."""
    if not path.is_file():
        return
    *lines, _torn = path.read_bytes().split(b"\n")  # of a text's line breaks, JSON escapes this one only
    for line in lines:
        try:
            yield decode(line.decode(errors="replace"))
        except ValueError:
            continue

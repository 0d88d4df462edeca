"""What any long job says while it runs: how far it is, what it made, how it ended.

A job is a generator of events: frozen dataclasses, one JSON object each (event_file.py). The command line prints them, a worker
appends them to `events.jsonl`, the studio reads that file. What only some jobs say is in pruning_events.py and
evaluation_events.py.
"""

import dataclasses
import time
from collections.abc import Generator
from typing import Annotated, TypeVar

from pydantic import Field

from engine.base.ids import ArtifactId, ErrorCode, StageId

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

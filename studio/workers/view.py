"""A run as a page shows it: its events reduced to stages, readings, and the moments that its pictures show.

Pure: knows neither files nor the library. A view only grows: what has been handed out as a list is added to at its
end or replaced by a new list, never changed, so that other threads may read while one thread adds.
"""

import dataclasses
import math
from collections.abc import Hashable
from typing import Literal, NamedTuple

from engine.base import events, pruning_events
from engine.base.events import Event
from engine.base.ids import StageId
from studio import labels

StageState = Literal["waiting", "running", "done", "reused", "skipped", "stopped", "failed"]
Key = tuple[str, str]  # a stage and its subject
LEARNING: Key = (StageId.LEARN_MASK, "")


@dataclasses.dataclass(frozen=True)
class StageView:
    """One stage as of the event at `at` (Unix seconds). `total` 0: unknown. `seconds` counts all processes of the run."""

    key: Key
    state: StageState = "waiting"
    done: int = 0
    total: int = 0
    under_way: float = 0.0  # what the steps that are not done yet come to
    seconds: float = 0.0
    eta: float | None = None  # seconds still to go, by the pace of the present process; None: not known yet
    at: float = 0.0
    begun: float = 0.0  # Unix seconds of the present process's beginning of it
    first: int = -1  # steps that were done before the present process took over

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1; 0 where that is not known."""
        return min((self.done + self.under_way) / self.total, 1.0) if self.total else 0.0


class Moment(NamedTuple):
    """An event that a picture shows, after `at` seconds of work, in a stage."""

    at: float
    event: Event
    stage: Key


class RunView:
    """The events of one run so far. `revision` grows with every event; the same revision means the same content."""

    def __init__(self, revision: int = 0) -> None:
        self.revision = revision
        self.started: events.Started | None = None
        self.ending: events.Event | None = None  # Finished, Failed or Stopped
        self.stages: dict[Key, StageView] = {}
        self.current: Key = ("", "")
        self.writing: pruning_events.Writing | None = None  # the answer that is being written
        self.moments: list[Moment] = []  # each picture once: what a resumed run shows again takes the place of the former
        self._pictured: set[Hashable] = set()
        self._worked, self._before, self._began = 0.0, 0.0, 0.0  # seconds of work, before the present process too; its beginning
        self.readings: dict[str, pruning_events.Measured] = {}  # on the test lines, by name
        self.warnings: list[str] = []
        self.saved: list[events.Saved] = []
        self.proof: pruning_events.Proved | None = None
        self.proved_files: list[pruning_events.ProvedFile] = []
        self.timed: list[pruning_events.Timed] = []
        self.last = 0.0  # Unix seconds of the newest event

    @property
    def current_stage(self) -> StageView | None:
        """The stage under way, or the last one that was."""
        return self.stages.get(self.current)

    @property
    def sentence(self) -> str:
        """Why the run ended without a result; "" while it has not."""
        if isinstance(self.ending, events.Failed):
            return labels.error(self.ending.sentence, self.ending.hint, self.ending.code)
        return self.ending.sentence if isinstance(self.ending, events.Stopped) else ""

    def add(self, event: Event) -> None:
        """Take one more event in. Costs the same however many came before."""
        match event:
            case events.Started():
                self._started(event)
            case events.Stage():
                self._stage(event)
            case events.Step():
                self._step(event)
            case pruning_events.Measured():
                self._measured(event)
            case pruning_events.Writing():
                self.writing = event
            case events.Warned() if event.sentence not in self.warnings:
                self.warnings.append(event.sentence)
            case events.Saved():
                self.saved.append(event)
            case pruning_events.Proved():
                self.proof = event
            case pruning_events.ProvedFile():
                self.proved_files.append(event)
            case pruning_events.Timed():
                self.timed.append(event)
            case events.Finished() | events.Failed() | events.Stopped():
                self._end(event)
        if not isinstance(event, events.Failed | events.Stopped):  # the studio may write these days later
            self._worked = self._before + max(event.time - self._began, 0.0)
        if key := picture_of(event):
            self._picture(key, event)
        self.last = event.time
        self.revision += 1

    def _picture(self, key: Hashable, event: Event) -> None:
        if key in self._pictured:
            self.moments = [one for one in self.moments if picture_of(one.event) != key]
        self._pictured.add(key)
        self.moments.append(Moment(self._worked, event, self.current))

    def _set_stage(self, stage: StageView) -> None:
        self.stages = {**self.stages, stage.key: stage}

    def _started(self, event: events.Started) -> None:
        self._before, self._began = self._worked, event.time
        self.started, self.ending, self.current = event, None, ("", "")
        former = self.stages
        stages = {}
        for name in dict.fromkeys([*event.stages, *former]):
            stage = former.get(name, StageView(name))
            kept = event.resumed and stage.state in ("done", "reused")
            stages[name] = dataclasses.replace(stage, state="reused" if kept else "waiting", eta=None)
        self.stages = stages

    def _stage(self, event: events.Stage) -> None:
        self._close_stage("done", event.time)
        key, self.writing = (event.stage, event.subject), None
        former = self.stages.get(key, StageView(key))
        state: StageState = "reused" if event.reused else "running"
        self._set_stage(dataclasses.replace(former, state=state, total=event.total or (former.total if event.reused else 0),
                                            done=former.done if event.reused else 0, eta=None, at=event.time,
                                            begun=event.time, first=-1))
        self.current = key
        names = list(self.stages)
        skipped = [name for name in names[:names.index(key)] if self.stages[name].state == "waiting"]
        self.stages = {**self.stages, **{name: dataclasses.replace(self.stages[name], state="skipped") for name in skipped}}

    def _step(self, event: events.Step) -> None:
        key = (event.stage, event.subject)
        stage = self.stages.get(key, StageView(key, begun=event.time))
        under_way = event.values.get(events.UNDER_WAY, 0.0)
        first = stage.first if stage.first >= 0 else event.done if under_way else max(event.done - 1, 0)
        done = event.done + under_way
        pace = (event.time - stage.begun) / max(done - first, 1)
        self._set_stage(dataclasses.replace(
            stage, state="running", done=event.done, under_way=under_way, total=event.total, first=first, at=event.time,
            seconds=stage.seconds + max(event.time - (stage.at or event.time), 0.0),
            eta=max(pace * (event.total - done), 0.0) if event.total else None))

    def _measured(self, event: pruning_events.Measured) -> None:
        if event.split != "validation":
            self.readings = {**self.readings, event.what: event}

    def _end(self, event: events.Finished | events.Failed | events.Stopped) -> None:
        self.ending, self.writing = event, None
        if not isinstance(event, events.Finished):
            # A process that died wrote no last word; the studio wrote this one, perhaps days later.
            self._close_stage("failed" if isinstance(event, events.Failed) else "stopped", self.last)
            return
        self._close_stage("done", event.time)
        self.stages = {name: dataclasses.replace(stage, state="skipped") if stage.state == "waiting" else stage
                       for name, stage in self.stages.items()}

    def _close_stage(self, state: StageState, time: float) -> None:
        stage = self.current_stage
        if stage and stage.state == "running":
            self._set_stage(dataclasses.replace(stage, state=state, eta=None, at=time,
                                                seconds=stage.seconds + max(time - stage.at, 0.0)))


def picture_of(event: Event) -> Hashable:
    """What an event is a picture of, beside others of its kind; None where it is none."""
    match event:
        case pruning_events.ChannelUse():
            return "use", event.subject, event.done
        case pruning_events.MaskSnapshot() if event.otherwise:
            return "cut", event.step
        case pruning_events.LayerTuned() | pruning_events.LayerTuning():  # one that is tuned takes the place of its tuning
            return "layer", event.stage, event.layer
        case pruning_events.Answered():
            return "answer", event.what
        case pruning_events.Measured() if event.split == "validation" and not event.subject:
            return "held", event.what, event.step
        case events.Step() if not event.subject and math.isfinite(event.values.get("loss", math.nan)):
            return "loss", event.stage, event.done
    return None

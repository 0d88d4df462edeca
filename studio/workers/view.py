"""A run as a page shows it: its events reduced to stages, curves, readings and mask snapshots.

Pure: knows neither files nor the library. A view only grows: what has been handed out as a list is added to at its
end or replaced by a new list, never changed, so that other threads may read while one thread adds.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, TypeVar

from engine.base import events
from engine.base.events import Event
from engine.base.ids import ReadingId, StageId
from studio import labels

StageState = Literal["waiting", "running", "done", "reused", "skipped", "stopped", "failed"]
Point = TypeVar("Point", tuple[int, float], tuple[int, float, int])
Key = tuple[str, str]  # a stage and its subject
LEARNING: Key = (StageId.LEARN_MASK, "")


@dataclasses.dataclass(frozen=True)
class StageView:
    """One stage as of the event at `at` (Unix seconds). `total` 0: unknown. `seconds` counts all processes of the run."""

    key: Key
    state: StageState = "waiting"
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    eta: float | None = None  # seconds still to go, by the pace of the present process; None: not known yet
    at: float = 0.0
    begun: float = 0.0  # Unix seconds of the present process's beginning of it
    first: int = -1  # steps that were done before the present process took over


class RunView:
    """The events of one run so far. `revision` grows with every event; the same revision means the same content."""

    def __init__(self, revision: int = 0) -> None:
        self.revision = revision
        self.started: events.Started | None = None
        self.ending: events.Event | None = None  # Finished, Failed or Stopped
        self.stages: dict[Key, StageView] = {}
        self.current: Key = ("", "")
        self.losses: list[tuple[int, float]] = []  # (step, nats a token) of learning the mask
        self.recovery_losses: list[tuple[int, float]] = []
        self.validation: list[tuple[int, float, int]] = []  # (step, KL in nats a token, lines it rests on)
        self.readings: dict[str, events.Measured] = {}  # on the test lines, by name
        self.trials: dict[str, events.Measured] = {}  # on the validation lines, other than those of `validation`
        self.snapshots: list[events.MaskSnapshot] = []
        self.lines: events.Lines | None = None
        self.warnings: list[str] = []
        self.saved: list[events.Saved] = []
        self.proof: events.Proved | None = None
        self.proved_files: list[events.ProvedFile] = []
        self.timed: list[events.Timed] = []
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
        take = _TAKERS.get(type(event))
        if take:
            take(self, event)
        self.last = event.time
        self.revision += 1

    def _set_stage(self, stage: StageView) -> None:
        self.stages = {**self.stages, stage.key: stage}

    def _started(self, event: events.Started) -> None:
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
        key = (event.stage, event.subject)
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
        first = event.done - 1 if stage.first < 0 else stage.first
        pace = (event.time - stage.begun) / max(event.done - first, 1)
        self._set_stage(dataclasses.replace(
            stage, state="running", done=event.done, total=event.total, first=first, at=event.time,
            seconds=stage.seconds + max(event.time - (stage.at or event.time), 0.0),
            eta=max(pace * (event.total - event.done), 0.0) if event.total else None))
        loss = event.values.get("loss")
        if loss is not None and math.isfinite(loss):
            if event.stage == StageId.LEARN_MASK:
                self.losses = _continued(self.losses, (event.done, loss))
            elif event.stage == StageId.RECOVER:
                self.recovery_losses = _continued(self.recovery_losses, (event.done, loss))

    def _measured(self, event: events.Measured) -> None:
        if event.split != "validation":
            self.readings = {**self.readings, event.what: event}
        elif event.what == ReadingId.MASK_STEP and event.step is not None:
            self.validation = _continued(self.validation, (event.step, event.kl, event.lines))
        else:
            self.trials = {**self.trials, event.what: event}

    def _snapshot(self, event: events.MaskSnapshot) -> None:
        if self.snapshots and self.snapshots[-1].step >= event.step:  # a resumed run repeats its last steps
            self.snapshots = [one for one in self.snapshots if one.step < event.step]
        self.snapshots.append(event)

    def _lines(self, event: events.Lines) -> None:
        self.lines = event

    def _warned(self, event: events.Warned) -> None:
        if event.sentence not in self.warnings:
            self.warnings.append(event.sentence)

    def _saved(self, event: events.Saved) -> None:
        self.saved.append(event)

    def _proved(self, event: events.Proved) -> None:
        self.proof = event

    def _proved_file(self, event: events.ProvedFile) -> None:
        self.proved_files.append(event)

    def _timed(self, event: events.Timed) -> None:
        self.timed.append(event)

    def _finished(self, event: events.Finished) -> None:
        self._end(event, "done")
        self.stages = {name: dataclasses.replace(stage, state="skipped") if stage.state == "waiting" else stage
                       for name, stage in self.stages.items()}

    def _failed(self, event: events.Failed) -> None:
        self._end(event, "failed")

    def _stopped(self, event: events.Stopped) -> None:
        self._end(event, "stopped")

    def _end(self, event: Event, state: StageState) -> None:
        self.ending = event
        # A process that died wrote no last word; the studio wrote this one, perhaps days later.
        self._close_stage(state, event.time if state == "done" else self.last)

    def _close_stage(self, state: StageState, time: float) -> None:
        stage = self.current_stage
        if stage and stage.state == "running":
            self._set_stage(dataclasses.replace(stage, state=state, eta=None, at=time,
                                                seconds=stage.seconds + max(time - stage.at, 0.0)))


def _continued(points: list[Point], point: Point) -> list[Point]:
    """The list with the point at its end; what a resumed run does over is replaced."""
    if points and points[-1][0] >= point[0]:
        points = [one for one in points if one[0] < point[0]]
    points.append(point)
    return points


_TAKERS: dict[type[Event], Callable[..., None]] = {
    events.Started: RunView._started, events.Stage: RunView._stage, events.Step: RunView._step,
    events.Measured: RunView._measured, events.MaskSnapshot: RunView._snapshot, events.Lines: RunView._lines,
    events.Warned: RunView._warned, events.Saved: RunView._saved, events.Proved: RunView._proved,
    events.ProvedFile: RunView._proved_file, events.Timed: RunView._timed,
    events.Finished: RunView._finished, events.Failed: RunView._failed, events.Stopped: RunView._stopped,
}

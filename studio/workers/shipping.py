"""Measuring what a character can be shipped as, by `python -m engine frontier`.

What was measured lies in the character's folder, and a measurement that was stopped goes on there.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from engine.base.errors import UserError
from engine.base.events import Event, Failed, Finished, Placed, Stopped
from engine.base.files import explain_write_errors, is_file, write_json
from engine.base.frontier import RESULT, read_points
from studio import labels
from studio.settings import Settings
from studio.workers import process
from studio.workers.single import Single

STOPPED = "Stopped. What was measured is kept: Measure goes on from there."
DIED = "The measurement ended unexpectedly; what was measured is kept. Press Measure to go on."
BY_SYSTEM = ("The measurement ended because memory ran out; what was measured is kept. Close other programs, then press Measure "
             "to go on.")


class Shipping(Single):
    """The measurement under way, if there is one."""

    what, room = "measurement", "export"

    def __init__(self, settings: Settings, touch: Callable[[str], None] = lambda room: None) -> None:
        super().__init__(settings, touch)
        self._points: dict[str, Placed] = {}  # of the measurement under way, or the last one
        self.endings: dict[str, str] = {}  # how a character's last measurement ended; "": well
        self.revision = 0

    def folder(self, character: str) -> Path:
        """Where a character's measurements lie."""
        return self.settings.shipping / character

    def points(self, character: str) -> list[Placed]:
        """What is known of a character: so far, while it is measured."""
        with self._lock:
            if self._worker and self._character == character:
                return list(self._points.values())
        file = self.folder(character) / RESULT
        try:
            return read_points(file) if is_file(file) else []
        except UserError:
            return []

    def begin(self, character: str, folders: Sequence[Path], model: str, lines: Path) -> None:
        """Measure the models in `folders` and the dense `model` on `lines`. Raises UserError."""
        with self._lock:
            self._require_none()
            folder = self.folder(character)
            with explain_write_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "events.jsonl").unlink(missing_ok=True)
                write_json(folder / "job.json", {
                    "runs": [str(one) for one in folders], "model": model, "lines": str(lines), "workdir": str(folder),
                    "json_events": True, "leash": True})
            self._points = {}
            self.endings.pop(character, None)
            self._start(character, ["frontier", "--job", str(folder / "job.json")], folder / "log.txt", folder / "events.jsonl",
                        lambda last: self._end(character, last))

    def _end(self, character: str, last: Event | None) -> None:
        if isinstance(last, Failed):
            ending = labels.error(last.sentence, last.hint, last.code)
        elif isinstance(last, Stopped):
            ending = STOPPED
        else:
            log_file = self.folder(character) / "log.txt"
            ending = "" if isinstance(last, Finished) else BY_SYSTEM if process.ran_out_of_memory(log_file) else DIED
        with self._lock:
            self.endings[character] = ending
            self.revision += 1

    def _take(self, event: Event) -> None:
        with self._lock:
            self.revision += 1
            if isinstance(event, Placed):
                self._points[event.key] = event
            super()._take(event)

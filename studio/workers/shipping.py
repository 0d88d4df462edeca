"""Measuring what a character can be shipped as: one process at a time, `python -m engine frontier`, on a leash.

What was measured lies in the character's folder, and a measurement that was stopped goes on there. Independent of the page.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.base.errors import UserError
from engine.base.events import Event, Failed, Finished, Placed, Stage, Step, Stopped, Warned
from engine.base.files import explain_write_errors, is_file, write_json
from engine.base.frontier import RESULT, read_points
from studio import labels
from studio.settings import Settings
from studio.workers import process
from studio.workers.process import Worker
from studio.workers.watch import Tail

log = logging.getLogger(__name__)
STOPPED = "Stopped. What was measured is kept: Measure goes on from there."
DIED = "The measurement ended unexpectedly; what was measured is kept. Press Measure to go on."
BY_SYSTEM = ("The measurement ended because memory ran out; what was measured is kept. Close other programs, then press Measure "
             "to go on.")
LOOK = 0.3  # seconds between two looks at the process's events


class Shipping:
    """The measurement under way, if there is one. Thread-safe. `touch("export")` is called when it has news."""

    def __init__(self, settings: Settings, touch: Callable[[str], None] = lambda room: None) -> None:
        self.settings = settings
        self._touch = touch
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None
        self._character = ""
        self._points: dict[str, Placed] = {}  # of the measurement under way, or the last one
        self.progress = ("", 0, 0)  # stage, done, total
        self.endings: dict[str, str] = {}  # how a character's last measurement ended; "": well
        self.warnings: list[str] = []
        self.revision = 0

    def character(self) -> str:
        """The character that is measured; "" while there is none."""
        with self._lock:
            return self._character if self._worker else ""

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
            if self._worker:
                raise UserError("A measurement is under way already.", "Stop it first, or wait for its end.")
            folder = self.folder(character)
            with explain_write_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "events.jsonl").unlink(missing_ok=True)
                write_json(folder / "job.json", {
                    "runs": [str(one) for one in folders], "model": model, "lines": str(lines), "workdir": str(folder),
                    "json_events": True, "leash": True})
            self._character, self._points = character, {}
            self.progress, self.warnings = ("", 0, 0), []
            self.endings.pop(character, None)
            try:
                worker = self._worker = process.spawn(self.settings, ["frontier", "--job", str(folder / "job.json")],
                                                      folder / "log.txt")
            except OSError as error:
                raise UserError(f"The measurement cannot be started ({error.strerror}).") from error
            self._thread = threading.Thread(target=self._follow, args=(worker, character), name="shipping", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the measurement after its step."""
        with self._lock:
            if self._worker:
                process.interrupt(self._worker.identity)

    def close(self) -> None:
        """End the measurement, for the studio is closed."""
        with self._lock:
            worker, thread = self._worker, self._thread
        if worker:
            process.kill(worker.identity)
        if thread:
            thread.join(5)

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the measurement; whether there is none any more."""
        if self._thread:
            self._thread.join(seconds)
        return not self.character()

    def _follow(self, worker: Worker, character: str) -> None:
        folder = self.folder(character)
        tail = Tail(folder / "events.jsonl")
        last: Event | None = None
        try:
            gone = False
            while not gone and not isinstance(last, Finished | Stopped | Failed):  # a process takes its time to leave
                gone = worker.exit_code is not None  # before the reading: what comes in between is read then
                for event in tail.read_new():
                    last = event
                    self._take(event)
                    self._touch("export")
                if not gone:
                    threading.Event().wait(LOOK)
        except Exception:
            log.exception("a measurement could not be followed")
            process.kill(worker.identity)
        if isinstance(last, Failed):
            ending = labels.error(last.sentence, last.hint, last.code)
        elif isinstance(last, Stopped):
            ending = STOPPED
        else:
            ending = "" if isinstance(last, Finished) else BY_SYSTEM if process.ran_out_of_memory(folder / "log.txt") else DIED
        worker.let_go()
        with self._lock:
            self._worker = None
            self.endings[character] = ending
            self.revision += 1
        self._touch("export")

    def _take(self, event: Event) -> None:
        with self._lock:
            self.revision += 1
            match event:
                case Placed():
                    self._points[event.key] = event
                case Stage():
                    self.progress = (labels.stage(event.stage, event.subject), 0, event.total)
                case Step():
                    self.progress = (labels.stage(event.stage, event.subject), event.done, event.total)
                case Warned():
                    self.warnings.append(event.sentence)

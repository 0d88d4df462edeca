"""A process of the engine that writes events and of which there is one at a time: started, followed to its end, stopped.

On a leash, it ends with the studio. Independent of the page.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.events import Event, Failed, Finished, Stage, Step, Stopped, Warned
from engine.base.files import explain_write_errors, write_json
from studio import labels
from studio.settings import Settings
from studio.workers import process
from studio.workers.process import Worker
from studio.workers.watch import Tail

log = logging.getLogger(__name__)
LOOK = 0.3  # seconds between two looks at the process's events


class Single:
    """The process under way, if there is one. Thread-safe. `what`: what it is called; `touch(room)` is called when it has news."""

    what, room = "", ""

    def __init__(self, settings: Settings, touch: Callable[[str], None] = lambda room: None) -> None:
        self.settings = settings
        self.progress = ("", 0, 0)  # stage, done, total
        self.warnings: list[str] = []
        self._touch = touch
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None
        self._character = ""
        self._closed = False

    def character(self) -> str:
        """The character that it is about; "" while there is none."""
        with self._lock:
            return self._character if self._worker else ""

    def stop(self) -> None:
        """End the process after its step; what it has done is kept."""
        with self._lock:
            if self._worker:
                process.interrupt(self._worker.identity)

    def close(self) -> None:
        """End the process, for the studio is closed."""
        with self._lock:
            self._closed = True
            worker, thread = self._worker, self._thread
        if worker:
            process.kill(worker.identity)
        if thread:
            thread.join(5)

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the process; whether there is none any more."""
        if self._thread:
            self._thread.join(seconds)
        return not self.character()

    def _require_none(self) -> None:
        """Raise UserError while there is one. Under the lock."""
        if self._worker:
            article = "An" if self.what[0] in "aeiou" else "A"
            raise UserError(f"{article} {self.what} is under way already.", "Stop it first, or wait for its end.")

    def _start(self, character: str, arguments: Sequence[str], log_file: Path, events: Path,
               end: Callable[[Event | None], None]) -> None:
        """Start the process and follow its events to the last one, which `end` gets. Under the lock. Raises UserError."""
        self.progress, self.warnings = ("", 0, 0), []
        try:
            worker = process.spawn(self.settings, arguments, log_file)
        except OSError as error:
            raise UserError(f"The {self.what} cannot be started ({error.strerror}).") from error
        self._worker, self._character = worker, character
        self._thread = threading.Thread(target=self._follow, args=(worker, events, end), name=self.what, daemon=True)
        self._thread.start()

    def _follow(self, worker: Worker, events: Path, end: Callable[[Event | None], None]) -> None:
        tail, last, gone = Tail(events), None, False
        try:
            while not gone and not isinstance(last, Finished | Stopped | Failed):  # a process takes its time to leave
                gone = worker.exit_code is not None  # before the reading: what comes in between is read then
                for event in tail.read_new():
                    last = event
                    self._take(event)
                    self._touch(self.room)
                if not gone:
                    threading.Event().wait(LOOK)
        except Exception:
            log.exception("a %s could not be followed", self.what)
            process.kill(worker.identity)
        try:
            end(last)
        except UserError:
            log.exception("the end of a %s could not be written down", self.what)
        worker.let_go()
        with self._lock:
            self._worker = None
        self._touch(self.room)

    def _take(self, event: Event) -> None:
        """Make use of an event."""
        match event:
            case Stage():
                self.progress = (labels.stage(event.stage, event.subject), 0, event.total)
            case Step():
                self.progress = (labels.stage(event.stage, event.subject), event.done, event.total)
            case Warned():
                self.warnings.append(event.sentence)


class Resumable(Single):
    """One that leaves what it has done in a folder for each character, and goes on there when it is begun again.

    `verb`: of the engine; `again`: the button that begins it. `endings`: how a character's last one ended, "" for well; `revision`
    grows with every piece of news.
    """

    verb, again = "", ""

    def __init__(self, settings: Settings, root: Path, touch: Callable[[str], None] = lambda room: None) -> None:
        super().__init__(settings, touch)
        self.root = root
        self.endings: dict[str, str] = {}
        self.revision = 0

    def folder(self, character: str) -> Path:
        """Where a character's results lie."""
        return self.root / character

    def stamp(self) -> tuple[Any, ...]:
        """Changes whenever there is something new to show."""
        return self.revision, self.character()

    def _begin(self, character: str, job: Mapping[str, Any], files: Mapping[str, Any] | None = None) -> None:
        """Start the job, with `files` (name to JSON) beside it. Under the lock, where there is none. Raises UserError."""
        folder = self.folder(character)
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in (files or {}).items():
                write_json(folder / name, content)
            write_json(folder / "job.json", {**job, "workdir": str(folder), "json_events": True, "leash": True})
            (folder / "events.jsonl").unlink(missing_ok=True)  # last: a job may hold what is in it
        self.endings.pop(character, None)
        self._start(character, [self.verb, "--job", str(folder / "job.json")], folder / "log.txt", folder / "events.jsonl",
                    lambda last: self._end(character, last))

    def _end(self, character: str, last: Event | None) -> None:
        kept = f"What was done is kept: “{self.again}” takes it up from there."
        if isinstance(last, Failed):
            ending = labels.error(last.sentence, last.hint, last.code)
        elif isinstance(last, Stopped):
            ending = f"Stopped. {kept}"
        elif isinstance(last, Finished):
            ending = ""
        elif process.ran_out_of_memory(self.folder(character) / "log.txt"):
            ending = f"The {self.what} ended because memory ran out. Close other programs first. {kept}"
        else:
            ending = f"The {self.what} ended unexpectedly. {kept}"
        with self._lock:
            self.endings[character] = ending
            self.revision += 1

    def _take(self, event: Event) -> None:
        with self._lock:
            self.revision += 1
            super()._take(event)

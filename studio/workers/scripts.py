"""Tests of characters by their scripts: one process at a time, whose results go into the library as they come.

The process is `python -m engine script`; on a leash, it ends with the studio. Independent of the page.
"""

import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Any

from engine.base.errors import UserError
from engine.base.events import Event, Failed, Finished, Graded, Preferred, Stage, Step, Stopped, Untested, Warned
from engine.base.files import explain_write_errors, write_json
from engine.base.sampling import read_params
from studio import labels
from studio.settings import Settings
from studio.store import characters, script_runs
from studio.store.database import Store
from studio.store.script_runs import ScriptAnswer, ScriptRun
from studio.workers import process
from studio.workers.process import Worker
from studio.workers.watch import Tail

log = logging.getLogger(__name__)
CLOSED = "The studio was closed before the test was complete."
DIED = "The test ended unexpectedly; what was answered is kept. Run it again."
BY_SYSTEM = ("The test ended because memory ran out; what was answered is kept. Close other programs or choose a smaller model, "
             "then run it again.")
LOOK = 0.3  # seconds between two looks at the process's events


class Scripts:
    """The test under way, if there is one. Thread-safe. `touch("compare")` is called when it has news."""

    def __init__(self, settings: Settings, store: Store, touch: Callable[[str], None] = lambda room: None) -> None:
        self.settings = settings
        self.store = store
        self._touch = touch
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._runs: list[ScriptRun] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self.progress = ("", 0, 0)  # stage, done, total
        self.warnings: list[str] = []

    def start(self) -> None:
        """Clean up what an earlier studio left."""
        script_runs.end(self.store, [one.id for one in script_runs.running(self.store)], "stopped", CLOSED)

    def character(self) -> str:
        """The character under test; "" while there is none."""
        with self._lock:
            return self._runs[0].character if self._worker else ""

    def begin(self, character: str, models: Sequence[tuple[str | None, str]], sampling: dict[str, Any], seed: int,
              judge: tuple[str, str] | None = None, type: str = "Q8_0") -> list[ScriptRun]:
        """Ask a character's present version all of its script on each of `models`: (run or None, model). Raises UserError.

        `type`: of the GGUF files, the same for all models.
        """
        with self._lock:
            if self._worker:
                raise UserError("A test is under way already.", "Stop it first, or wait for its end.")
            head = characters.head(self.store, character)
            folder = self.settings.script
            shutil.rmtree(folder, ignore_errors=True)
            with explain_write_errors(folder):
                folder.mkdir(parents=True)
                write_json(folder / "card.json", head.card)
            self._runs = script_runs.begin(self.store, character, head.number, models, seed, sampling, " ".join(judge or ()))
            url, name = judge or ("", "")
            write_json(folder / "job.json", {
                "card": str(folder / "card.json"), "models": [model for _, model in models], "judge": url, "judge_model": name,
                "sampling": {**read_params(sampling).as_dict(), "seed": seed}, "workdir": str(folder / "work"),
                "type": type, "json_events": True, "leash": True})
            self.progress, self.warnings = ("", 0, 0), []
            try:
                arguments = ["script", "--job", str(folder / "job.json")]
                worker = self._worker = process.spawn(self.settings, arguments, folder / "log.txt")
            except OSError as error:
                script_runs.end(self.store, [one.id for one in self._runs], "failed", f"The test cannot be started ({error}).")
                raise UserError(f"The test cannot be started ({error.strerror}).") from error
            self._thread = threading.Thread(target=self._follow, args=(worker, self._runs), name="script", daemon=True)
            self._thread.start()
            return self._runs

    def stop(self) -> None:
        """End the test after the answer under way; what was answered is kept."""
        with self._lock:
            if self._worker:
                process.interrupt(self._worker.identity)

    def close(self) -> None:
        """End the test, for the studio is closed."""
        with self._lock:
            self._closed = True
            worker, thread = self._worker, self._thread
        if worker:
            process.kill(worker.identity)
        if thread:
            thread.join(5)

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the test; whether there is none any more."""
        if self._thread:
            self._thread.join(seconds)
        return not self.character()

    def _follow(self, worker: Worker, found: list[ScriptRun]) -> None:
        tail = Tail(self.settings.script / "work" / "events.jsonl")
        last: Event | None = None
        try:
            gone = False
            while not gone and not isinstance(last, Finished | Stopped | Failed):  # a process takes its time to leave
                gone = worker.exit_code is not None  # before the reading: what comes in between is read then
                for event in tail.read_new():
                    last = event
                    self._take(event, found)
                    self._touch("compare")
                if not gone:
                    threading.Event().wait(LOOK)
        except Exception:
            log.exception("the test of a character could not be followed")
            process.kill(worker.identity)
        ended = BY_SYSTEM if process.ran_out_of_memory(self.settings.script / "log.txt") else DIED
        unheard = ("stopped", CLOSED) if self._closed else ("failed", ended)
        state, sentence = {Finished: ("done", ""), Stopped: ("stopped", "")}.get(type(last), unheard)
        if isinstance(last, Failed):
            sentence = labels.error(last.sentence, last.hint, last.code)
        try:
            script_runs.end(self.store, [one.id for one in found], state, sentence)
        except UserError:
            log.exception("the end of a test could not be written down")
        worker.let_go()
        with self._lock:
            self._worker = None
        self._touch("compare")

    def _take(self, event: Event, found: list[ScriptRun]) -> None:
        by_model = {one.model: one.id for one in found}
        match event:
            case Graded():
                script_runs.add_answer(self.store, by_model[event.model], ScriptAnswer(
                    event.question, event.kind, event.lines, event.answers, event.verdict, event.checks, event.score, None))
            case Preferred():
                script_runs.prefer(self.store, by_model[event.first], event.question, event.points)
            case Untested():
                script_runs.end(self.store, [by_model[event.model]], "failed", event.sentence)
            case Stage():
                self.progress = (labels.stage(event.stage, event.subject), 0, event.total)
            case Step():
                self.progress = (labels.stage(event.stage, event.subject), event.done, event.total)
            case Warned():
                self.warnings.append(event.sentence)

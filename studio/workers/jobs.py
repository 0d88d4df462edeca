"""The queue of long jobs: one thread starts them, follows their processes and handles their ends.

The library says which runs there are; the processes say which of them live. Independent of the page, and of what the
command lines mean (commands.py) nor what an ended run leaves (ending.py).
"""

import dataclasses
import logging
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.questions import require_enough
from studio.settings import Settings
from studio.store import characters, lines, runs, values
from studio.store.database import Store
from studio.store.runs import ACTIVE, SILENT, Run
from studio.workers import process
from studio.workers.commands import check_spec, export_spec, job_file, prepare, result_folder
from studio.workers.ending import Cause, Ending, settle
from studio.workers.process import Identity, Worker
from studio.workers.sweeping import sweep

log = logging.getLogger(__name__)
NOT_KEPT = "The run has ended, but its result could not be added to the library. Press Resume to try again."
TRIES = 5  # at bringing the library up to date, before a run is called failed


@dataclasses.dataclass
class _Live:
    """A run that the library calls active. `worker` is None for a process of a former studio, or where none was found."""

    run: Run
    worker: Worker | None
    identity: Identity | None
    offset: int = 0
    log_offset: int = 0
    cause: Cause = ""
    deadline: float | None = None  # of the monotonic clock
    tries: int = 0

    def exit_code(self) -> int | None:
        return self.worker.exit_code if self.worker else None

    def is_gone(self) -> bool:
        if self.worker:
            return self.worker.exit_code is not None
        return self.identity is None or not process.is_alive(self.identity)


class Jobs:
    """The runs of one library on this machine. Thread-safe; one at a time for one data folder."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._lock = threading.Lock()  # of _live, and of a start or a stop as a whole
        self._live: dict[str, _Live] = {}
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Clean up what an earlier studio left, then start on the queue."""
        self.adopt()
        self._look_after_all()
        still = (result_folder(self.settings, live.run) for live in self._live.values())
        sweep(self.settings, [folder for folder in still if folder])
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def adopt(self) -> None:
        """Handle runs that the library calls active but no process works on: left by an earlier studio, or from a backup."""
        with self._lock:
            for run in runs.list_runs(self.store, states=ACTIVE):
                if run.id not in self._live:
                    self._adopt(run)
        for run in runs.list_runs(self.store, kinds=["lines"], states=["done"]):
            self._go_on(run.id)
        self._wake.set()

    def close(self, seconds: float = 5.0) -> None:
        """Tell the running jobs to save and exit, and wait a little for them; the next start handles the others."""
        self._closing = True
        self._wake.set()
        if self._thread:
            self._thread.join()
        with self._lock:
            for live in self._live.values():
                live.cause = live.cause or "closed"
                if live.worker:
                    live.worker.let_go()
        end = time.monotonic() + seconds
        while self._live and time.monotonic() < end:
            self._look_after_all()
            time.sleep(0.05)

    def submit_lines(self, character_id: str, spec: dict[str, Any], name: str = "") -> Run:
        """Queue the making of calibration lines for a character's present version. `spec`: of engine.base.job."""
        check_spec(spec)
        version = characters.head(self.store, character_id).number
        name = name or f"Lines for version {version} of the card"
        return self._queued(runs.add(self.store, character_id, version, "lines", name, spec))

    def submit_prune(self, character_id: str, spec: dict[str, Any], line_set_id: str, name: str) -> Run:
        """Queue the pruning of a model down to a character's present version, by an approved set of lines."""
        check_spec(spec)
        line_set = lines.line_set(self.store, line_set_id)
        if line_set is None or line_set.deleted or line_set.character != character_id:
            raise UserError("These lines are not in the library.", "Choose other ones.")
        if line_set.state != "approved":
            raise UserError("These lines are not approved yet.", "Read them through and approve them first.")
        version = characters.head(self.store, character_id).number
        return self._queued(runs.add(self.store, character_id, version, "prune", name, spec, line_set_id))

    def follow(self, lines_run: str, spec: dict[str, Any], name: str) -> None:
        """Prune by the lines that a run makes as soon as they are there, though nobody has read them."""
        check_spec(spec)
        values.set_value(self.store, _then_key(lines_run), {"spec": spec, "name": name})

    def follows(self, lines_run: str) -> bool:
        """Whether a prune follows this run by itself."""
        return bool(values.get_value(self.store, _then_key(lines_run), {}))

    def submit_export(self, run_id: str, name: str, zip: bool, more: dict[str, Any] | None = None) -> Run:
        """Queue the export of a finished prune run to a folder of its own. `more`: see export_spec. Raises UserError."""
        with self._lock:  # two exports at once must not choose the same folder
            source, spec = export_spec(self.settings, self.store, run_id, name, zip, more or {})
            run = runs.add(self.store, source.character, source.version, "export", name, spec)
        return self._queued(run)

    def stop(self, run_id: str) -> None:
        """Ask a run to save and end after the step under way; by force after settings.grace_seconds."""
        self._end(run_id, "asked")

    def kill(self, run_id: str) -> None:
        """End a run at once; what its last step saved is kept."""
        self._end(run_id, "killed")

    def resume(self, run_id: str) -> Run:
        """Queue a stopped or failed run again; it goes on where it was. Raises UserError for any other."""
        return self._queued(runs.requeue(self.store, run_id))

    def shown_state(self, run: Run) -> str:
        """The run's state; SILENT where one that should be working has given no sign of life for settings.silence_seconds."""
        silent = run.state in ("running", "stopping") and self.silent_seconds(run) > self.settings.silence_seconds
        return SILENT if silent else run.state

    def silent_seconds(self, run: Run) -> float:
        """Seconds since the run's last event or line in its log, or its beginning."""
        heard = run.begun or run.made
        for path in (self.settings.run_events(run.id), self.settings.run_folder(run.id) / "log.txt"):
            try:
                heard = max(heard, path.stat().st_mtime)
            except OSError:
                continue
        return max(time.time() - heard, 0.0)

    def _go_on(self, lines_run: str) -> None:
        """Queue the prune that was to follow, if there is one; where it cannot be, the run says why, and its lines stay."""
        run, then = runs.get(self.store, lines_run), values.get_value(self.store, _then_key(lines_run), {})
        if not (then and run and run.state == "done" and run.line_set):
            return
        values.set_value(self.store, _then_key(lines_run), {})
        try:
            require_enough((line.question for line in lines.lines(self.store, run.line_set)), "The set")
            lines.rename_set(self.store, run.line_set, f"{run.name}, not read")
            lines.approve(self.store, run.line_set)
            self.submit_prune(run.character, then["spec"], run.line_set, then["name"])
        except UserError as error:
            runs.update(self.store, lines_run, sentence=f"The lines are there, but pruning did not begin. {error}")

    def _queued(self, run: Run) -> Run:
        self._wake.set()
        return run

    def _end(self, run_id: str, cause: Cause) -> None:
        with self._lock:
            live = self._live.get(run_id)
            if live is None:
                runs.update_if(self.store, run_id, ("queued",), state="stopped", ended=time.time(),
                               sentence="Stopped before it began. Press Resume to queue it again.")
                return
            runs.update_if(self.store, run_id, ("starting", "running"), state="stopping")
            if live.identity is None:
                return
            live.cause = cause
            if cause == "killed":
                process.kill(live.identity)
            elif live.deadline is None:  # a second signal would end it in the middle of its step
                live.deadline = time.monotonic() + self.settings.grace_seconds
                process.interrupt(live.identity)
        self._wake.set()

    def _work(self) -> None:
        while not self._closing:
            self._look_after_all()
            try:
                while not self._closing and self._start_next():
                    pass
            except Exception:
                log.exception("the queue could not go on; it tries again")
            self._wake.wait(self.settings.poll_seconds)
            self._wake.clear()

    def _adopt(self, run: Run) -> None:
        """A run that a former studio left: its process may be saving at this moment, for its leash is loose."""
        # By its job's file, not by the number in the library: that may be a copy, and the number that of the original's process.
        identity = next(process.running_with(partial(_is_file, job_file(self.settings, run.id))), None)
        live = _Live(run, None, identity, cause="left")
        if not live.is_gone():
            live.deadline = time.monotonic() + self.settings.grace_seconds
            runs.update(self.store, run.id, state="stopping")
        self._live[run.id] = live

    def _start_next(self) -> bool:
        """Start the next run of the queue; False when none may start now."""
        with self._lock:
            run = runs.claim_next(self.store, self.settings.jobs_at_once)
            if run is None:
                return False
            try:
                self._start(run)
            except Exception as error:
                if run.id in self._live:  # it runs, though the library could not record that; its end will be handled
                    raise
                if not isinstance(error, UserError | OSError):
                    log.exception("run %s could not be started", run.id)
                sentence = str(error) if isinstance(error, UserError) else f"The run could not be started ({error})."
                runs.update(self.store, run.id, state="failed", ended=time.time(), sentence=sentence)
            return True

    def _start(self, run: Run) -> None:
        arguments = prepare(self.settings, self.store, run)
        events, log_file = self.settings.run_events(run.id), self.settings.run_folder(run.id) / "log.txt"
        offset, log_offset = (path.stat().st_size if path.exists() else 0 for path in (events, log_file))
        worker = process.spawn(self.settings, arguments, log_file)
        self._live[run.id] = _Live(run, worker, worker.identity, offset, log_offset)
        runs.update(self.store, run.id, state="running", pid=worker.identity.pid, process_started=worker.identity.started)

    def _look_after_all(self) -> None:
        for live in list(self._live.values()):
            try:
                self._look_after(live)
            except Exception:
                log.exception("run %s could not be handled; it is tried again", live.run.id)

    def _look_after(self, live: _Live) -> None:
        if not live.is_gone():
            if live.deadline is not None and time.monotonic() > live.deadline and live.identity:
                live.cause = "left" if live.cause == "left" else "overdue"
                process.kill(live.identity)
            return
        ending = Ending(live.cause, live.exit_code(), live.offset, live.log_offset)
        live.tries += 1
        try:
            settle(self.settings, self.store, live.run, ending)
        except Exception:
            if live.tries < TRIES:
                raise
            log.exception("run %s: given up", live.run.id)
            runs.update(self.store, live.run.id, state="failed", ended=time.time(),
                        sentence=NOT_KEPT)
        if live.worker:
            live.worker.let_go()
        if live.run.kind == "lines":
            self._go_on(live.run.id)
        with self._lock:
            del self._live[live.run.id]
        self._wake.set()  # the next in the queue need not wait


def _then_key(lines_run: str) -> str:
    """Where the prune that follows a run of lines is kept."""
    return f"then:{lines_run}"


def _is_file(file: Path, word: str) -> bool:
    """Whether a word of a command line names this very file, by whichever path."""
    try:
        return word.endswith(file.name) and file.samefile(word)
    except (OSError, ValueError):
        return False

"""Pruning jobs of several characters: one after the other in child processes here, or side by side as tasks of a Ray cluster.

Each job is `python -m engine prune --job FILE --resume` in its own work folder. A job whose machine is lost starts again on another
one, and goes on from what its work folder holds, so all machines must see that folder at the same path.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from engine.base import event_file, events
from engine.base.files import MANIFEST, PACKAGES

STOPPED = 130  # the exit code of a job that was stopped and can go on
MOST_LOSSES = 10  # machines that one job may lose
_PATIENCE = 120.0  # seconds for the job's former process, whose machine or owner is gone, to end its step
_LOOK = 0.5  # seconds between two looks


@dataclass(frozen=True)
class CastJob:
    """A job: its file, work folder (events.jsonl is there) and the folder that it makes; None: it makes a character's lines."""

    id: str
    file: Path
    work: Path
    out: Path | None

    @property
    def is_done(self) -> bool:
        """Whether the folder is there, which appears whole or not at all, or the lines and extra samples are."""
        if self.out is not None:
            return (self.out / MANIFEST).is_file()
        return (self.work / "lines.jsonl").is_file() and isinstance(_last_event(self), events.Finished)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: the exit code of `prune`, and a sentence where it failed."""

    code: int
    sentence: str = ""


class Child:
    """The process of a job. It holds the job's lock as long as it lives, even when the process that started it is gone."""

    def __init__(self, job: CastJob, threads: int) -> None:
        """`threads`: that compute; 0: as many as there are cores. Raises BlockingIOError where another process has the job."""
        self.job = job
        with job.file.with_suffix(".lock").open("a") as lock, job.file.with_suffix(".log").open("ab") as errors:
            _claim(lock)
            environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", "prune", "--job", str(job.file), "--resume", "--leash", "--json"],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, cwd=PACKAGES, env=environment,
                start_new_session=True, pass_fds=(lock.fileno(),) if os.name == "posix" else ())

    def stop(self) -> None:
        """Ask it to end after the step under way; it also does so by itself when the process that started it is gone."""
        assert self.process.stdin
        with suppress(OSError):
            self.process.stdin.close()

    def outcome(self) -> Outcome:
        """How it ended. Looks now and then: Ray's way of cancelling a task does not interrupt a wait."""
        while (code := self.process.poll()) is None:
            time.sleep(_LOOK)
        if code in (0, STOPPED) or self.job.is_done:
            return Outcome(0 if self.job.is_done else STOPPED)
        return Outcome(code, _last_words(self.job))


def _claim(lock: IO[str]) -> None:
    """Hold the lock of a job. Raises BlockingIOError where its former process does not let go of it in time."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where Ray's clusters are experimental
        return
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(_LOOK)


def _last_event(job: CastJob) -> events.Event | None:
    *_, last = [None, *event_file.read(job.work / "events.jsonl")]
    return last


def _last_words(job: CastJob) -> str:
    """Why a job failed: by its last event, or what its process wrote at last."""
    last = _last_event(job)
    if isinstance(last, events.Failed):
        return f"{last.sentence} {last.hint}".strip()
    log = job.file.with_suffix(".log")
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1][-300:] if lines else "Its process was ended."


def run(job: CastJob, threads: int) -> Outcome:
    """Do a job to its end, in a child of this process. KeyboardInterrupt, which is how Ray cancels a task, stops it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a cluster that a script started in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if job.is_done:
        return Outcome(0)
    try:
        child = Child(job, threads)
    except BlockingIOError:
        return Outcome(2, f"Another process is at work in {job.work}.")
    try:
        return child.outcome()
    finally:
        child.stop()
        child.process.wait()


class Crew(Protocol):
    """Does jobs."""

    @property
    def busy(self) -> bool:
        """Whether there is more to do."""

    def step(self) -> dict[str, Outcome]:
        """Begin what can begin; which jobs have ended since, by id."""

    def stop(self) -> None:
        """Stop all after the step under way."""


class Here:
    """One job after the other, on this machine."""

    def __init__(self, jobs: Sequence[CastJob], threads: int) -> None:
        self.waiting, self.threads = list(jobs), threads
        self.child: Child | None = None

    @property
    def busy(self) -> bool:
        """See Crew."""
        return bool(self.child or self.waiting)

    def step(self) -> dict[str, Outcome]:
        """See Crew."""
        if self.child is None and self.waiting:
            job = self.waiting.pop(0)
            try:
                self.child = Child(job, self.threads)
            except BlockingIOError:
                return {job.id: Outcome(2, f"Another process is at work in {job.work}.")}
        if self.child is None or self.child.process.poll() is None:
            return {}
        child, self.child = self.child, None
        return {child.job.id: child.outcome()}

    def stop(self) -> None:
        """See Crew."""
        self.waiting = []
        if self.child:
            self.child.stop()


class OnRay:
    """All jobs side by side, as far as the cluster has cores; there must be a connection to it."""

    def __init__(self, jobs: Sequence[CastJob], threads: int, gpus: float) -> None:
        import ray

        task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=MOST_LOSSES)(run)
        self._ids: dict[Any, str] = {task.options(name=f"prune {job.id}").remote(job, threads): job.id for job in jobs}

    @property
    def busy(self) -> bool:
        """See Crew."""
        return bool(self._ids)

    def step(self) -> dict[str, Outcome]:
        """See Crew."""
        import ray

        if not self._ids:
            return {}
        ready, _ = ray.wait(list(self._ids), num_returns=len(self._ids), timeout=0)
        return {self._ids.pop(one): _outcome(one) for one in ready}

    def stop(self) -> None:
        """See Crew."""
        import ray

        for one in self._ids:
            ray.cancel(one)


def _outcome(task: Any) -> Outcome:
    import ray
    from ray.exceptions import RayError, TaskCancelledError

    try:
        found: Outcome = ray.get(task)
        return found
    except (TaskCancelledError, KeyboardInterrupt):
        return Outcome(STOPPED)
    except RayError as error:
        if isinstance(getattr(error, "cause", None), KeyboardInterrupt):
            return Outcome(STOPPED)
        return Outcome(1, f"Its machine was lost too often, or something went wrong there ({type(error).__name__}).")

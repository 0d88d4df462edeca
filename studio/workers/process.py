"""Worker processes: starting one, telling whether it lives, asking it to stop, ending it.

A process is known by its number and its start time, because systems give the
numbers out again. Knows nothing of what a worker computes.
"""

import dataclasses
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from engine.base.files import PACKAGES
from engine.base.process import says_out_of_memory
from studio.settings import Settings

log = logging.getLogger(__name__)
SAME_START = 2.0  # seconds: the system's clock moves a little, and start times are derived from it
LAST_WORDS = 20_000  # bytes at the end of a log in which a process may say why it died
JOB_NICENESS = 5  # above the studio's own: chat and page go first


@dataclasses.dataclass(frozen=True)
class Identity:
    """A process: its number and its start in Unix seconds."""

    pid: int
    started: float


class Worker:
    """A process that we started. While `input` is open, the worker knows that the studio is there."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.identity = Identity(process.pid, _start_of(process.pid))

    @property
    def exit_code(self) -> int | None:
        """Its exit code (minus the number of the signal that ended it), or None while it runs. Reaps it."""
        return self.process.poll()

    def let_go(self) -> None:
        """Close its standard input: it takes that as the studio's end, saves what it has and exits."""
        if self.process.stdin and not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except OSError:  # unsent bytes, and nobody there to read them
                log.info("worker %d was gone before its input was closed", self.process.pid)


def spawn(settings: Settings, arguments: Sequence[str], errors: Path, output: IO[bytes] | int = subprocess.DEVNULL,
          background: bool = True, environment: Mapping[str, str] | None = None) -> Worker:
    """Start `python -m engine ARGUMENTS` in a session of its own, its standard error appended to `errors`.

    Standard input is a pipe that stays open as long as the studio lives. `background`: yield the processor
    to other programs. `output` may be subprocess.PIPE. `environment`: further variables. Raises OSError when the process
    cannot be started.
    """
    errors.parent.mkdir(parents=True, exist_ok=True)
    with errors.open("ab") as log_file:
        process = subprocess.Popen(
            [*settings.command, *arguments], stdin=subprocess.PIPE, stdout=output,
            stderr=log_file, cwd=PACKAGES, start_new_session=True, env={**os.environ, "PERSONA_STUDIO_HOME": str(settings.home),
                                                                 **(environment or {})})
    if background:
        try:
            lower = min(19, psutil.Process().nice() + JOB_NICENESS) if os.name == "posix" else psutil.BELOW_NORMAL_PRIORITY_CLASS
            psutil.Process(process.pid).nice(lower)
        except psutil.Error:  # it may have ended already
            log.info("the priority of process %d could not be lowered", process.pid)
    return Worker(process)


def is_alive(identity: Identity) -> bool:
    """Whether this very process still runs; one that has ended and only waits to be reaped does not."""
    return _find(identity) is not None


def interrupt(identity: Identity) -> bool:
    """Ask it to save and exit after the step under way. False when it is gone already."""
    process = _find(identity)
    if process is None:
        return False
    try:
        process.terminate()
    except psutil.NoSuchProcess:
        return False
    return True


def kill(identity: Identity) -> bool:
    """End it and all that it started, at once. False when it is gone already."""
    process = _find(identity)
    if process is None:
        return False
    try:
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return False
    if hasattr(os, "killpg"):
        try:  # a worker leads a group of its own; members may have outlived their parent
            if os.getpgid(identity.pid) == identity.pid:
                os.killpg(identity.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            log.info("the group of process %d was gone", identity.pid)
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    return True


def running_with(fits: Callable[[str], bool]) -> Iterator[Identity]:
    """The processes on this machine with a word on their command line for which `fits` is true."""
    for process in psutil.process_iter():
        try:
            if any(map(fits, process.cmdline())) and process.status() != psutil.STATUS_ZOMBIE:
                yield Identity(process.pid, process.create_time())
        except psutil.Error:
            continue


def may_have_written(pid: int, changed: float) -> bool:
    """Whether process `pid` lives and had begun when a file of its own changed, `changed` in Unix seconds."""
    try:
        process = psutil.Process(pid)
        return process.create_time() < changed + SAME_START and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _find(identity: Identity) -> psutil.Process | None:
    try:
        process = psutil.Process(identity.pid)
        same = abs(process.create_time() - identity.started) < SAME_START
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _start_of(pid: int) -> float:
    """A child that ended at once is still there until it is reaped, so this finds it."""
    return psutil.Process(pid).create_time()


def ran_out_of_memory(errors: Path, offset: int = 0) -> bool:
    """Whether a process that died wrote, after `offset` bytes of its standard error, that it ran out of memory."""
    try:
        with errors.open("rb") as file:
            file.seek(max(offset, file.seek(0, os.SEEK_END) - LAST_WORDS))
            return says_out_of_memory(file.read().decode(errors="replace"))
    except OSError:
        return False

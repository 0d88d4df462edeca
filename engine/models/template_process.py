"""Chat templates rendered in a small process of their own, whose time, memory and output are limited.

A template from a model folder is a stranger's program. No thread of this process could be stopped while it renders one,
so another process does it (template_program.py); it is started at the first text, serves all of them, and is ended and
started again where a template takes too much. One text takes a fraction of a millisecond.
"""

import functools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from engine.base.errors import UserError

SECONDS = 1.0  # of computing for one text; usual ones take a thousandth of it
WAITING = 15.0  # seconds in all, on a machine with much else to do
_STARTING = 60.0  # seconds, at most
MEMORY = 400 << 20  # bytes
_LOOK = 0.03  # seconds between two looks at a process that has not answered yet
_SPARE = 100_000  # characters that a template may write of its own, however short the messages are
_TIMES = 20  # how often it may repeat what it is given
_HINT = "Choose another model, or correct its chat_template."
_PROGRAM = Path(__file__).with_name("template_program.py")


class Refused(Exception):
    """The template refuses these messages; the text says why, in its own words."""


def render_template(template: str, values: dict[str, Any]) -> str:
    """The text of a template for `values`, as transformers would render it.

    Raises Refused, and UserError where the template takes too much or can write no text.
    """
    return _rendered(template, json.dumps(values))


@functools.lru_cache(maxsize=64)  # the marks by which a template is found out are rendered again and again
def _rendered(template: str, values: str) -> str:
    longest = _SPARE + _TIMES * len(values)
    reply = _renderer().ask(f'{{"template": {json.dumps(template)}, "values": {values}, "longest": {longest}}}\n'.encode())
    if "refused" in reply:
        raise Refused(" ".join("".join(c if c.isprintable() else " " for c in reply["refused"]).split())[:120])
    if "fault" in reply:
        raise unusable(reply["fault"])
    return reply["text"]


def unusable(why: str) -> UserError:
    """The sentence for a template that can render nothing."""
    return UserError(f"The model's chat template cannot be used: {why}.", _HINT)


class _Renderer:
    """The process, started when it is first asked, and again after its end."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def ask(self, line: bytes) -> dict[str, str]:
        """The process's reply to a line of JSON."""
        with self.lock:
            try:
                process = self._started()
                reply = self._answer(process, line)
            except BaseException:
                self.end()
                raise
            if not reply:
                self.end()
                raise unusable("it ended the process that rendered it")
        return json.loads(reply)

    def _answer(self, process: "subprocess.Popen[bytes]", line: bytes) -> bytes:
        """The line that the process answers, b"" where it ended. Raises UserError where it takes too much."""
        assert process.stdin
        with suppress(BrokenPipeError, OSError):
            process.stdin.write(line)
            process.stdin.flush()
        start, watched, before = time.monotonic(), psutil.Process(process.pid), None
        while True:
            try:
                return self.replies.get(timeout=_LOOK)
            except queue.Empty:
                pass
            with suppress(psutil.Error):
                before = _computed(watched) - _LOOK if before is None else before
                if _computed(watched) - before > SECONDS:
                    raise unusable(f"it needs more than {SECONDS:g} seconds")
                if watched.memory_info().rss > MEMORY:
                    raise unusable("it takes too much memory")
            if time.monotonic() - start > WAITING:
                raise unusable(f"it needs more than {WAITING:g} seconds")

    def _started(self) -> "subprocess.Popen[bytes]":
        """The process, once it has said that it is ready."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen([sys.executable, "-P", str(_PROGRAM)], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            self.replies = queue.SimpleQueue()
            threading.Thread(target=_forward, args=(self.process.stdout, self.replies), daemon=True).start()
            if not self.replies.get(timeout=_STARTING):
                raise UserError("The process that renders chat templates cannot be started.", "Install the requirements again.")
        return self.process

    def end(self) -> None:
        """End the process by force."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def _computed(process: psutil.Process) -> float:
    """Seconds that a process has computed."""
    times = process.cpu_times()
    return times.user + times.system


def _forward(stream: Any, replies: "queue.SimpleQueue[bytes]") -> None:
    """Put every line into the queue, and b"" at the end."""
    with suppress(OSError, ValueError):
        for line in stream:
            replies.put(line)
    replies.put(b"")


_the_renderer = _Renderer()


def _renderer() -> _Renderer:
    """This process's own; a forked process does not share its parent's."""
    global _the_renderer
    if _the_renderer.owner != os.getpid():
        _the_renderer = _Renderer()
    return _the_renderer

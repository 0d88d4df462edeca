"""A program of this folder in a process of its own: one request in, steps and findings out, as lines of JSON.

What such a program can load, any user of its libraries can; and its memory is its own.
"""

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import IO, Any

from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step
from engine.base.resources import PACKAGES


def ask(program: str, request: dict[str, Any], stage: str) -> Generator[Event, None, dict[str, Any]]:
    """Run engine.export.`program` on a request that names its prompts; its steps as events, its findings as the value.

    Closed, it ends the process. Raises UserError with the process's last words when it fails.
    """
    total = len(request["prompts"])
    yield Stage(stage, total)
    return (yield from run(program, request, Step(stage, 0, total), "The proof failed"))


def run(program: str, request: dict[str, Any], reached: Step, failure: str) -> Generator[Event, None, dict[str, Any]]:
    """As `ask`, within a stage that has got as far as `reached`; `failure` begins the sentence of the UserError."""
    stage = reached.stage
    with tempfile.TemporaryFile() as errors, subprocess.Popen(
            [sys.executable, "-m", f"engine.export.{program}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            text=True, encoding="utf-8", cwd=PACKAGES, start_new_session=True) as process:
        assert process.stdin and process.stdout
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.close()
            found: dict[str, Any] = {"done": reached.done, "total": reached.total}
            for line in _lines(process.stdout):
                found = json.loads(line) if line.startswith("{") else found  # libraries may print as well
                if "done" in found:
                    yield Step(stage, found["done"], found["total"])
            process.wait()
        finally:
            process.kill()
        if process.returncode or "done" in found:
            errors.seek(0)
            raise UserError(f"{failure}: {stage} ended with {process.returncode} "
                            f"({' '.join(errors.read().decode(errors='replace').split())[-300:]}).", "Nothing was kept.")
    return found


def _lines(stream: IO[str]) -> Iterator[str]:
    """The lines of a stream until its end, and "" whenever a second has passed without one, so that a job can stop."""
    lines: queue.Queue[str | None] = queue.Queue()

    def forward() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=forward, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            line = ""
        if line is None:
            return
        yield line

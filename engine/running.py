"""How a long job runs as a process: its events on the screen and in a file, its stops, its leash, its last word.

The job is a generator of events. This module knows nothing of what it computes.
"""

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.base import events
from engine.base.errors import Interrupted, UserError
from engine.base.files import data_folder, explain_write_errors
from engine.base.process import is_out_of_memory
from engine.console import JsonPrinter, ProgressPrinter

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Whether the job is to stop after the step under way: Ctrl-C, SIGTERM, or, with a leash, the end of standard input.

    A second signal stops at once, by KeyboardInterrupt.
    """

    def __init__(self, leash: bool = False) -> None:
        self.asked = False
        self._signalled = False
        self._leash = leash

    def __enter__(self) -> "StopFlag":
        self._former = [(one, signal.signal(one, self._on_signal)) for one in _SIGNALS]
        if self._leash:
            threading.Thread(target=self._hold, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._former:
            signal.signal(one, handler)

    def _on_signal(self, *_: object) -> None:
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled = self.asked = True
        print("\nStopping after this step (Ctrl-C again stops at once).", file=sys.stderr)

    def _hold(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        self.asked = True  # the owner is gone


class Run:
    """One run of a job: `workdir` is where events.jsonl lies, once it is known.

    The file is written from the first event on, when the work folder has been claimed; with a leash also before, for
    then the folder belongs to the owner, who reads there why nothing began.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.workdir = Path(options.workdir) if options.workdir else None
        self.leash = bool(options.leash)
        self.printer: JsonPrinter | ProgressPrinter = JsonPrinter() if options.json else ProgressPrinter()
        self.begun = False

    def follow(self, stream: Iterator[events.Event], is_done: Callable[[], bool], stopped: str, how_to_go_on: str = "") -> None:
        """Tell every event until the end. What ends the job early is told as Stopped or Failed, then raised.

        A stop that comes once `is_done` is left alone. `stopped` is the sentence of Stopped; `how_to_go_on` is for the terminal.
        """
        with StopFlag(self.leash) as stop, self.printer:
            try:
                for event in stream:
                    self.begun = True
                    self._tell(event)
                    if stop.asked and not is_done():
                        stream.close()  # type: ignore[attr-defined]
                        raise Interrupted(f"{stopped} {how_to_go_on}".strip())
            except (Interrupted, KeyboardInterrupt):
                self._last_word(events.Stopped(stopped))
                raise
            except BrokenPipeError:
                raise
            except Exception as error:
                self._last_word(events.Failed(explain(error)[1]))
                raise

    def _tell(self, event: events.Event) -> None:
        if self.workdir and (self.begun or self.leash):
            file = self.workdir / "events.jsonl"
            with explain_write_errors(file):
                self.workdir.mkdir(parents=True, exist_ok=True)
                events.append(file, event)
        self.printer.show(event)

    def _last_word(self, event: events.Event) -> None:
        if isinstance(self.printer, JsonPrinter) or self.workdir:
            with contextlib.suppress(OSError, UserError):  # a full disk must not hide what went wrong before
                self._tell(event)


def log_file() -> Path:
    """Where the tracebacks of defects go. Raises UserError without a data folder."""
    return data_folder() / "engine.log"


def explain(error: Exception) -> tuple[int, str]:
    """The exit code and the sentence for whatever ended a command. A defect's sentence names the log."""
    if isinstance(error, UserError):
        return 2, " ".join(str(error).splitlines())
    if is_out_of_memory(error):
        return 2, ("The memory of this machine was not enough. Try --load-in 4bit, a smaller model, or close other programs; "
                   "then run the same command with --resume.")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return 2, "The disk is full. Free some space, then run the same command with --resume."
    try:
        log = log_file()
    except UserError:
        raise error from None
    return 1, f"Something went wrong inside Persona Studio ({type(error).__name__}). The details are in {log}."

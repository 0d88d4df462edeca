"""The cast server that games talk to: one process at a time, started and stopped from the page, on a leash.

The process is `python -m engine serve`. What it prints as JSON lines says how far it is and where it answers; its log, which
has no texts, is a file in the data folder. Independent of the page.
"""

import json
import logging
import os
import re
import secrets
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from engine.base.errors import UserError
from engine.export.engines.clients import KEY_NAME
from studio import labels
from studio.settings import Settings
from studio.workers import process
from studio.workers.process import Worker

log = logging.getLogger(__name__)
DIED = "The server ended unexpectedly. Start it again; the end of its log says more."
BY_SYSTEM = "The server ended because memory ran out. Close other programs, or serve fewer or smaller models."
EVERYWHERE = "0.0.0.0"
LARGEST_LOG = 1_000_000  # bytes, before a new one is begun
LOG_LINES = 8  # of its log that a page shows
_LOOK = 2.0  # seconds between two looks at what was counted
_PATIENCE = 2.0  # seconds for the answer to such a look
_COUNTED = re.compile(r'^persona_requests_total\{route="([^"]*)",status="(\d+)"\} (\d+)', re.MULTILINE)
_CHAT = "/v1/chat/completions"
_ROOM = "export"


class State(StrEnum):
    """What the server does."""

    OFF = "off"
    STARTING = "starting"
    ON = "on"
    STOPPING = "stopping"


@dataclass(frozen=True)
class Serving:
    """The server as it is now. `sentence`: why it ended, where it did so by itself; `stage`, `done`, `total`: of what it does
    before it answers; `answered`: requests that got an answer of a character, `refused`: those of any kind that got an error;
    `since`: Unix seconds. `faults`: by character, why it cannot speak."""

    state: State = State.OFF
    address: str = ""
    characters: tuple[str, ...] = ()
    faults: dict[str, str] = field(default_factory=dict)
    sentence: str = ""
    stage: tuple[str, str] = ("", "")
    done: float = 0
    total: float = 0
    answered: int = 0
    refused: int = 0
    since: float = 0.0
    key: bool = False


class GameServer:
    """The server, if there is one. Thread-safe. `touch("export")` is called when it has news."""

    def __init__(self, settings: Settings, touch: Callable[[str], None] = lambda room: None) -> None:
        self.settings = settings
        self._touch = touch
        self._lock = threading.Lock()
        self._now = Serving()
        self._worker: Worker | None = None
        self._key = ""
        self._log_offset = 0
        self._threads: list[threading.Thread] = []

    @property
    def now(self) -> Serving:
        """What it does now."""
        return self._now

    @property
    def identity(self) -> process.Identity | None:
        """The process; None while there is none."""
        worker = self._worker
        return worker.identity if worker else None

    def start(self, sources: Sequence[str], port: int, everyone: bool = False, memory: bool = False) -> str:
        """Serve folders of characters; returns at once. `everyone`: also for other machines, with a new key. `memory`: players
        are remembered.

        Returns the key, which is not kept anywhere else; "" without one. Raises UserError.
        """
        if not sources:
            raise UserError("No character is chosen.", "Choose at least one.")
        if not 0 <= port < 65_536:
            raise UserError("A port is a number from 1 to 65535 (0: any free one).")
        with self._lock:
            if self._now.state is not State.OFF:
                raise UserError("The server is running already.", "Stop it first.")
            self._key = secrets.token_urlsafe(24) if everyone else ""
            arguments = ["serve", *sources, "--port", str(port), "--json", "--leash", *(["--memory"] if memory else []),
                         *(["--host", EVERYWHERE, "--api-key-env", KEY_NAME] if everyone else [])]
            self._begin_log()
            try:
                worker = self._worker = process.spawn(self.settings, arguments, self.settings.server_log, subprocess.PIPE,
                                                      background=False, environment={KEY_NAME: self._key} if everyone else {})
            except OSError as error:
                raise UserError(f"The server cannot be started ({error.strerror}).") from error
            self._now = Serving(State.STARTING, since=time.time(), key=everyone)
            self._follow(self._read, worker)
            self._follow(self._count, worker)
        self._touch(_ROOM)
        return self._key

    def stop(self) -> None:
        """End it; answers under way get a few seconds."""
        with self._lock:
            worker = self._worker
            if worker is None:
                return
            is_starting = self._now.state is State.STARTING
            self._now = replace(self._now, state=State.STOPPING)
        if is_starting:  # it makes a model's file, and does not look at its input
            process.interrupt(worker.identity)
        worker.let_go()
        self._touch(_ROOM)

    def close(self, seconds: float = 3.0) -> None:
        """End it, for the studio is closed."""
        with self._lock:
            worker = self._worker
        if worker:
            worker.let_go()
            try:
                worker.process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill(worker.identity)
        for thread in self._threads:
            thread.join(seconds)

    def wait(self, state: State, seconds: float) -> Serving:
        """Wait for a state, up to this many seconds; returns the state reached."""
        end = time.monotonic() + seconds
        while self._now.state is not state and time.monotonic() < end:
            time.sleep(0.05)
        return self._now

    def log_lines(self) -> list[str]:
        """The newest lines of its log since it was started."""
        try:
            with self.settings.server_log.open("rb") as file:
                file.seek(max(self._log_offset, file.seek(0, os.SEEK_END) - 20_000))
                return file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        except OSError:
            return []

    def _begin_log(self) -> None:
        file = self.settings.server_log
        if file.exists() and file.stat().st_size > LARGEST_LOG:
            file.unlink()
        self._log_offset = file.stat().st_size if file.exists() else 0

    def _follow(self, work: Callable[[Worker], None], worker: Worker) -> None:
        thread = threading.Thread(target=work, args=(worker,), name=f"server-{work.__name__}", daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()

    def _read(self, worker: Worker) -> None:
        """Take what it prints, until its end."""
        pipe = worker.process.stdout
        assert pipe
        for line in pipe:
            try:
                event = json.loads(line)
                self._take(event)
            except (ValueError, KeyError, TypeError, AttributeError):
                log.warning("the server wrote a line that is not an event: %r", line[:200])
        code = worker.process.wait()
        worker.let_go()
        with self._lock:
            asked = self._now.state is State.STOPPING or code in (0, -15)
            sentence = "" if asked else self._now.sentence or self._why(code)
            self._now, self._worker, self._key = Serving(sentence=sentence), None, ""
        self._touch(_ROOM)

    def _take(self, event: dict[str, Any]) -> None:
        with self._lock:
            if self._now.state is State.STOPPING:
                return
            if event["event"] in ("Stage", "Step"):
                self._now = replace(self._now, stage=(event["stage"], event.get("subject", "")), done=event.get("done", 0),
                                    total=event.get("total", 0))
            elif event["event"] == "Failed":
                self._now = replace(self._now, sentence=labels.error(event["sentence"], event["hint"], event["code"]))
            elif event["event"] == "Serving":
                self._now = replace(self._now, state=State.ON, address=event["address"], since=time.time(),
                                    characters=tuple(event["characters"]), faults=dict(event.get("faults", {})))
        self._touch(_ROOM)

    def _why(self, code: int) -> str:
        by_system = code == -9 or process.ran_out_of_memory(self.settings.server_log, self._log_offset)
        return BY_SYSTEM if by_system else DIED

    def _count(self, worker: Worker) -> None:
        """Look every few seconds what it has counted."""
        while worker.exit_code is None:
            if (now := self._now).state is State.ON:
                try:
                    headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
                    asked = urllib.request.Request(f"{now.address}/metrics", headers=headers)
                    with urllib.request.urlopen(asked, timeout=_PATIENCE) as answer:
                        self._keep_counts(answer.read().decode(errors="replace"))
                except OSError:
                    log.info("the server did not say what it has counted")
            time.sleep(_LOOK)

    def _keep_counts(self, text: str) -> None:
        counts = [(route, int(status), int(number)) for route, status, number in _COUNTED.findall(text)]
        answered = sum(number for route, status, number in counts if route == _CHAT and status < 400)
        refused = sum(number for _, status, number in counts if status >= 400)
        with self._lock:
            changed = (answered, refused) != (self._now.answered, self._now.refused)
            if self._now.state is State.ON:
                self._now = replace(self._now, answered=answered, refused=refused)
        if changed:
            self._touch(_ROOM)

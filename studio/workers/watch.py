"""What is known of each run right now: its growing file of events, read once for all pages that look.

Where the file is gone, the library's history is read. Starts and ends nothing.
"""

import dataclasses
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path

from engine.base.event_file import decode
from engine.base.events import Event
from studio.settings import Settings
from studio.store import runs
from studio.store.database import Store
from studio.workers.view import RunView

log = logging.getLogger(__name__)
_GONE = -1  # the number of no file; a new file may well get the number of the one that was removed
_HEAD = b'{"event": '  # inside a JSON string the quotes would be escaped


class Tail:
    """Reads a file of events on from where the last reading ended.

    `generation` grows when the file was replaced or cut short: what was read before is void, and the next events
    are the file's first. Not thread-safe.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        """`offset`: bytes of the file to pass over."""
        self.path = path
        self.offset = offset
        self.generation = 0
        self._file_number: int | None = None

    def read_new(self) -> list[Event]:
        """The whole events that were added since the last call; [] when the file is not there or cannot be read.

        A last line without its line break is left for the next call.
        """
        try:
            if not self.path.is_file():  # reading a pipe would never end
                raise FileNotFoundError(self.path)
            with self.path.open("rb") as file:
                self._notice_replacement(file.fileno())
                file.seek(self.offset)
                data = file.read()
        except OSError:
            self._file_number = self._file_number and _GONE
            return []
        whole = data.rfind(b"\n") + 1
        self.offset += whole
        return [event for line in data[:whole].split(b"\n") if (event := _event(line)) is not None]

    def _notice_replacement(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if status.st_size < self.offset or self._file_number not in (None, status.st_ino):
            self.offset = 0
            self.generation += 1
        self._file_number = status.st_ino


def _event(line: bytes) -> Event | None:
    """The event of a line. A process that was killed may have left a torn event in front of it."""
    if not line.strip():
        return None
    for piece in (line, line[max(line.rfind(_HEAD), 0):]):
        try:
            return decode(piece.decode(errors="replace"))
        except ValueError:
            continue
    log.info("a line of events was passed over: %r", line[:80])
    return None


FRESH = 0.5  # seconds for which one reading serves everybody
REMEMBERED = 64  # runs whose views are kept


@dataclasses.dataclass
class _Watched:
    tail: Tail
    view: RunView = dataclasses.field(default_factory=RunView)
    read_at: float = -1e9
    generation: int = 0
    from_library: bool = False
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class Watcher:
    """The views of all runs, shared by all tabs. Thread-safe."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._lock = threading.Lock()
        self._watched: OrderedDict[str, _Watched] = OrderedDict()

    def view(self, run_id: str) -> RunView:
        """The run's events so far, at most half a second old; an empty view for a run that has none.

        Only what was added since the last call is read, and only by the first who asks within half a second.
        """
        watched = self._entry(run_id)
        with watched.lock:
            now = time.monotonic()
            if now - watched.read_at >= FRESH:
                self._read(run_id, watched)
                watched.read_at = now
            return watched.view

    def forget(self, run_id: str) -> None:
        """Drop what is remembered of a run."""
        with self._lock:
            self._watched.pop(run_id, None)

    def _entry(self, run_id: str) -> _Watched:
        with self._lock:
            if run_id not in self._watched:
                self._watched[run_id] = _Watched(Tail(self.settings.run_events(run_id)))
                while len(self._watched) > REMEMBERED:
                    self._watched.popitem(last=False)
            self._watched.move_to_end(run_id)
            return self._watched[run_id]

    def _read(self, run_id: str, watched: _Watched) -> None:
        fresh = watched.tail.read_new()
        if watched.tail.generation != watched.generation or (fresh and watched.from_library):
            watched.generation, watched.from_library = watched.tail.generation, False
            watched.view = RunView(watched.view.revision)  # a revision never comes twice
        for event in fresh:
            watched.view.add(event)
        if not watched.view.last:
            self._read_history(run_id, watched)

    def _read_history(self, run_id: str, watched: _Watched) -> None:
        for record in runs.events(self.store, run_id):
            try:
                watched.view.add(decode(json.dumps(record)))
                watched.from_library = True
            except ValueError:
                log.info("an event of run %s was passed over: %r", run_id, str(record)[:80])

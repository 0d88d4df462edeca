"""What is known of each run right now, read once for all tabs that look.

Reads a run's file of events, and the library's history where that file is gone. Starts and ends nothing.
"""

import dataclasses
import json
import logging
import threading
import time
from collections import OrderedDict

from engine.base.events import decode
from studio.settings import Settings
from studio.store import runs
from studio.store.database import Store
from studio.workers.tail import Tail
from studio.workers.view import RunView

log = logging.getLogger(__name__)
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

"""The rule against a double click: what already waits or runs is not queued a second time."""

import threading
from collections.abc import Callable
from typing import Any

from engine.base.errors import UserError
from studio.services import Services
from studio.store import runs
from studio.store.runs import ACTIVE, Run

AGAIN = {"lines": "These lines are being made already.", "prune": "The same prune is waiting or running already."}


class Queueing:
    """One for the studio, so that it holds for two pages at once. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self.store = services.store
        self._lock = threading.Lock()

    def twin(self, kind: str, character: str, version: int, spec: dict[str, Any], line_set: str | None) -> Run | None:
        """A run that waits or runs, of the same version, for the same, from the same lines."""
        waiting = runs.list_runs(self.store, character, kinds=[kind], states=("queued", *ACTIVE))
        return next((run for run in waiting if (run.version, run.spec, run.line_set if kind == "prune" else None)
                     == (version, spec, line_set)), None)

    def once(self, kind: str, character: str, version: int, spec: dict[str, Any], line_set: str | None,
             submit: Callable[[], Run]) -> Run:
        """What `submit` queues. Raises UserError when its twin is there."""
        with self._lock:
            twin = self.twin(kind, character, version, spec, line_set)
            if twin:
                raise UserError(AGAIN[kind], f"The run is called {twin.name}; stop it to start again." if twin.name else "")
            return submit()

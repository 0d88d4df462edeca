"""Measuring what a character can be shipped as, by `python -m engine frontier`."""

from collections.abc import Callable, Mapping
from typing import Any

from engine.base.errors import UserError
from engine.base.events import Event
from engine.base.files import is_file
from engine.base.frontier import RESULT, read_points
from engine.base.pruning_events import Placed
from studio.settings import Settings
from studio.workers.single import Resumable


class Shipping(Resumable):
    """The measurement under way, if there is one."""

    what, room, verb, again = "measurement", "export", "frontier", "Measure"

    def __init__(self, settings: Settings, touch: Callable[[str], None] = lambda room: None) -> None:
        super().__init__(settings, settings.shipping, touch)
        self._points: dict[str, Placed] = {}  # of the measurement under way, or the last one

    def points(self, character: str) -> list[Placed]:
        """What is known of a character: so far, while it is measured."""
        with self._lock:
            if self._worker and self._character == character:
                return list(self._points.values())
        file = self.folder(character) / RESULT
        try:
            return read_points(file) if is_file(file) else []
        except UserError:
            return []

    def begin(self, character: str, asked: Mapping[str, Any]) -> None:
        """Measure models; `asked`: the fields of FrontierJob that say which. Raises UserError."""
        with self._lock:
            self._require_none()
            self._points = {}
            self._begin(character, asked)

    def _take(self, event: Event) -> None:
        super()._take(event)
        if isinstance(event, Placed):
            with self._lock:
                self._points[event.key] = event

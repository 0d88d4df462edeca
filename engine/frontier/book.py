"""What was measured so far, in the work folder: a job that was stopped goes on there."""

import dataclasses
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import is_file, read_json, write_json
from engine.base.pruning_events import Placed


class Book:
    """What was measured: "read" and "timed", by a point's key, with what the model's files were at that time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self.kept: dict[str, Any] = read_json(file) if is_file(file) else {}
        except UserError:
            self.kept = {}
        points = self.kept.get("points")
        self.kept = {name: value if isinstance(value := self.kept.get(name), dict) else {} for name in ("read", "timed")}
        self.kept["points"] = points if isinstance(points, list) else []  # of the last time, until there are new ones

    def read(self, key: str) -> Placed | None:
        """The point that was read under a key."""
        try:
            return Placed(**self.kept["read"][key])
        except (KeyError, TypeError):
            return None

    def put(self, key: str, point: Placed) -> None:
        """Keep a point that was read."""
        self.kept["read"][key] = _plain(point)
        write_json(self.file, self.kept)

    def times(self, key: str) -> list[dict[str, float]]:
        """The rounds that were timed under a key."""
        found = self.kept["timed"].get(key, [])
        return found if isinstance(found, list) else []

    def add_time(self, key: str, found: dict[str, float]) -> None:
        """Keep a round."""
        self.kept["timed"].setdefault(key, []).append(found)
        write_json(self.file, self.kept)

    def finish(self, points: list[Placed]) -> None:
        """Keep the result."""
        write_json(self.file, {**self.kept, "points": [_plain(point) for point in points]})


def _plain(point: Placed) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(point).items() if name != "time"}

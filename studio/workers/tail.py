"""The end of a growing file of events: every reading takes the new bytes only.

Knows what an event is and how a torn line looks; not what events mean.
"""

import logging
import os
from pathlib import Path

from engine.base.events import Event, decode

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

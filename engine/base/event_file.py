"""Events as lines of JSON, and the files that hold them.

A new module of events is named in `_KINDS`.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from engine.base import evaluation_events, events, migrate, pruning_events
from engine.base.events import Event

_KINDS = {name: kind for module in (events, pruning_events, evaluation_events) for name, kind in vars(module).items()
          if getattr(kind, "__base__", None) is Event}


def encode(event: Event) -> str:
    """One line of JSON with the event's kind under "event" (no line break inside)."""
    return json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)}, ensure_ascii=False, allow_nan=True)


def decode(line: str) -> Event:
    """The event of one line, also of one that an earlier version wrote. Raises ValueError for a line that is none."""
    try:
        fields: dict[str, Any] = json.loads(line)
        adapter = _adapter(fields["event"])
    except (KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"not an event: {line[:80]}") from error
    try:
        return adapter.validate_json(line, strict=True)
    except ValidationError:
        return adapter.validate_json(json.dumps(migrate.event(fields)), strict=True)


@cache
def _adapter(kind: str) -> TypeAdapter[Event]:
    return TypeAdapter(_KINDS[kind])


def append(path: Path, event: Event) -> None:
    """Append the event to a file of events with one write, so that a reader sees it whole or torn at the end.

    Begins a new line where a process that died left a torn one. What UTF-8 cannot write, of a path, becomes question marks.
    """
    data = (encode(event) + "\n").encode(errors="replace")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        os.lseek(descriptor, max(end - 1, 0), os.SEEK_SET)
        torn = os.read(descriptor, 1) not in (b"", b"\n")
        os.write(descriptor, b"\n" + data if torn else data)
    finally:
        os.close(descriptor)


def read(path: Path) -> Iterator[Event]:
    """The events of a file, in order. A torn line (no line break), and one that is no event, are passed over."""
    if not path.is_file():
        return
    *lines, _torn = path.read_bytes().split(b"\n")  # of a text's line breaks, JSON escapes this one only
    for line in lines:
        try:
            yield decode(line.decode(errors="replace"))
        except ValueError:
            continue

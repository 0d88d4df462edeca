"""Events as lines of JSON: no field changes its name or place unnoticed, so that what was written stays readable."""

import json
from pathlib import Path

from engine.base.event_file import decode, encode
from engine.base.events import Event

LINES = (Path(__file__).parent / "golden" / "events.jsonl").read_text(encoding="utf-8").splitlines()


def test_every_event_is_written_as_before() -> None:
    assert [encode(decode(line)) for line in LINES] == LINES


def test_there_is_a_line_of_every_event() -> None:
    assert {json.loads(line)["event"] for line in LINES} == {kind.__name__ for kind in Event.__subclasses__()}

"""python -m benchmarks loops: which answers of a long conversation count as loops."""

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from benchmarks import loops
from engine.cards.card import find_bundled

FRESH = "My {} uncle once sold {} lanterns to a {} ferryman before the winter storms came down."


def test_answers_that_run_in_circles_or_come_again_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20: one in circles, one said before, one both."""
    circles = "round and round and round and round and round and round we go"
    said = [FRESH.format(*(f"{word}{number}" for word in ("old", "blue", "tired"))) for number in range(loops.TURNS)]
    said[4], said[9], said[14] = circles, said[2], circles
    heard: list[int] = []

    async def speak(request: Any, voices: Any) -> AsyncIterator[dict[str, Any]]:
        heard.append(len(request.turns))
        text = said[len(heard) - 1]
        for half in (text[:10], text[10:]):
            yield {"event": "Said", "text": half}
        yield {"event": "Ended", "reason": "ended", "text": text, "tokens": 5}

    monkeypatch.setattr(loops, "speak", speak)
    found = loops.measure("starter", find_bundled("pim-tuckett"), 1)
    assert (found["answers"], found["circles"], found["again"], found["loops"]) == (20, 2, 2, 3)
    assert found["share"] == 3 / 20 and found["tokens"] == 100
    assert [after - before for before, after in pairwise(heard)] == [2] * 19  # each hears all before it

"""The review of lines: the doubtful ones first, each decision kept with its line, and taken back."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_samples import card

from engine.base.errors import UserError
from engine.base.ids import Doubt
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, lines
from studio.store.lines import LineSet
from studio.tabs.prune import review
from studio.tabs.prune.lines_controller import Edit, LinesController
from studio.tabs.prune.queueing import Queueing

CODE, LONG = "It is <b>here</b>:\n```\nx = 1\n```", "Behind the barrel with the number {}, as it ever was."


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    (tmp_path / "home").mkdir()
    found = Services.open(Settings(tmp_path / "home"))
    yield found
    found.close()


@pytest.fixture
def room(services: Services) -> LinesController:
    return LinesController(services, Queueing(services))


@pytest.fixture
def made(services: Services) -> LineSet:
    """Forty lines, of which number 5 says next to nothing, 9 holds code, and 30 names another character of the library."""
    person = characters.create(services.store, card("Zoë"))
    characters.create(services.store, card("Kaspar"))
    odd = {5: "Hm.", 9: CODE, 30: "Kaspar has it, and he will not give it back."}
    records = [{"question": f"Where is door number {number}?", "answer": odd.get(number, LONG.format(number))}
               for number in range(1, 41)]
    return lines.add_set(services.store, person.id, 1, records, {}, name="Made")


def shown(room: LinesController, made: LineSet, **more: str) -> str:
    look = {**dict.fromkeys(("set", "search", "about", "sort", "lines"), ""), "character": made.character, **more}
    return str(room.contents(look)["prune-lines-read"])


def positions(text: str) -> list[int]:
    return [int(found) for found in re.findall(r'review-card"[^>]*data-position="(\d+)"', text)]


def line(room: LinesController, set_id: str, position: int, removed: bool = False) -> Any:
    return next(one for one in lines.lines(room.store, set_id, removed) if one.position == position)


def test_doubtful_lines_come_first_with_their_reasons(room: LinesController, made: LineSet) -> None:
    text = shown(room, made)
    assert positions(text)[:3] == [5, 9, 30] and len(positions(text)) == review.AHEAD
    assert positions(text)[3:] != sorted(positions(text)[3:])  # the others as if by lot
    for words in ("said next to nothing", "holds code", "names Kaspar", "Looked at 0 of 40", "3 doubtful lines left"):
        assert words in text, words
    assert "&lt;b&gt;here" in text and "<b>here" not in text


def test_each_decision_is_counted_kept_and_taken_back(room: LinesController, made: LineSet) -> None:
    room.decide(made.id, 5, "drop")
    room.decide(made.id, 9, "keep")
    room.edit(made.id, Edit(30, None, "Behind the stove, where nobody looks."))
    text = shown(room, made)
    assert "Looked at 3 of 40" in text and "1 kept · 1 rewritten · 1 dropped · the rules doubt no other line" in text
    assert not {5, 9, 30} & set(positions(text)) and len(lines.lines(room.store, made.id)) == 39
    for position in (5, 9, 30):
        room.decide(made.id, position, "")
    text = shown(room, made)
    assert "Looked at 0 of 40" in text and positions(text)[:2] == [5, 9] and 30 not in positions(text)[:3]
    assert line(room, made.id, 5).answer == "Hm." and line(room, made.id, 9).answer == CODE
    with pytest.raises(UserError, match="not in the set"):
        room.decide(made.id, 99, "keep")


def test_after_twenty_the_rest_can_be_approved_and_what_is_unread_is_said(room: LinesController, made: LineSet) -> None:
    assert ": approve the rest" not in shown(room, made)
    sound = [one.position for one in lines.lines(room.store, made.id) if one.position not in (5, 9, 30)]
    for position in sound[:review.ENOUGH]:
        room.decide(made.id, position, "keep")
    text = shown(room, made)
    assert "Looked at 20: approve the rest" in text and "3 of the rest are doubtful and unread" in text
    room.approve(made.id)
    assert "prune-review" not in shown(room, made)


def test_a_drop_from_an_approved_set_is_made_in_a_copy_that_remembers_what_was_read(room: LinesController, made: LineSet) -> None:
    room.decide(made.id, 9, "keep")
    room.approve(made.id)
    copy = room.decide(made.id, 5, "drop")
    assert copy != made.id and line(room, made.id, 5).decision == ""
    assert line(room, copy, 5, removed=True).decision == "drop" and line(room, copy, 9).decision == "keep"
    assert "Looked at 2 of 40" in shown(room, made, set=copy)


def test_what_is_written_into_a_line_that_another_window_dropped_is_kept(room: LinesController, made: LineSet) -> None:
    room.decide(made.id, 2, "drop")
    with pytest.raises(UserError, match="needs a question and an answer"):
        room.edit(made.id, Edit(2, None, " "))
    assert room.edit(made.id, Edit(2, None, "Behind the mill.")) == made.id
    found = line(room, made.id, 2)
    assert (found.answer, found.decision, found.removed) == ("Behind the mill.", "rewrite", False)
    room.take_out(made.id, [3])
    room.edit(made.id, Edit(4, line(room, made.id, 3, removed=True).question, None))  # asks now what the dropped line asked
    with pytest.raises(UserError, match="asks the same question"):
        room.edit(made.id, Edit(3, None, "Yes."))
    with pytest.raises(UserError, match="not in the set any more"):
        room.edit(made.id, Edit(99, None, "Yes."))


def test_a_doubt_of_the_engine_has_words() -> None:
    from studio import labels

    assert set(Doubt) < set(labels.DOUBTS)
    assert labels.doubt(Doubt.OTHER_NAME, "<Ann>") == "names &lt;Ann&gt;" and labels.doubt("<new>") == "&lt;new&gt;"

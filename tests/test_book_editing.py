"""The lorebook as the draft room edits it: only what was changed is written, and what would fire is told."""

import copy
import json
from typing import Any

import pytest
from card_samples import v2

from engine.cards.book import MOST_ENTRIES, shown_book, with_book
from engine.cards.fields import as_v3
from studio.tabs.draft.sections import look_at_book, read_world

BOOK: dict[str, Any] = {
    "name": "Mill",
    "unheard": 10**30,
    "extensions": {"a": 1},
    "scan_depth": 3,
    "entries": [
        {
            "keys": ["mill"],
            "content": "It burned.",
            "extensions": {"x": 10**30},
            "enabled": True,
            "insertion_order": 5,
            "comment": "The mill",
            "odd": [None],
        },
        {"keys": ["/a,b/"], "content": "@@depth 2\nWar.", "extensions": {}, "enabled": False, "insertion_order": 0.5},
    ],
}


def raw(book: Any = BOOK) -> dict[str, Any]:
    """A card with a book, as its JSON says."""
    return json.loads(v2(character_book=book))


def edited(**changes: Any) -> dict[str, Any]:
    """The shown book, its first entry changed, as it comes back from a page."""
    shown = json.loads(json.dumps(shown_book(raw())))
    shown["entries"][0] |= changes
    return shown


def test_nothing_changed_is_nothing_written() -> None:
    assert with_book(raw(), edited()) == as_v3(raw())
    for empty in (None, {"entries": []}):
        assert with_book(raw(empty), shown_book(raw(empty))) == as_v3(raw(empty))


def test_a_new_entry_gets_a_number_that_no_other_has() -> None:
    book = {**BOOK, "entries": [{**BOOK["entries"][0], "id": 1}, {**BOOK["entries"][1], "id": "a"}]}
    shown = json.loads(json.dumps(shown_book(raw(book))))
    new = {"name": "", "keys": ["sea"], "secondary": [], "content": "Deep.", "order": 100, "constant": False, "enabled": True}
    shown["entries"] = [new, shown["entries"][0], shown["entries"][1], {**new, "content": "Cold."}]
    written = with_book(raw(book), shown)["data"]["character_book"]["entries"]
    assert [one["id"] for one in written] == [2, 1, "a", 3]


def test_a_change_reaches_its_field_only() -> None:
    before = copy.deepcopy(raw())
    found = with_book(before, edited(content="It stands.", name="Old mill"), now=9)["data"]
    assert before == raw()
    expected = copy.deepcopy(BOOK)
    expected["entries"][0] |= {"content": "It stands.", "name": "Old mill", "comment": "Old mill"}
    assert found["character_book"] == expected and found["modification_date"] == 9


def test_entries_come_go_and_move() -> None:
    shown = edited()
    first, second = shown["entries"]
    new = {
        "name": "",
        "keys": ["sea"],
        "secondary": ["salt"],
        "content": "Deep.",
        "order": 7,
        "constant": False,
        "enabled": True,
        "kept": "",
    }
    found = with_book(raw(), {**shown, "entries": [second, new], "recursive": False})["data"]["character_book"]
    assert found["entries"][0] == BOOK["entries"][1] and found["recursive_scanning"] is False and found["unheard"] == 10**30
    assert (
        found["entries"][1] | {"keys": ["sea"], "secondary_keys": ["salt"], "selective": True, "insertion_order": 7}
        == found["entries"][1]
    )
    assert (
        with_book(raw(None), {**shown_book(raw(None)), "entries": [new]})["data"]["character_book"]["entries"][0]["content"]
        == "Deep."
    )
    gone = with_book(raw(), {**shown, "entries": []})["data"]["character_book"]
    assert gone["entries"] == [] and first["kept"] not in json.dumps(gone)


def test_what_no_page_sends_is_refused() -> None:
    for wrong in ({"content": 3}, {"keys": "mill"}):
        with pytest.raises(ValueError, match="edited into something else"):
            with_book(raw(), edited(**wrong))
    with pytest.raises(ValueError, match="at most"):
        with_book(raw(), {**edited(), "entries": [edited()["entries"][0]] * (MOST_ENTRIES + 1)})


def test_what_would_fire() -> None:
    found = look_at_book({"book": edited(), "message": "Where is the MILL?"})
    assert found["tokens"] == ["about 3 tokens", "about 4 tokens"]
    assert "The mill" in found["html"] and "“mill” is in the last message." in found["html"]
    assert (
        "Nothing would fire" in look_at_book({"book": edited(), "message": "Hello"})["html"]
        and look_at_book({"book": edited(), "message": " "})["html"] == ""
    )
    hostile = look_at_book({"book": edited(name="<img src=x>", keys=["/(/"]), "message": "the ("})
    assert "<img" not in hostile["html"] and "cannot be read" in hostile["html"]
    assert look_at_book({"book": {"entries": 3}, "message": "x"}) == {}


def test_a_world_file_comes_in_as_entries() -> None:
    world = {
        "entries": {
            "0": {"key": ["mill"], "keysecondary": [], "content": "It burned.", "comment": "Mill", "order": 3, "vectorized": True}
        }
    }
    found = read_world({"text": json.dumps(world), "name": "world.json"})["entries"]
    assert [one["keys"] for one in found] == [["mill"]] and json.loads(found[0]["kept"])["extensions"] == {"vectorized": True}
    assert read_world({"text": json.dumps(world), "name": "w"})["notes"] == "1 entry came from w."
    agnai = {"kind": "memory", "entries": [{"entry": "Old.", "keywords": ["mill"]}, {"entry": "", "keywords": ["dam"]}]}
    found = read_world({"text": json.dumps(agnai), "name": "memory.json"})
    assert [(one["keys"], one["content"]) for one in found["entries"]] == [(["mill"], "Old.")]
    assert found["notes"] == "1 entry came from memory.json. It was a memory book of Agnai. 1 entry without text was left out."
    many = {"entries": [{"keys": ["a"], "content": "b"}] * (MOST_ENTRIES + 1)}
    assert f"and a lorebook has at most {MOST_ENTRIES:,} here." in read_world({"text": json.dumps(many), "name": "w"})["problem"]
    problem = read_world({"text": "{}", "name": "world.json"})["problem"]
    assert problem == 'world.json is not a lorebook (it has no "entries").'

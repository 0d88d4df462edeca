"""Odd cards that are good all the same: accepted, what is odd repaired, nothing lost, and every repair told of."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from card_samples import FLAT, v2
from store_samples import library

from engine.base.errors import UserError
from engine.cards.book import shown_book, with_book
from engine.cards.card import Card, parse_card, read_book
from engine.cards.fields import as_v3, fields_of, to_v2
from engine.cards.files import FORMS, parse_file, write_file
from engine.cards.prompt import messages, render_system_prompt
from studio.library import import_card
from studio.store import characters


def card(**fields: Any) -> Card:
    return parse_card(v2(**fields), "x")


ENTRY = {"keys": [], "content": "Ada is a clerk.", "enabled": True, "constant": True, "insertion_order": 1, "extensions": {}}
EMPTY = {"description": "", "first_mes": ""}


@pytest.mark.parametrize("speaks", [
    {"system_prompt": "You are Ada."}, {"post_history_instructions": "Be Ada."}, {"first_mes": "Hello."},
                                    {"alternate_greetings": ["Hello."]},
    {"personality": "Dry."}, {"scenario": "A mill."}, {"mes_example": "Ada: Hm."}, {"character_book": {"entries": [ENTRY]}},
    {"character_book": {"entries": {"0": {"key": ["a"], "content": "b"}}}},
                                    {"extensions": {"depth_prompt": {"prompt": "Ada never lies."}}}])
def test_a_card_is_one_when_anything_speaks_about_its_character(speaks: dict[str, Any]) -> None:
    found = card(**EMPTY | speaks)
    assert found.notes == () and messages(found, [])
    for form in FORMS:  # and it can be written as well
        assert parse_file(write_file(form, found.raw), "x").card.name == "Ann Lee"


@pytest.mark.parametrize("silent", [
    {}, {"system_prompt": " {{original}} "}, {"alternate_greetings": [" "]}, {"creator_notes": "For readers."},
    {"character_book": {"entries": [{**ENTRY, "enabled": False}]}}, {"character_book": {"entries": [{**ENTRY, "content": " "}]}},
    {"character_book": {"entries": [{"key": ["a"], "content": "b", "disable": True}]}},
    {"extensions": {"depth_prompt": {"prompt": "", "depth": 4}}}, {"extensions": {"depth_prompt": "x"}}])
def test_a_card_that_says_nothing_is_refused(silent: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="says nothing about its character"):
        card(**EMPTY | silent)


@pytest.mark.parametrize(("odd", "field", "repaired", "told"), [
    ({"tags": "calm, kind"}, "tags", ["calm", "kind"], "Its tags were a text and became a list."),
    ({"tags": ["calm", 1687, None]}, "tags", ["calm", "1687"], "Some of its tags were not texts and became texts."),
    ({"tags": 5}, "tags", ["5"], "Its tags were a number and became a list."),
    ({"tags": ""}, "tags", [], "Its tags were a text and became a list."),
    ({"alternate_greetings": "Hm, no."}, "alternate_greetings", ["Hm, no."], "Its other greetings were a text and became a list."),
    ({"alternate_greetings": [7]}, "alternate_greetings", ["7"], "Some of its other greetings were not texts and became texts."),
    ({"name": 47}, "name", "47", "Its name was a number and became a text."),
    ({"personality": ["Dry.", "Kind."]}, "personality", "Dry.\nKind.", "Its personality was a list and became a text."),
    ({"scenario": []}, "scenario", "", "Its scenario was a list and became a text."),
    ({"mes_example": {}}, "mes_example", "", "Its example dialogue was an object and became a text."),
    ({"scenario": False}, "scenario", "", "Its scenario was true or false and became a text."),
    ({"character_version": 1.5}, "character_version", "1.5", "Its version of the card was a number and became a text."),
    ({"creator": ["A", "B"]}, "creator", "A\nB", "Its author was a list and became a text."),
    ({"group_only_greetings": "All!"}, "group_only_greetings", ["All!"], "Its greetings in groups were a text and became a list."),
    ({"first_mes": 0}, "first_mes", "0", "Its greeting was a number and became a text."),
])
def test_what_is_odd_is_repaired_and_reported(odd: dict[str, Any], field: str, repaired: Any, told: str, tmp_path: Path) -> None:
    data = v2(**odd)
    found = parse_card(data, "x")
    assert found.raw == json.loads(data) and found.notes == (told,)
    assert fields_of(found.raw)[field] == repaired
    file = tmp_path / "odd.json"
    file.write_bytes(data)
    store = library(tmp_path / "home")
    done = import_card(store, file)
    assert done.sentence == f"{found.name} came from odd.json. {told}"
    head = characters.head(store, characters.get(store, done.slug).id)
    assert fields_of(head.card)[field] == repaired
    again = parse_card(json.dumps(head.card).encode(), "x")  # repaired once and for all
    assert again.notes == () and render_system_prompt(again) == render_system_prompt(found)


def test_a_book_that_is_a_list_is_a_book() -> None:
    found = card(character_book=[ENTRY])
    assert len(read_book(found).entries) == 1
    shown = shown_book(found.raw)
    assert [one["content"] for one in shown["entries"]] == ["Ada is a clerk."]
    assert with_book(found.raw, {**shown, "scan_depth": 9})["data"]["character_book"] == {
        "extensions": {}, "entries": [ENTRY], "scan_depth": 9}
    assert found.notes == ("Its lorebook was a list and became a book.",)
    for none in ([], "", False):
        assert "character_book" not in as_v3(card(character_book=none).raw)["data"]
        assert card(character_book=none).notes[0].endswith("was left out.")


def test_the_nickname_is_read_from_every_form() -> None:
    raw = {"spec": "chara_card_v3", "spec_version": "3.0", "data": {**FLAT, "name": "Captain Ada Vale", "nickname": " Ada "}}
    old = parse_card(json.dumps(to_v2(raw)).encode(), "x")
    assert "nickname" not in old.raw["data"]
    for found in (old, *(parse_file(write_file(form, raw), "x").card for form in FORMS)):
        assert (found.char, found.name) == ("Ada", "Captain Ada Vale")
        assert render_system_prompt(found).startswith("You are Ada. Your full name is Captain Ada Vale.")
    changed = to_v2(raw)
    changed["data"]["nickname"] = "Captain"  # another program's own word counts
    assert parse_card(json.dumps(changed).encode(), "x").char == "Captain"
    for odd in (5, None, ["a"], {"a": 1}):
        changed = to_v2(raw)
        changed["data"]["extensions"]["persona_studio/v3"]["nickname"] = odd
        assert parse_card(json.dumps(changed).encode(), "x").char == "Captain Ada Vale"


def test_a_zero_byte_after_a_card(tmp_path: Path) -> None:
    found = parse_card(v2() + b"\0\0", "x")
    assert found.notes == ("A zero byte at its end was ignored.",)
    with pytest.raises(UserError, match=r"^x is empty\.$"):
        parse_card(b"\0\0", "x")


@pytest.mark.slow
def test_the_command_line_says_what_was_repaired(tmp_path: Path) -> None:
    file = tmp_path / "odd.json"
    file.write_bytes(v2(tags="calm"))
    done = subprocess.run([sys.executable, "-m", "engine", "script", str(file), "--questions"], capture_output=True, text=True,
                          cwd=Path(__file__).parents[1], check=True)
    assert done.stderr == f"{file}: Its tags were a text and became a list.\n" and json.loads(done.stdout)

"""Editing a card changes what the writer changed, and loses nothing else."""

import copy
import dataclasses
import json
import time
from typing import Any

import pytest
from card_samples import EVERYTHING, FLAT
from card_strategies import TEXT, raw_cards
from hypothesis import given
from hypothesis import strategies as st

from engine.base.errors import UserError
from engine.cards.card import Card, bundled_cards, parse_card
from engine.cards.fields import KEPT_IN_V2, LABELS, LISTS, as_v3, blank_card, fields_of, to_v2, with_fields

OLD = {"spec": "chara_card_v3", "spec_version": "3.0", "data": {**EVERYTHING["data"], "modification_date": 5}}


def parsed(raw: dict[str, Any]) -> Card:
    return parse_card(json.dumps(raw).encode(), "x")


def meaning(card: Card) -> dict[str, Any]:
    """All that the engine reads of a card."""
    return {field.name: getattr(card, field.name) for field in dataclasses.fields(card) if field.name not in ("raw", "notes")}


def holds(kept: Any, whole: Any) -> bool:
    """Whether everything in `kept` stands in `whole` at the same place."""
    if isinstance(kept, dict) and isinstance(whole, dict):
        return all(key in whole and holds(value, whole[key]) for key, value in kept.items())
    return json.dumps(kept, sort_keys=True) == json.dumps(whole, sort_keys=True)


@given(raw_cards())
def test_v3_means_the_same_and_keeps_every_unknown_field(raw: dict[str, Any]) -> None:
    untouched = copy.deepcopy(raw)
    card = as_v3(raw)
    assert raw == untouched
    assert meaning(parsed(card)) == meaning(parsed(raw))
    assert as_v3(card) == card
    outside = {key: value for key, value in raw.items() if key not in ("spec", "spec_version", "data")} if "spec" in raw else {}
    inside = raw["data"] if "spec" in raw else raw
    assert holds(outside, card)
    assert holds({key: value for key, value in inside.items() if key not in LABELS and value is not None}, card["data"])


def test_v3_has_every_required_field() -> None:
    card = as_v3(FLAT)
    assert (card["spec"], card["spec_version"]) == ("chara_card_v3", "3.0")
    assert card["data"].keys() == {*FLAT, "creator_notes", "system_prompt", "post_history_instructions", "alternate_greetings",
                                   "tags", "creator", "character_version", "extensions", "group_only_greetings"}
    assert card["data"]["extensions"] == {} and card["data"]["group_only_greetings"] == []


def test_odd_values_become_texts() -> None:
    fields = fields_of({"spec": "chara_card_v2", "data": {**FLAT, "character_version": 1.5, "creator": None,
                                                          "tags": ["a", None, "b"], "group_only_greetings": "Hello."}})
    assert (fields["character_version"], fields["creator"]) == ("1.5", "")
    assert (fields["tags"], fields["group_only_greetings"]) == (["a", "b"], ["Hello."])


def test_a_later_minor_version_of_v3_is_kept_and_data_must_be_an_object() -> None:
    assert as_v3({**OLD, "spec_version": "3.7"})["spec_version"] == "3.7"
    with pytest.raises(ValueError):
        as_v3({"spec": "chara_card_v3", "data": []})


@given(raw_cards())
def test_there_and_back_again_nothing_is_lost(raw: dict[str, Any]) -> None:
    untouched = copy.deepcopy(raw)
    card, old = as_v3(raw), to_v2(raw)
    assert raw == untouched
    assert (old["spec"], old["spec_version"]) == ("chara_card_v2", "2.0")
    assert not old["data"].keys() & {"nickname", "assets", "group_only_greetings", "creation_date"}
    assert as_v3(old) == card  # V3 -> V2 -> V3
    assert to_v2(as_v3(old)) == old  # V2 -> V3 -> V2
    after, before = meaning(parsed(old)), meaning(parsed(raw))
    assert {**after, "nickname": ""} == {**before, "nickname": ""}


def test_a_clean_v2_card_comes_back_as_it_was() -> None:
    fields = {key: value for key, value in as_v3(FLAT)["data"].items() if key != "group_only_greetings"}
    old = {"spec": "chara_card_v2", "spec_version": "2.0", "own": [1],
           "data": {**fields, "extensions": {"a": None}, "unheard_of": {"b": 2}, "character_book": {"entries": []}}}
    assert to_v2(as_v3(old)) == old


def test_where_v2_keeps_what_only_v3_has() -> None:
    card = as_v3({**OLD, "spec_version": "3.1"})
    card["data"]["assets"] = []
    old = to_v2(card)
    assert old["data"]["extensions"] == {
        "someone/else": {"depth": [1, 2.5, True]},
        KEPT_IN_V2: {"nickname": "{{user}} the Odd", "assets": [], "modification_date": 5, "spec_version": "3.1"}}
    assert as_v3(old) == card
    renamed = copy.deepcopy(old)
    renamed["data"]["nickname"] = "Newer"  # another program knows the field after all, and wrote it
    assert as_v3(renamed)["data"]["nickname"] == "Newer" and KEPT_IN_V2 not in as_v3(renamed)["data"]["extensions"]
    for odd in ([], "x", None, {KEPT_IN_V2: "not ours"}, {KEPT_IN_V2: {"theirs": 1}}):
        strange = as_v3({**OLD, "data": {**OLD["data"], "extensions": odd}})
        assert odd == {KEPT_IN_V2: "not ours"} or as_v3(to_v2(strange)) == strange


def test_cards_from_before_v1_are_understood() -> None:
    raw = {"char_name": "Ann", "char_persona": "A smith.", "char_greeting": "Hm?", "world_scenario": "A forge.",
           "example_dialogue": "<START>", "own": 1, "description": "kept"}
    card = parsed(raw)
    assert (card.name, card.greeting, card.scenario, card.description) == ("Ann", "Hm?", "A forge.", "kept")
    assert meaning(parsed(as_v3(raw))) == meaning(card)
    assert as_v3(raw)["data"]["char_persona"] == "A smith." and as_v3(raw)["data"]["own"] == 1


def test_fields_are_those_of_the_page() -> None:
    assert list(fields_of(FLAT)) == list(LABELS)
    assert fields_of(OLD)["nickname"] == "{{user}} the Odd" and fields_of(FLAT)["nickname"] == ""
    for key, value in fields_of(OLD).items():
        assert isinstance(value, list) == (key in LISTS)


@given(raw_cards(), st.dictionaries(st.sampled_from([key for key in LABELS if key not in LISTS]), TEXT, max_size=3),
       st.dictionaries(st.sampled_from(LISTS), st.lists(TEXT, max_size=3), max_size=2))
def test_a_change_reaches_its_fields_only(raw: dict[str, Any], texts: dict[str, str], lists: dict[str, list[str]]) -> None:
    untouched = copy.deepcopy(raw)
    before, after = as_v3(raw), with_fields(raw, now=12.9, **texts, **lists)
    assert raw == untouched
    for key, value in fields_of(after).items():
        expected = {**fields_of(raw), **texts, **lists}[key]
        assert value == ("" if key == "nickname" and not expected.strip() else expected)
    if fields_of(after) == fields_of(before):
        assert after == before  # opening and saving a card leaves it alone, date and all
    else:
        assert after["data"]["modification_date"] == 12
    for card in (before, after):
        for key in [*LABELS, "modification_date"]:
            card["data"].pop(key, None)
    assert after == before


def test_an_empty_nickname_is_no_nickname() -> None:
    assert "nickname" not in with_fields(OLD, nickname=" ")["data"]
    assert parsed(with_fields(OLD, nickname="")).char == parsed(OLD).name


def test_copies_of_fields_beside_data_do_not_grow_stale() -> None:
    card = with_fields({**OLD, "description": "old copy", "tags": []}, description="new", tags=["x"])
    assert (card["description"], card["tags"], card["data"]["description"]) == ("new", ["x"], "new")
    assert "first_mes" not in with_fields(OLD, first_mes="Hi.")


def test_wrong_names_and_kinds_are_our_defects() -> None:
    for wrong in ({"extensions": "x"}, {"name": ["a"]}, {"tags": "a"}):
        with pytest.raises(ValueError):
            with_fields(OLD, **wrong)  # type: ignore[arg-type]


def test_half_characters_never_get_in() -> None:
    card = with_fields(blank_card("a\ud800b"), description="x\udc00", tags=["\ud83d\ude00"])
    assert (card["data"]["name"], card["data"]["description"], card["data"]["tags"]) == ("a\ufffdb", "x\ufffd", ["\U0001f600"])


def test_a_blank_card_has_a_name_and_dates() -> None:
    card = blank_card("Ann")
    made, changed = card["data"]["creation_date"], card["data"]["modification_date"]
    assert made == changed and 0 <= time.time() - made < 60
    with pytest.raises(UserError, match="nothing about its character"):
        parsed(card)
    assert parsed(with_fields(card, description="A smith.")).name == "Ann"


def test_bundled_cards_are_v3_already() -> None:
    for card in bundled_cards():
        assert as_v3(card.raw) == card.raw
        assert with_fields(card.raw, **fields_of(card.raw)) == card.raw

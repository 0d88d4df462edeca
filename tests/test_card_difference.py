"""What changed between two versions of a card: nothing is hidden, nothing is made up."""

import copy
import itertools
import json
from typing import Any

import pytest
from card_samples import EVERYTHING, FLAT
from card_strategies import JSON, WORDS, raw_cards
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cards import difference as module
from engine.cards.difference import FieldChange, Piece, difference
from engine.cards.fields import as_v3, blank_card, fields_of, with_fields


def side(pieces: list[Piece], without: str) -> str:
    return "".join(text for text, kind in pieces if kind != without)


def only(old: dict[str, Any], new: dict[str, Any]) -> FieldChange:
    changes = difference(old, new)
    assert len(changes) == 1, changes
    return changes[0]


def test_a_word_that_was_replaced() -> None:
    change = only({**FLAT, "description": "A big cat, and a dog."}, {**FLAT, "description": "A small cat, and a dog."})
    assert (change.field, change.label) == ("description", "Description")
    assert change.pieces == [("A", "same"), (" big", "removed"), (" small", "added"), (" cat, and a dog.", "same")]


def test_a_sentence_that_was_added() -> None:
    change = only({**FLAT, "first_mes": "Don't go."}, {**FLAT, "first_mes": "Don't go. Stay."})
    assert change.pieces == [("Don't go.", "same"), (" Stay.", "added")]


def test_a_script_without_spaces() -> None:
    change = only({**FLAT, "description": "彼女は赤い鳥です。"}, {**FLAT, "description": "彼女は青い鳥です。"})
    assert change.pieces == [("彼女は", "same"), ("赤", "removed"), ("青", "added"), ("い鳥です。", "same")]


@given(WORDS, WORDS, st.sampled_from([0, 3, 6000]))
def test_pieces_make_up_both_texts(old: str, new: str, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_TOKENS", most)  # down to lines, and to the whole
        changes = difference({**FLAT, "scenario": old}, {**FLAT, "scenario": new})
    if old == new:
        assert changes == []
        return
    assert [change.field for change in changes] == ["scenario"]
    assert side(changes[0].pieces, "added") == old
    assert side(changes[0].pieces, "removed") == new
    assert all(text for text, _ in changes[0].pieces)
    kinds = [kind for _, kind in changes[0].pieces]
    assert all(one != other for one, other in itertools.pairwise(kinds))


def test_a_word_in_a_long_text_is_found_alone() -> None:
    words = [f"word{number % 300}" for number in range(4000)]
    text = " ".join(words)
    words[2000] = "changed"
    change = only({**FLAT, "scenario": text}, {**FLAT, "scenario": " ".join(words)})
    assert [piece for piece in change.pieces if piece[1] != "same"] == [(" word200", "removed"), (" changed", "added")]


def test_lists_item_by_item() -> None:
    change = only({**FLAT, "tags": ["a", "b", "c"]}, {**FLAT, "tags": ["a", "x", "c", "d"]})
    assert change.pieces == [("a", "same"), ("b", "removed"), ("x", "added"), ("c", "same"), ("d", "added")]


def others(old: dict[str, Any], new: dict[str, Any]) -> dict[str, list[Piece]]:
    found = [change for change in difference(old, new) if change.field == "other"]
    assert len({change.label for change in found}) == len(found)
    return {change.label: change.pieces for change in found}


def test_other_fields_by_their_place() -> None:
    new = copy.deepcopy(EVERYTHING)
    new["data"]["extensions"]["someone/else"]["depth"] = [1, 2.5, 1, "more"]
    new["data"]["unheard_of"] = "kept well"
    new["data"]["character_book"] = {"entries": [{"keys": ["sea"], "content": "It rises.", "comment": "", "id": 0}]}
    new["avatar"] = "none"
    new["data"]["number"] = 1
    assert others(EVERYTHING, new) == {
        "Beside the card · Avatar": [("none", "added")],
        "Extension someone/else · Depth": [("1", "same"), ("2.5", "same"), ("true", "removed"),  # for Python, equal to 1
                                           ("1", "added"), ('"more"', "added")],
        "Unheard of": [("kept", "same"), (" well", "added")],
        "Lorebook · “sea”": [("Keys: sea\nText: It rises.\nId: 0", "added")],
        "Number": [("1", "added")],
    }
    text = copy.deepcopy(new)
    text["data"]["number"] = "1"
    assert others(new, text) == {"Number": [("1", "removed"), ('"1"', "added")]}


ENTRIES = [{"id": 1, "name": "The mill", "keys": ["mill"], "content": "It burned down.", "enabled": True},
           {"keys": ["lamp", "light"], "content": "The lamp is green.", "enabled": True},
           {"comment": "harbour", "keys": ["ship"], "content": "No ship comes.", "enabled": True}]


def with_book(*entries: dict[str, Any], **book: Any) -> dict[str, Any]:
    return {**FLAT, "character_book": {"entries": list(entries), **book}}


def test_a_lorebook_is_compared_entry_by_entry() -> None:
    mill, lamp, harbour = copy.deepcopy(ENTRIES)
    old = with_book(mill, lamp, harbour, scan_depth=4)
    new_mill = {**mill, "name": "The old mill", "content": "It burned down twice.", "insertion_order": 5}
    new_lamp = {**lamp, "keys": ["lamp", "lantern"], "enabled": False}
    tower = {"keys": ["tower"], "content": "A tower.", "secondary_keys": [], "extensions": {"depth": 1}}
    assert others(old, with_book(tower, new_mill, new_lamp, scan_depth=2)) == {
        "Lorebook · “tower”": [("Keys: tower\nText: A tower.\nExtensions: Depth: 1", "added")],
        "Lorebook · “The old mill” · Name": [("The", "same"), (" old", "added"), (" mill", "same")],
        "Lorebook · “The old mill” · Text": [("It burned down", "same"), (" twice", "added"), (".", "same")],
        "Lorebook · “The old mill” · Order": [("5", "added")],
        "Lorebook · “lamp, lantern” · Keys": [("lamp", "same"), ("light", "removed"), ("lantern", "added")],
        "Lorebook · “lamp, lantern” · Switched on": [("true", "removed"), ("false", "added")],
        "Lorebook · “harbour”": [("Remark: harbour\nKeys: ship\nText: No ship comes.\nSwitched on: true", "removed")],
        "Lorebook · Scan depth": [("4", "removed"), ("2", "added")],
    }


def test_the_first_entry_of_a_book_is_all_that_is_reported() -> None:
    book = {"extensions": {}, "name": "", "entries": [{"keys": ["sea"], "content": "It rises."}]}
    bare, full = blank_card("Ann"), blank_card("Ann")
    full["data"]["character_book"] = book
    assert others(bare, full) == {"Lorebook · “sea”": [("Keys: sea\nText: It rises.", "added")]}
    assert others(full, bare) == {"Lorebook · “sea”": [("Keys: sea\nText: It rises.", "removed")]}
    full["data"]["character_book"] = {"extensions": {}, "entries": []}
    assert others(bare, full)  # two versions that differ never look the same
    off = {**FLAT, "extensions": {"someone/else": {"on": False, "depth": 0, "note": None}}}
    assert others(FLAT, off) == {"Extension someone/else · On": [("false", "added")],
                                 "Extension someone/else · Depth": [("0", "added")]}


def test_an_entry_that_replaced_another_is_no_rewriting() -> None:
    mill, lamp, _ = copy.deepcopy(ENTRIES)
    storm = {"id": 9, "name": "The storm", "keys": ["storm"], "content": "It closed the road.", "enabled": True}
    found = difference(with_book({**mill, "id": 8}, lamp), with_book(storm, lamp))
    assert [(change.label, [kind for _, kind in change.pieces]) for change in found] == [
        ("Lorebook · “The storm”", ["added"]), ("Lorebook · “The mill”", ["removed"])]
    rewritten = {**lamp, "keys": ["lantern"], "content": "The lamp is pale green."}
    assert {change.label for change in difference(with_book(mill, lamp), with_book(mill, rewritten))} == {
        "Lorebook · “lantern” · Keys", "Lorebook · “lantern” · Text"}


def test_entries_that_only_changed_their_places() -> None:
    change = only(with_book(*ENTRIES), with_book(*ENTRIES[1:], ENTRIES[0]))
    assert change.label == "Lorebook · Sequence" and change.is_list
    assert [text for text, kind in change.pieces if kind != "added"] == ["The mill", "lamp, light", "harbour"]
    assert [text for text, kind in change.pieces if kind != "removed"] == ["lamp, light", "harbour", "The mill"]


def test_very_long_books_are_compared_as_well() -> None:
    entries = [{"keys": [str(number)], "content": "x"} for number in range(3_000)]
    assert len(difference(with_book(*entries), with_book(*({**one, "content": "y"} for one in entries[1:])))) == 3_000
    assert len(difference(with_book(*[{}] * 3_000), with_book(*[{"a": 1}] * 3_000))) == 6_000


def test_npc_fields_in_words() -> None:
    def npc(**fields: Any) -> dict[str, Any]:
        return {**FLAT, "extensions": {"persona_studio/npc": fields}}

    old = npc(goals=[{"text": "Light the lamp."}], big_five={"openness": 60},
              secrets=[{"text": "She lit the other one.", "words": ["other"], "may_learn": "Bo"}])
    new = npc(goals=[{"text": "Light the other lamp."}, {"text": "Sleep."}], big_five={"openness": 80},
              secrets=[{"text": "She lit the other one.", "words": ["other", "lit"], "may_learn": "Bo"}])
    assert others(old, new) == {
        "NPC · Goals · “Light the other lamp.” · Text": [("Light the", "same"), (" other", "added"), (" lamp.", "same")],
        "NPC · Goals · “Sleep.”": [("Text: Sleep.", "added")],
        "NPC · Secrets · “She lit the other one.” · Words": [("other", "same"), ("lit", "added")],
        "NPC · Big Five · Openness": [("60", "removed"), ("80", "added")],
    }
    assert others(FLAT, npc(goals=[{"text": "Sleep."}])) == {"NPC · Goals · “Sleep.”": [("Text: Sleep.", "added")]}


@settings(max_examples=60)
@given(raw_cards(), JSON, JSON)
def test_nothing_is_hidden(raw: dict[str, Any], old: Any, new: Any) -> None:
    """Two values differ, as JSON, exactly where a change is told of."""
    before, after = as_v3(raw), as_v3(raw)
    before["data"]["x-changed"], after["data"]["x-changed"] = {"entries": old}, {"entries": new}
    equal = json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)
    found = difference(before, after)
    assert (found == []) == equal
    assert all(any(kind != "same" for _, kind in change.pieces) for change in found)


def test_what_is_no_change() -> None:
    assert difference(FLAT, as_v3(FLAT)) == []
    dated = as_v3(FLAT)
    dated["data"]["modification_date"] = 1
    assert difference(FLAT, dated) == []
    mirrored = {**as_v3(FLAT), "description": "old copy"}
    assert [change.field for change in difference(mirrored, with_fields(mirrored, description="New."))] == ["description"]


@settings(max_examples=60)
@given(raw_cards(), raw_cards())
def test_any_two_cards(old: dict[str, Any], new: dict[str, Any]) -> None:
    untouched = copy.deepcopy((old, new))
    changes = {change.field: change for change in difference(old, new)}
    assert (old, new) == untouched
    before, after = fields_of(old), fields_of(new)
    assert {key for key in before if before[key] != after[key]} == changes.keys() - {"other"}
    for key, change in changes.items():
        if key != "other" and isinstance(before[key], list):
            assert [text for text, kind in change.pieces if kind != "added"] == before[key]
            assert [text for text, kind in change.pieces if kind != "removed"] == after[key]
    assert difference(old, old) == []

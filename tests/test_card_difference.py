"""What changed between two versions of a card: nothing is hidden, nothing is made up."""

import copy
import itertools
from typing import Any

import pytest
from card_samples import EVERYTHING, FLAT
from card_strategies import WORDS, raw_cards
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cards import difference as module
from engine.cards.difference import FieldChange, Piece, difference
from engine.cards.editing import as_v3, fields_of, with_fields


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


@settings(deadline=None)
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


def test_other_fields_by_their_place() -> None:
    new = copy.deepcopy(EVERYTHING)
    new["data"]["extensions"]["someone/else"]["depth"] = [1, 2.5, 1, "more"]
    new["data"]["unheard_of"] = "kept well"
    new["data"]["character_book"] = {"entries": [{"keys": ["sea"]}]}
    new["avatar"] = "none"
    found = {change.label: change.pieces for change in difference(EVERYTHING, new) if change.field == "other"}
    assert found == {
        "avatar": [('"none"', "added")],
        'data.extensions["someone/else"].depth[2]': [("true", "removed"), ("1", "added")],  # equal in Python, not in JSON
        'data.extensions["someone/else"].depth[3]': [('"more"', "added")],
        "data.unheard_of": [("kept", "same"), (" well", "added")],
        "data.character_book": [('{"entries": [{"keys": ["sea"]}]}', "added")],
    }


def test_what_is_no_change() -> None:
    assert difference(FLAT, as_v3(FLAT)) == []
    dated = as_v3(FLAT)
    dated["data"]["modification_date"] = 1
    assert difference(FLAT, dated) == []
    mirrored = {**as_v3(FLAT), "description": "old copy"}
    assert [change.field for change in difference(mirrored, with_fields(mirrored, description="New."))] == ["description"]


@settings(deadline=None)
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

"""NPC fields: what they write, what survives a change, and what happens to a malformed extension."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base.errors import UserError
from engine.cards.card import bundled_cards, parse_card
from engine.cards.macros import expand_macros
from engine.cards.npc import FIELDS, KEY, LISTS, SCALES, Entry, compile_npc, npc_object, read_npc, scale_words, with_npc, written
from engine.cards.prompt import render_system_prompt
from tests.store_samples import card

FULL = {
    "goals": ["the crown by midwinter", {"text": "ruin the general", "weight": 3}],
    "beliefs": ["Mercy is a debt"],
    "coping": [{"text": "counts the exits", "when": "praised"}, "sleeps in the stable"],
    "secrets": [{"text": "The medicine is poison", "words": ["poison*"], "may_learn": "the doctor"}],
    "knowledge_limits": ["what lies beyond the sea"],
    "relationships": [{"who": "Edric", "text": "a boy-king whom she pretends to love"}],
    "forbidden_topics": [{"text": "her childhood", "words": ["mother"]}],
    "speech_habits": [{"text": 'Calls everyone "my dear"', "always": ["my dear"], "never": ["sorry"]}],
    "actions": [{"name": "bow", "when": "{{user}} kneels"}],
    "mood": {"valence": 20, "arousal": 50}, "big_five": {"openness": 90, "agreeableness": 0},
    "someone": {"else": [1, None]},
}


def with_object(own: Any) -> dict[str, Any]:
    return card(extensions={"other/app": [1, None], KEY: own})


def compiled(own: Any) -> str:
    return compile_npc(parse_card(json.dumps(with_object(own)).encode(), "card"))


def test_every_field_writes_what_it_says_and_nothing_else_does() -> None:
    text = compiled(FULL)
    for line in ("- the crown by midwinter\n- ruin the general", "The medicine is poison. Only the doctor may learn this.",
                 "What {{char}} believes: Mercy is a debt", "- When praised: counts the exits\n- sleeps in the stable",
                 "says so when asked: what lies beyond the sea", "Edric: a boy-king whom she pretends to love",
                 "will not talk about: her childhood", 'Calls everyone "my dear". Never says "sorry".',
                 "Right now {{char}} is rather gloomy.", "is very curious about new things and very distrustful and stubborn."):
        assert line in text
    assert "poison*" not in text and "mother" not in text and "someone" not in text  # words are for tests, not for the model
    assert text.split("\n\n") == [part for part in written(read_npc(with_object(FULL))).values() if part]


def test_a_card_without_the_fields_writes_not_one_byte() -> None:
    empty = ({}, None, {"goals": [], "mood": {}}, {"big_five": {"openness": 50}}, {"script": {"removed": ["x"]}}, {"goals": [" "]})
    assert [compiled(own) for own in empty] == [""] * len(empty)
    assert compile_npc(parse_card(json.dumps(card(extensions={})).encode(), "card")) == ""


def test_a_slider_writes_more_the_further_it_is_from_the_middle() -> None:
    words = [scale_words("valence", level) for level in (0, 19, 20, 39, 40, 60, 61, 80, 81, 100)]
    assert words == ["very gloomy"] * 2 + ["rather gloomy"] * 2 + [""] * 2 + ["rather cheerful"] * 2 + ["very cheerful"] * 2
    for scales in SCALES.values():
        assert all(len({scale_words(scale, level) for level in range(101)}) == 5 for scale in scales)


@pytest.mark.parametrize(("own", "says"), [
    ("a text", "are a text, where an object should be"), ([], "are a list"), ({"goals": "x"}, "goals is a text"),
    ({"secrets": ["ok", 7, {"text": 1}]}, "secrets is not readable at entry 2, 3"),
    ({"speech_habits": [{"text": "x", "always": "no list"}]}, "speech habits is not readable at entry 1"),
    ({"mood": {"valence": 101}}, "mood is not a number from 0 to 100 at valence"), ({"big_five": [1]}, "big five is a list"),
    ({"mood": {"arousal": True}}, "at arousal"), ({"goals": ["x"] * 61}, "of which the first 60 are used"),
])
def test_what_cannot_be_read_gets_one_sentence_and_the_rest_is_used(own: Any, says: str) -> None:
    raw = with_object({**own, "relationships": ["Dot"]} if isinstance(own, dict) else own)
    before = copy.deepcopy(raw)
    found = read_npc(raw)
    assert len(found.faults) == 1 and says in found.faults[0]
    parsed = parse_card(json.dumps(raw).encode(), "card")  # the card itself stays usable
    assert ("Dot" in compile_npc(parsed)) == isinstance(own, dict) and raw == before


def test_readable_entries_beside_unreadable_ones_are_used_and_unreadable_ones_outlive_an_edit() -> None:
    raw = with_object({"secrets": ["ok", 7], "goals": 5})
    assert read_npc(raw).secrets == (Entry("ok"),)
    changed = with_npc(raw, {"secrets": [{"text": "new", "words": [], "may_learn": ""}]})
    assert npc_object(changed) == {"secrets": ["new", 7], "goals": 5}
    aside = with_npc(with_object("someone's note"), {"goals": ["win"]})
    assert npc_object(aside) == {"unreadable": "someone's note", "goals": ["win"]}


def test_a_change_touches_its_own_field_alone() -> None:
    raw = with_object(FULL)
    changed = with_npc(raw, {"goals": ["peace"], "mood": {"valence": 50, "arousal": 90}}, now=5)
    assert changed["data"]["extensions"]["other/app"] == [1, None]
    assert npc_object(changed) == {**FULL, "goals": ["peace"], "mood": {"arousal": 90}}
    assert changed["data"]["modification_date"] == 5
    assert npc_object(with_npc(raw, {"big_five": {"openness": None}})) == {**FULL, "big_five": {"agreeableness": 0}}
    assert npc_object(raw) == FULL


def test_nothing_set_leaves_nothing() -> None:
    bare = card()
    assert KEY not in with_npc(bare, {"goals": [" "], "mood": {"valence": 50}})["data"]["extensions"]
    filled = with_npc(bare, {"goals": ["win"]})
    assert KEY not in with_npc(filled, {"goals": []})["data"]["extensions"]


@pytest.mark.parametrize("changes", [{"goals": "x"}, {"mood": {"happy": 3}}, {"someone": {}}, {"script": []}, {"goals": [3]}])
def test_what_no_page_of_ours_sends_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"NPC field|takes"):
        with_npc(card(), changes)


def test_a_card_without_room_for_extensions_says_so() -> None:
    with pytest.raises(UserError, match="extensions of this card are a list"):
        with_npc(card(extensions=[1]), {"goals": ["win"]})


JSON = st.recursive(st.none() | st.booleans() | st.integers(-200, 200) | st.text(max_size=8)
                    | st.floats(allow_nan=False, allow_infinity=False),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["text", "who", "words", "always", "valence", "openness", "x"]), inner, max_size=3),
                    max_leaves=8)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from([*FIELDS, "script", "x"]), JSON, max_size=5) | JSON)
def test_whatever_is_in_the_extension_the_card_is_usable_and_keeps_it(own: Any) -> None:
    raw = with_object(own)
    before = copy.deepcopy(raw)
    assert all(sentence.endswith(".") for sentence in read_npc(raw).faults)
    assert isinstance(compile_npc(parse_card(json.dumps(raw).encode(), "card")), str)
    changed = with_npc(raw, {"mood": {"arousal": 77}})
    assert raw == before and read_npc(changed).mood["arousal"] == 77
    if isinstance(own, dict):
        assert {key: value for key, value in npc_object(changed).items() if key != "mood"} == {
            key: value for key, value in own.items() if key != "mood"}


def test_first_six_bundled_characters_carry_no_fields_and_some_of_the_others_do() -> None:
    """The long measurement is made with the first six: their prompts must not move. Two lists came later than the others' cards."""
    cards = bundled_cards()
    assert [compile_npc(one) for one in cards[:6]] == [""] * 6
    filled = [one for one in cards if compile_npc(one)]
    assert 2 <= len(filled) <= 4
    for one in filled:
        found = read_npc(one.raw)
        wanted = {*LISTS, *SCALES} - {"beliefs", "coping"}
        assert not found.faults and all(getattr(found, name) for name in wanted), one.name


def test_the_section_is_between_the_scenario_and_the_closing_and_is_the_only_difference() -> None:
    plain = parse_card(json.dumps(card(scenario="A storm.", extensions={"other/app": [1]})).encode(), "card")
    filled = parse_card(json.dumps({**plain.raw, "data": {**plain.raw["data"], "extensions": {KEY: FULL}}}).encode(), "card")
    before, after = render_system_prompt(plain).split("\n\n"), render_system_prompt(filled).split("\n\n")
    section = expand_macros(compile_npc(filled), filled, "Player").split("\n\n")
    assert len(section) > 5 and after == [*before[:3], *section, *before[3:]] and before[2] == "Scenario: A storm."

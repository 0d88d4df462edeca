"""What other programs make of a card: told of what the card has, and of nothing else."""

from typing import Any

import pytest
from card_samples import EVERYTHING, FLAT
from card_strategies import raw_cards
from cards_corpus import ASSETS, BOOK, CARDS, v3
from hypothesis import given, settings

from engine.cards.compatibility import PROGRAMS, findings


def told(raw: dict[str, Any], program: str, files: int = 0) -> str:
    return "\n".join(f"{one.fate}: {one.sentence}" for one in findings(raw, files) if one.program == program)


def test_a_plain_card_is_used_whole_where_cards_are_read() -> None:
    assert told(FLAT, "SillyTavern") == told(FLAT, "Chub") == ""
    assert told(FLAT, "text-generation-webui").startswith("lost: Everything, unless it gets the picture (PNG)")
    assert len(findings(FLAT)) == 1


@pytest.mark.parametrize(("raw", "words"), [
    (v3(nickname="Nan"), ["unused: Nickname", "lost: Nickname", "lost: Nickname"]),
    (v3(group_only_greetings=["All!"]), ["", "lost: Greetings in groups", "lost: Greetings in groups"]),
    (v3(source=["x"]), ["unused: Where the card", "lost: Where the card", "lost: Where the card"]),
    (v3(personality="Dry", creator="Me", tags=["a"]), ["", "", "lost: Personality.\nlost: Tags.\nlost: Author."]),
    (v3(extensions={"persona_studio/npc": {}}), ["unused: This studio's", "unused: This studio's", "those of this studio"]),
    (v3(extensions={"chub": {}}), ["", "", "lost: Extensions."]),
    (v3(character_book={"entries": [{"keys": ["a"], "content": "Lamp.", "use_regex": False}]}), ["", "", "lost: The lorebook."]),
])
def test_each_host_by_its_own_ways(raw: dict[str, Any], words: list[str]) -> None:
    for program, expected in zip(PROGRAMS, words, strict=True):
        assert expected in told(raw, program) if expected else told(raw, program) == ""


def test_what_happens_to_a_lorebook() -> None:
    text = told(v3(character_book=BOOK), "SillyTavern")
    for words in ("Decorators of the lorebook, but for", "not written between slashes", "Priorities", "own depth, budget"):
        assert words in text
    one = {"keys": ["/la.p/i"], "content": "@@activate\nLamp.", "use_regex": True}
    assert told(v3(character_book={"entries": [one]}), "SillyTavern") == ""
    assert "as plain words" in told(v3(character_book={"entries": [one]}), "Chub")
    assert "may see them as text" in told(v3(character_book={"entries": [one]}), "Chub")


def test_what_happens_to_files() -> None:
    pictures = v3(assets=[ASSETS[0]])
    assert told(pictures, "SillyTavern", 1) == "lost: The card's files, in every form but the archive."
    sounds = v3(assets=[{"type": "x", "uri": "embeded://a/song.mp3", "name": "song"}])
    assert "no pictures, such as sounds" in told(sounds, "SillyTavern", 1)
    for program in ("Chub", "text-generation-webui"):
        assert "lost: All files but the portrait." in told(pictures, program, 1)
    assert "All files" not in told(v3(assets=[ASSETS[2]]), "Chub")  # an address elsewhere is no file of the card


def test_losses_come_first_and_hosts_in_order() -> None:
    found = findings(EVERYTHING, 3)
    assert [one.program for one in found] == sorted((one.program for one in found), key=PROGRAMS.index)
    fates = [one.fate for one in found if one.program == "SillyTavern"]
    assert fates == sorted(fates) and "lost" in fates and "unused" in fates


@settings(max_examples=60)
@given(raw_cards())
def test_any_card_has_a_report(raw: dict[str, Any]) -> None:
    for one in findings(raw):
        assert one.program in PROGRAMS and one.sentence.endswith(".")


@pytest.mark.parametrize("name", CARDS)
def test_every_shape_has_a_report(name: str) -> None:
    assert findings(CARDS[name])


def test_a_malformed_book_has_a_report() -> None:
    for entry in (5, {"keys": 5, "use_regex": True, "content": 5, "secondary_keys": {"a": 1}},
                  {"keys": [None, 1], "use_regex": True}):
        assert findings(v3(character_book={"entries": [entry]}, extensions=[], assets={"a": 1}))

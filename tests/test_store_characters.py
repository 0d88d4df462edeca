"""Characters and their versions: nothing is lost, and autosaves do not flood the history."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from engine.base.errors import UserError
from engine.cards.card import bundled_cards
from studio.store import characters, chats, lines, rounds, runs
from studio.store.database import Store
from tests.store_samples import LINES, card, library, smith


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return library(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the library, in a list of one."""
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def texts(store: Store, id: str) -> list[str]:
    return [version.card["data"]["description"] for version in characters.versions(store, id)]


STRANGE = {
    "emoji and right to left": card("\u05d3\u05d5\u05d3 \U0001f56f\ufe0f\u200d", description="\u202emirrored\u202c \U0001f9d9"),
    "zero bytes": card("Nul\0l", description="before\0after", first_mes="\0"),
    "unknown fields": {**card(), "more": {"deep": [1.5, True, None, ""]}, "data": {**card()["data"], "character_book": None}},
    "a flat card": {"name": "Old", "description": "V1", "key order": 1, "a": 2},
}


@pytest.mark.parametrize("raw", STRANGE.values(), ids=STRANGE.keys())
def test_a_card_comes_back_as_it_went_in(store: Store, raw: dict[str, Any]) -> None:
    made = characters.create(store, raw)
    kept = characters.head(store, made.id).card
    assert json.dumps(kept) == json.dumps(raw)  # order, and 1 against true
    assert characters.get(store, made.id) == characters.get(store, made.slug) == made
    assert made.name == " ".join(raw.get("data", raw)["name"].split())


def test_what_is_no_card_is_refused(store: Store) -> None:
    recursive: dict[str, Any] = card()
    recursive["data"]["extensions"] = recursive
    for bad in ("text", {"spec": "chara_card_v3"}, {"spec": "chara_card_v3", "data": []}, recursive, card(picture=b"raw"),
                card(description="x" * 1_000_001)):
        with pytest.raises(UserError):
            characters.create(store, bad)  # type: ignore[arg-type]
    assert characters.list_characters(store) == []


def test_an_unfinished_card_may_be_kept(store: Store) -> None:
    made = characters.create(store, {"spec": "chara_card_v3", "data": {}})
    assert (made.name, made.version) == ("", 1)
    assert characters.save(store, made.id, card("Bea"), autosave=False).number == 2
    renamed = characters.get(store, made.id)
    assert renamed and (renamed.name, renamed.slug, renamed.tags) == ("Bea", "bea", ("forge",))


def test_the_slug_follows_the_name_and_the_old_one_still_leads_there(store: Store) -> None:
    made = characters.create(store, card("New character"))
    characters.save(store, made.id, card("Mira"))  # an autosave, and one that replaces it
    characters.save(store, made.id, card("Mira Voss"))
    for address in (made.id, "mira-voss", "mira", "new-character"):
        found = characters.get(store, address)
        assert found and (found.id, found.slug) == (made.id, "mira-voss"), address
    others = [characters.create(store, card(name)) for name in ("New character", "Mira")]
    assert [one.slug for one in others] == ["new-character-2", "mira-2"]  # an address never comes to mean somebody else
    characters.save(store, others[1].id, card("Mira", description="Changed."))
    assert characters.get(store, "mira-2") == characters.get(store, others[1].id)
    characters.restore(store, made.id, 1)
    assert [one and one.slug for one in (characters.get(store, made.id), characters.get(store, "mira"))] == ["new-character"] * 2
    assert characters.get(store, "nobody") is None


def test_slugs_are_unique_and_duplicates_are_independent(store: Store) -> None:
    ann = characters.create(store, card(), portrait=b"face")
    copy = characters.duplicate(store, ann.id)
    assert (ann.slug, copy.slug, copy.bundled_as) == ("ann-lee", "ann-lee-2", None)
    assert characters.head(store, copy.id).portrait == characters.head(store, ann.id).portrait
    characters.save(store, copy.id, card(description="Another."))
    assert texts(store, ann.id) == ["A smith."]


def test_searching_and_deleting(store: Store) -> None:
    ann, bea = smith(store), characters.create(store, card("BÉA Stone", nickname="Bee", tags=["Sea", "storm"]))
    for search, found in (("", {"Ann Lee", "BÉA Stone"}), ("béa SEA", {"BÉA Stone"}), ("bee", {"BÉA Stone"}), ("sea ann", set()),
                          ("%", set())):
        assert {one.name for one in characters.list_characters(store, search)} == found
    assert characters.delete(store, bea.id).deleted
    assert [one.name for one in characters.list_characters(store)] == ["Ann Lee"]
    assert characters.undelete(store, bea.id) == bea
    assert len(characters.list_characters(store)) == 2
    with pytest.raises(UserError, match="not in the library"):
        characters.delete(store, "none")
    characters.save(store, ann.id, card(description="New."))
    assert characters.list_characters(store)[0].id == ann.id  # the last changed comes first


def test_texts_are_searched_and_nothing_that_nobody_wrote(store: Store) -> None:
    book = {"entries": [{"keys": ["mill"], "content": "It BURNED down.", "position": "before_char", "extensions": {"x": "hidden"}}]}
    told = characters.create(store, card("Cid", character_book=book, first_mes="Grüß Gott.", alternate_greetings=["Ahoy, sailor."],
                                         assets=[{"type": "icon", "uri": "ccdefault:"}],
                                         extensions={"persona_studio/npc": {"goals": [{"text": "Find the lamp."}]},
                                                     "other/app": {"secret": "theirs"}}))
    named = characters.create(store, card("Sailor"))
    for search in ("burned mill", "GRÜSS gott", "find lamp cid", "ahoy"):
        assert [one.id for one in characters.list_characters(store, search)] == [told.id], search
    for search in ("chara_card", "before_char", "ccdefault", "icon", "theirs", "hidden", "entries", "3.0"):
        assert characters.list_characters(store, search) == [], search
    assert [one.id for one in characters.list_characters(store, "sailor")] == [named.id, told.id]  # names before texts
    characters.save(store, told.id, card("Cid"), autosave=False)
    assert characters.list_characters(store, "burned") == []  # the newest version counts


def test_equal_content_makes_no_version(store: Store) -> None:
    ann = characters.create(store, card(), portrait=b"face")
    for autosave in (True, False):
        assert characters.save(store, ann.id, card(), autosave=autosave).number == 1
        assert characters.save(store, ann.id, card(), b"face", autosave=autosave).number == 1
    assert characters.save(store, ann.id, card(extensions={"other/app": [True, None]}), autosave=False).number == 2
    assert characters.save(store, ann.id, card(extensions={"other/app": [1, None]}), autosave=False).number == 3


def test_autosaves_soon_after_one_another_are_one_version(store: Store, clock: list[float]) -> None:
    ann = smith(store)
    for second, text in ((1, "a"), (10, "ab"), (30, "abc"), (31.1, "abcd"), (60, "abcde"), (62, "abcdef")):
        clock[0] = 1_000_000.0 + second
        characters.save(store, ann.id, card(description=text))
    assert texts(store, ann.id) == ["abcdef", "abcde", "abc", "A smith."]
    assert characters.head(store, ann.id).origin == "autosaved"


def test_a_save_by_hand_is_never_replaced(store: Store, clock: list[float]) -> None:
    ann = smith(store)
    characters.save(store, ann.id, card(description="a"), note="mine", autosave=False)
    characters.save(store, ann.id, card(description="ab"))
    assert characters.save(store, ann.id, card(description="ab"), note="good", autosave=False).number == 3
    characters.save(store, ann.id, card(description="abc"))
    assert [(one.card["data"]["description"], one.note) for one in characters.versions(store, ann.id)] == [
        ("abc", ""), ("ab", "good"), ("a", "mine"), ("A smith.", "")]


def test_a_clock_set_back_replaces_nothing(store: Store, clock: list[float]) -> None:
    ann = smith(store)
    characters.save(store, ann.id, card(description="a"))
    clock[0] -= 3600
    characters.save(store, ann.id, card(description="b"))
    assert texts(store, ann.id) == ["b", "a", "A smith."]


REFERENCES = {
    "chat": lambda store, id: chats.start(store, id, 2, "starter"),
    "run": lambda store, id: runs.add(store, id, 2, "lines", "x", {}),
    "line set": lambda store, id: lines.add_set(store, id, 2, LINES, {}),
    "round": lambda store, id: rounds.open_round(store, id, 2, "grid", "Hi", [], [(None, "starter")]),
}


@pytest.mark.parametrize("refer", REFERENCES.values(), ids=REFERENCES.keys())
def test_a_version_that_something_refers_to_is_not_replaced(store: Store, clock: list[float], refer: Any) -> None:
    ann = smith(store)
    characters.save(store, ann.id, card(description="a"))
    refer(store, ann.id)
    characters.save(store, ann.id, card(description="b"))
    assert texts(store, ann.id) == ["b", "a", "A smith."]


def test_portraits_are_kept_once_changed_and_removed(store: Store, clock: list[float]) -> None:
    ann = characters.create(store, card(), portrait=b"one")
    first = characters.head(store, ann.id).portrait
    second = characters.save(store, ann.id, card(), portrait=b"two").portrait
    assert first and second and characters.portrait(store, second) == b"two"
    none = characters.save(store, ann.id, card(), portrait=None)
    assert (none.number, none.portrait) == (2, None)  # the autosave before is replaced
    assert characters.portrait(store, second) is None  # and its picture, which nothing shows any more, is gone
    assert characters.save(store, ann.id, card(description="b")).portrait is None  # kept as it is: none
    assert characters.restore(store, ann.id, 1).portrait == first
    assert characters.portrait(store, first) == b"one"


def test_restoring_an_old_version_makes_a_new_one(store: Store) -> None:
    ann = smith(store)
    characters.save(store, ann.id, card("Bea", description="b"), autosave=False)
    back = characters.restore(store, ann.id, 1)
    assert (back.number, back.card, back.note) == (3, card(), "Version 1 restored")
    assert texts(store, ann.id) == ["A smith.", "b", "A smith."]
    named = characters.get(store, ann.id)
    assert named and (named.name, named.version) == ("Ann Lee", 3)
    with pytest.raises(UserError):
        characters.restore(store, ann.id, 9)


def test_bundled_characters_come_once_and_follow_the_studio_until_changed(store: Store) -> None:
    cards = [one.raw for one in bundled_cards()]
    characters.sync_bundled(store, cards)
    characters.sync_bundled(store, cards)
    found = characters.list_characters(store)
    assert len(found) == len(cards) and all(one.bundled_as and one.version == 1 for one in found)
    mine, theirs, gone = found[:3]
    characters.save(store, mine.id, card(mine.name, description="My own."))
    characters.delete(store, gone.id)
    for one in cards:
        one["data"]["description"] += " More."
    characters.sync_bundled(store, cards)
    assert texts(store, mine.id)[0] == "My own."
    assert texts(store, theirs.id)[0].endswith(" More.") and len(texts(store, theirs.id)) == 2
    assert len(characters.list_characters(store)) == len(cards) - 1

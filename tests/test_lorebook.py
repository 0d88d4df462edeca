"""Which entries of a lorebook fire and why, in what order, within what budget; and where they stand in the prompt."""

import json
import time
from typing import Any

import pytest
from card_samples import v2
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base.errors import UserError
from engine.calibration.lines import MOST, PER_ENTRY, lore_queries, split_of
from engine.cards.book import Book, parse_book
from engine.cards.card import Card, parse_card, read_book, read_lorebook
from engine.cards.lorebook import Firing, fire
from engine.cards.prompt import Setting, fired_in, fit, messages, render_system_prompt

MILL = {"keys": ["mill"], "content": "The mill burned down."}


def book(*entries: dict[str, Any], **fields: Any) -> Book:
    """A book of entries, those that are only a dictionary of some fields."""
    return parse_book({"entries": [{"content": f"lore {number}", **entry} for number, entry in enumerate(entries)], **fields})


def fired(found: Book, *said: str, answers: int = 0, seed: int = 0) -> Firing:
    """What fires when this was said, the last one last; a token is a word."""
    return fire(found, said, answers, seed, str, lambda text: len(text.split()))


def names(firing: Firing) -> list[int]:
    """The numbers of the entries that are in the prompt."""
    return [one.entry.number for one in firing.kept]


@pytest.mark.parametrize(
    ("entry", "text", "fires"),
    [
        ({"keys": ["mill"]}, "The Mill, please.", True),
        ({"keys": ["mill"]}, "A million.", False),
        ({"keys": ["mill"]}, "The windmills", False),
        ({"keys": ["mill"], "extensions": {"match_whole_words": False}}, "windmills", True),
        ({"keys": ["Mill"], "case_sensitive": True}, "the mill", False),
        ({"keys": ["Mill"], "case_sensitive": True}, "the Mill", True),
        ({"keys": ["old mill"]}, "the old mills", True),
        ({"keys": ["水車"]}, "この水車は", True),
        ({"keys": ["straße"]}, "STRASSE!", True),
        ({"keys": ["mill"], "enabled": False}, "mill", False),
        ({"keys": ["  ", ""]}, "anything", False),
        ({"keys": ["/m[iu]ll/"]}, "the MULL", False),
        ({"keys": ["/m[iu]ll/i"]}, "the MULL", True),
        ({"keys": ["m.ll"], "use_regex": True}, "a windmill", False),  # SillyTavern writes use_regex everywhere
        ({"keys": ["art"], "use_regex": True}, "A party.", False),
        ({"keys": ["art"], "use_regex": True}, "The art.", True),
        ({"keys": ["C++"], "use_regex": True}, "I speak C++.", True),
        ({"keys": ["C++"], "use_regex": True}, "CCC", False),
        ({"keys": ["/m.ll/"], "use_regex": True}, "a windmill", True),
        ({"keys": ["/home/ada/"]}, "cd /home/ada/bin", False),
        ({"keys": ["/home/ada/"]}, "It is /home/ada/ now", True),
        ({"keys": ["/and\\/or/"]}, "and/or", True),
        ({"keys": ["/mill/q"]}, "the mill/q", False),
        ({"keys": ["마법"]}, "마법사가 왔다.", True),
        ({"keys": ["마법"]}, "대마법", True),
        ({"keys": ["Ada"]}, "これはAdaです。", True),
        ({"keys": ["Ada"]}, "마법사Ada가", True),
        ({"keys": ["Ada"]}, "Adaмир", True),
        ({"keys": ["мир"]}, "всемирный", False),
        ({"keys": ["Ada"]}, "Ada1", False),
        ({"keys": ["Ada"]}, "\u2694\ufe0fAda\u2694", True),
        ({"keys": ["cafe"]}, "cafe\u0301", False),
        ({"keys": ["x-ray"]}, "an x-ray.", True),
        ({"keys": ["x-ray"]}, "an x-rays", False),
        ({"keys": ["mill\tpond"]}, "the mill\tponds", True),
        ({"keys": ["Mill"], "case_sensitive": None, "extensions": {"case_sensitive": True}}, "the mill", False),
        ({"keys": ["Mill"], "case_sensitive": None}, "the mill", True),
        ({"keys": ["m.ll"]}, "a mill", False),
        ({"keys": [], "constant": True}, "", True),
        ({"keys": ["mill"], "content": "  "}, "mill", False),
        ({"keys": ["mill"], "selective": True, "secondary_keys": ["fire"]}, "mill", False),
        ({"keys": ["mill"], "selective": True, "secondary_keys": ["fire", "war"]}, "war at the mill", True),
        ({"keys": ["mill"], "selective": False, "secondary_keys": ["fire"]}, "mill", True),
        ({"keys": ["mill"], "selective": True, "secondary_keys": []}, "mill", True),
        ({"keys": ["mill"], "selective": True, "secondary_keys": ["a", "b"], "extensions": {"selectiveLogic": 3}}, "mill a", False),
        (
            {"keys": ["mill"], "selective": True, "secondary_keys": ["a", "b"], "extensions": {"selectiveLogic": 3}},
            "mill a b",
            True,
        ),
        ({"keys": ["mill"], "selective": True, "secondary_keys": ["a", "b"], "extensions": {"selectiveLogic": 1}}, "mill a", True),
        ({"keys": ["mill"], "selective": True, "secondary_keys": ["a", "b"], "extensions": {"selectiveLogic": 2}}, "mill a", False),
        ({"keys": ["mill"], "selective": True, "secondary_keys": ["a", "b"], "extensions": {"selectiveLogic": 2}}, "mill", True),
    ],
)
def test_keys(entry: dict[str, Any], text: str, fires: bool) -> None:
    assert bool(names(fired(book(entry), text))) is fires


def test_how_far_back_is_searched() -> None:
    said = ["mill", "a", "b", "c"]
    assert [names(fired(book(MILL, scan_depth=depth), *said)) for depth in (0, 3, 4)] == [[], [], [0]]
    assert names(fired(book({**MILL, "extensions": {"scan_depth": 4}}), *said)) == [0]
    assert names(fired(book(MILL, scan_depth=0), "mill")) == [0]  # some programs write 0 for "not set"
    assert names(fired(book({**MILL, "extensions": {"scan_depth": 0}}), "mill")) == []  # SillyTavern: only by recursion
    assert names(fired(book(MILL), "mill", "a")) == [0] and names(fired(book(MILL), "mill", "a", "b")) == []
    assert fired(book(MILL), "mill", "a").fired[0].reason == "“mill” is in the message before the last."


def test_fired_texts_fire_others() -> None:
    entries: tuple[dict[str, Any], ...] = (
        {"keys": ["mill"], "content": "Old Tam built it."},
        {"keys": ["Tam"], "content": "Tam fled to Rook."},
        {"keys": ["Rook"], "content": "A port."},
    )
    assert names(fired(book(*entries, recursive_scanning=False), "mill")) == [0]
    assert fired(book(*entries), "mill") == fired(book(*entries, recursive_scanning=True), "mill")  # SillyTavern's default
    found = fired(book(*entries, recursive_scanning=True), "mill")
    assert [(one.entry.number, one.level) for one in found.fired] == [(0, 0), (1, 1), (2, 2)]
    assert found.fired[2].reason == "“Rook” is in the text of “Tam”."
    closed = {**entries[1], "extensions": {"prevent_recursion": True}}
    assert names(fired(book(entries[0], closed, entries[2], recursive_scanning=True), "mill")) == [0, 1]
    apart = {**entries[1], "extensions": {"exclude_recursion": True}}
    assert names(fired(book(entries[0], apart, recursive_scanning=True), "mill")) == [0]
    late = {**entries[1], "extensions": {"delay_until_recursion": True}}
    assert names(fired(book(entries[0], late, recursive_scanning=True), "Tam")) == []
    assert names(fired(book(entries[0], late, recursive_scanning=True), "mill")) == [0, 1]
    ring = ({"keys": ["a"], "content": "b"}, {"keys": ["b"], "content": "a"})
    assert names(fired(book(*ring, recursive_scanning=True), "a")) == [0, 1]


def test_order_and_budget() -> None:
    one, two, three = (
        {"keys": ["x"], "content": "w w w", "insertion_order": order, "priority": priority}
        for order, priority in ((30, 1), (10, 2), (20, 3))
    )
    assert names(fired(book(one, two, three), "x")) == [1, 2, 0]
    found = fired(book(one, two, three, token_budget=6), "x")
    assert names(found) == [1, 2] and [fire.outcome for fire in found.fired] == ["fired", "fired", "over budget"]
    constant = {"content": "w w w", "constant": True, "insertion_order": 99, "priority": 0}
    assert names(fired(book(one, two, three, constant, token_budget=6), "x")) == [2, 3]
    by_order = ({"keys": ["x"], "content": "w w w", "insertion_order": order} for order in (1, 2))
    assert names(fired(book(*by_order, token_budget=3), "x")) == [1]


def test_chance_comes_from_the_seed() -> None:
    rare = book({**MILL, "extensions": {"probability": 30, "useProbability": True}})
    drawn = [bool(fired(rare, "mill", seed=seed).fired) for seed in range(300)]
    assert 60 < sum(drawn) < 120 and drawn == [bool(fired(rare, "mill", seed=seed).fired) for seed in range(300)]


@pytest.mark.parametrize(
    ("decorators", "said", "answers", "fires"),
    [
        ("@@activate", ["nothing"], 0, True),
        ("@@dont_activate", ["mill"], 0, False),
        ("@@constant", ["nothing"], 0, True),
        ("@@additional_keys wheel, flour", ["the flour"], 0, True),
        ("@@exclude_keys fire", ["fire at the mill"], 0, False),
        ("@@scan_depth 1", ["mill", "a"], 0, False),
        ("@@activate_only_after 2", ["mill"], 1, False),
        ("@@activate_only_after 2", ["mill"], 2, True),
        ("@@activate_only_every 2", ["mill"], 3, False),
        ("@@activate_only_every 2", ["mill"], 4, True),
        ("@@keep_activate_after_match", ["mill", "a", "b", "c"], 0, True),
        ("@@dont_activate_after_match", ["mill", "a", "mill"], 0, False),
        ("@@dont_activate_after_match", ["a", "mill"], 0, True),
        ("@@unheard_of 3\n@@@constant", ["nothing"], 0, True),
        ("@@unheard_of\n@@@neither\n@@@activate", ["nothing"], 0, True),
        ("@@depth 2\n@@@constant", ["nothing"], 0, False),
        ("@@depth many", ["mill"], 0, True),
        ("@@role judge", ["mill"], 0, True),
    ],
)
def test_decorators(decorators: str, said: list[str], answers: int, fires: bool) -> None:
    found = fired(book({**MILL, "content": f"{decorators}\nThe mill burned down."}), *said, answers=answers)
    assert [one.text for one in found.fired] == (["The mill burned down."] if fires else [])


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*)*x", "((a{1,50}){1,50}){1,50}$", "(?:a?){60}a{60}$"])
def test_an_endless_pattern_is_one_sentence(pattern: str) -> None:
    start = time.monotonic()
    found = fired(book(*[{"name": "Tower", "keys": [f"/{pattern}/"]}] * 40, MILL), "mill " + "a" * 5_000 + "!")
    assert time.monotonic() - start < 5
    assert found.faults or pattern not in ("(a+)+$", "(a|aa)+$")  # others are told apart quickly
    assert 40 in names(found)  # the book's other entries fire all the same
    for sentence in found.faults:
        assert (
            sentence.startswith("The pattern “") and "entry “Tower”" in sentence and sentence.count(".") - pattern.count(".") == 1
        )


def test_a_pattern_that_cannot_be_read_is_one_sentence() -> None:
    found = fired(book({"name": "Tower", "keys": ["/(/", "/[a/", f"/{'x' * 2_000}/"]}), "mill")
    assert found.fired == [] and len(found.faults) == 3
    assert found.faults[0] == "The pattern “/(/” of the lorebook's entry “Tower” cannot be read and was ignored."


def test_long_keys_and_names_are_cut_in_sentences() -> None:
    keys = ["mill " * 1_000, f"/(/{'x' * 1_000}"]
    found = fired(book({"keys": keys, "content": "Tam"}, {"keys": ["Tam"]}, {"keys": [f"/({'x' * 900}/"]}), "mill " * 1_000)
    assert len(found.fired) == 2 and len(found.faults) == 1
    assert all(len(sentence) < 200 for sentence in (*found.faults, *(one.reason for one in found.fired)))


WORLD = {
    "entries": {
        "0": {
            "uid": 0,
            "key": ["mill"],
            "keysecondary": ["fire"],
            "comment": "The mill",
            "content": "It burned.",
            "order": 7,
            "constant": False,
            "selective": True,
            "disable": False,
            "position": 1,
            "selectiveLogic": 3,
            "excludeRecursion": True,
            "probability": 50,
            "useProbability": True,
            "matchWholeWords": None,
            "depth": 4,
        },
        "5": {"uid": 5, "key": ["war"], "comment": "", "content": "Long ago.", "disable": True, "position": 4, "depth": 2},
    }
}


def test_a_world_file_is_read_as_a_book() -> None:
    found = parse_book(read_lorebook(json.dumps(WORLD).encode(), "world.json")[0])
    assert found == parse_book(WORLD)
    first, second = found.entries
    assert (first.name, first.keys, first.secondary, first.logic, first.order, first.place) == (
        "The mill",
        ("mill",),
        ("fire",),
        "all",
        7,
        "after_char",
    )
    assert (first.probability, first.from_recursion, first.depth, first.enabled) == (50, False, None, True)
    assert (second.name, second.enabled, second.depth) == ("war", False, 2)
    again = read_lorebook(json.dumps(read_lorebook(json.dumps(WORLD).encode(), "x")[0]).encode(), "x")[0]
    assert parse_book(again) == found
    lorebook = {"spec": "lorebook_v3", "data": {"entries": [MILL], "extensions": {}}}
    assert read_lorebook(json.dumps(lorebook).encode(), "x")[0]["entries"] == [MILL]


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"entries": 5}', b'{"entries": []}', b'{"entries": [3]}', b"\x89PNG", b'{"name": "Ada"}']
)
def test_what_is_no_lorebook_is_one_sentence(data: bytes) -> None:
    with pytest.raises(UserError, match=r"^world\.json [^.]*\.( |$)"):
        read_lorebook(data, "world.json")[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "keys",
    "key",
    "content",
    "enabled",
    "constant",
    "selective",
    "secondary_keys",
    "keysecondary",
    "insertion_order",
    "order",
    "priority",
    "position",
    "extensions",
    "use_regex",
    "case_sensitive",
    "name",
    "comment",
    "probability",
    "depth",
    "disable",
]


@settings(max_examples=100)
@given(
    st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=8) | JSON, max_size=3),
    st.dictionaries(st.sampled_from(["scan_depth", "token_budget", "recursive_scanning", "extensions"]), JSON),
)
def test_any_book_is_read_and_fires_alike_twice(entries: list[Any], fields: dict[str, Any]) -> None:
    for raw in ({"entries": entries, **fields}, {"entries": dict(enumerate(entries)), **fields}):
        found = parse_book(raw)
        assert fired(found, "a", "b") == fired(found, "a", "b")


def card_with(*entries: dict[str, Any], **fields: Any) -> Card:
    """A card with a book; `fields` are the book's own but for mes_example and first_mes."""
    own = {name: fields.pop(name) for name in ("mes_example", "first_mes", "post_history_instructions") if name in fields}
    return parse_card(v2(character_book={"entries": list(entries), "extensions": {}, **fields}, **own), "x")


def test_where_lore_goes() -> None:
    card = card_with(
        {"keys": [], "constant": True, "content": "{{char}} is cursed.", "position": "after_char"},
        {"keys": [], "constant": True, "content": "The year is 1910.", "position": "before_char"},
        {**MILL, "insertion_order": 2},
        {"keys": ["mill"], "content": "@@depth 0\nIt is haunted.", "insertion_order": 1},
        {"keys": ["mill"], "content": "@@depth 3\n@@role user\nYou own it."},
        post_history_instructions="Rhyme.",
    )
    found = messages(card, [("user", "Hello"), ("assistant", "Hm."), ("user", "The mill?")])
    assert [message["content"] for message in found[1:]] == [
        "Hm?",
        "You own it.\n\nHello",
        "Hm.",
        "[The mill burned down.]\n\nThe mill?\n\n[It is haunted.]\n\n[Rhyme.]",
    ]
    assert found[0]["content"].startswith("You are Ann Lee.\n\nThe year is 1910.\n\nA smith.\n\nAnn Lee is cursed.\n\nStay in")
    assert found[0]["content"] == render_system_prompt(card)


def test_the_beginning_is_the_same_whatever_fires() -> None:
    card = card_with(
        {"keys": [], "constant": True, "content": "w " * 40}, {**MILL, "content": "x " * 40, "priority": 99}, token_budget=30
    )
    first, second = (messages(card, [("user", text)]) for text in ("The mill?", "Nothing."))
    assert first[:-1] == second[:-1] and "w w" in first[0]["content"] and "[x" not in first[-1]["content"]


def test_macros_and_hidden_keys() -> None:
    card = card_with(
        {"keys": ["Ann Lee"], "content": "{{user}} and {{char}} are {{random:kin}}."}, {"keys": ["vault"], "content": "Locked."}
    )
    found = messages(card, [("user", "{{char}}? {{hidden_key:vault}}")], Setting("Bo"))
    assert found[-1]["content"] == "[Bo and Ann Lee are kin.]\n\n[Locked.]\n\nAnn Lee?"


def test_messages_are_searched_with_names_and_keys_with_their_macros() -> None:
    card = card_with({"keys": ["{{user}}"], "content": "The guest is feared."}, {"keys": ["{{char}}"], "content": "A saint."},
                     {"keys": ["{{pick:vault,vault}}"], "content": "Locked."}, {"keys": ["{{// nothing}}"], "content": "Never."})
    lore = lambda *history, user="Bo": [one.text for one in fired_in(card, history, Setting(user)).kept]
    assert lore(("user", "Hello")) == ["The guest is feared."]
    assert lore(("assistant", "Hm."), ("user", "The vault?")) == ["The guest is feared.", "A saint.", "Locked."]
    assert lore(("assistant", "Hm."), user="Cy") == ["A saint."]
    assert fired_in(card, [("user", "Hello")], Setting("Bo")).fired[0].reason == "“Bo” is in the last message."


def test_a_primary_key_in_a_message_and_a_secondary_one_in_lore() -> None:
    entries = ({"keys": ["mill"], "content": "Old Tam built it."},
               {"keys": ["mill"], "selective": True, "secondary_keys": ["Tam"], "content": "He is dead."})
    found = fired(book(*entries), "mill")
    assert [(one.entry.number, one.level) for one in found.fired] == [(0, 0), (1, 1)]
    assert names(fired(book(*entries, recursive_scanning=False), "mill")) == [0]
    late = {"keys": [], "constant": True, "content": "At last.", "extensions": {"delay_until_recursion": True}}
    assert names(fired(book(entries[0], late), "mill")) == [0, 1] and names(fired(book(entries[0], late), "x")) == []


def test_recursion_ends_with_the_budget() -> None:
    entries = ({"keys": ["mill"], "content": "Tam " * 5}, {"keys": ["Tam"], "content": "x", "insertion_order": 999})
    assert names(fired(book(*entries, token_budget=5), "mill")) == [1]
    assert names(fired(book(*entries, token_budget=4), "mill")) == []


@pytest.mark.parametrize(("role", "shown"), [(0, "[You own it.]"), (None, "[You own it.]"), (1, "You own it."),
                                             (2, "[Ann Lee: You own it.]"), ("user", "[You own it.]"), (7, "[You own it.]")])
def test_roles_of_entries_at_a_depth(role: Any, shown: str) -> None:
    entry = {**MILL, "content": "You own it.", "extensions": {"position": 4, "depth": 1, "role": role}}
    assert messages(card_with(entry), [("user", "The mill?")])[-1]["content"] == f"{shown}\n\nThe mill?"
    world = {"entries": {"0": {"key": ["mill"], "content": "You own it.", "position": 4, "depth": 1, "role": role}}}
    again = read_lorebook(json.dumps(world).encode(), "x")[0]["entries"]
    assert messages(card_with(*again), [("user", "The mill?")])[-1]["content"] == f"{shown}\n\nThe mill?"
    beside = {**entry, "extensions": {"position": 0, "role": role}}  # a role counts only at a depth
    assert messages(card_with(beside), [("user", "The mill?")])[-1]["content"] == "[You own it.]\n\nThe mill?"


def test_lore_counts_when_a_conversation_is_too_long() -> None:
    card = card_with({**MILL, "content": "x " * 100}, mes_example="<START>\n{{user}}: A\n{{char}}: B")
    long = lambda found: sum(len(message["content"]) for message in found)
    history = [("user", "The mill?")]
    plain = fit(card, history, Setting(), lambda _: True)
    assert [one.entry.name for one in plain.lore.fired] == ["mill"]
    tight = fit(card, history, Setting(), lambda found: long(found) < long(plain.messages))
    assert tight.examples_dropped == 1 and tight.lore == plain.lore


def test_lines_that_touch_the_lore() -> None:
    card = card_with(
        {"name": "Mill", **MILL},
        {"keys": ["Tam", "old Tam"], "selective": True, "secondary_keys": ["mill"], "content": "Gone."},
        {"keys": ["/x+/"], "content": "x"},
        {"keys": [], "constant": True, "content": "y"},
        {**MILL, "enabled": False},
    )
    found = lore_queries(card)
    assert {query.category for query in found} == {"lore: Mill", "lore: Tam, old Tam"} and len(found) == 2 * PER_ENTRY
    assert all(split_of(query.question) == "train" and query.source == "lore" and "mill" in query.question for query in found)
    assert len({query.question for query in found}) == len(found)
    many = card_with(*[{"keys": [f"place{number}"], "content": "A place."} for number in range(100)])
    assert len(lore_queries(many)) == MOST
    assert lore_queries(parse_card(v2(character_book=None), "x")) == []


def test_cards_without_a_book() -> None:
    for value in (None, [], "x", {"entries": None}, {}):
        assert read_book(parse_card(v2(character_book=value), "x")).entries == ()

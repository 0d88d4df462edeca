"""The quick search of a lorebook finds what a plain one finds, and no book makes a prompt slow."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import pytest
from card_samples import v2
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.calibration import lines
from engine.cards.advice import advice
from engine.cards.book import Book, Entry, parse_book
from engine.cards.card import Card, parse_card
from engine.cards.keys import KeySearch, read_key
from engine.cards.lorebook import LEVELS, MISFITS, MOST_SEARCHED, fire
from engine.cards.prompt import Setting, fired_in, fit, messages

# Which characters make a longer word of a key's edge: of one script, or of none. 水 and 가 never do.
SCRIPTS = {"a": "latin", "b": "latin", "б": "cyrillic", "1": "any", "水": "free", "가": "free", " ": "", ".": "", "/": ""}


def plain_has(entry: Entry, key: str, text: str) -> bool:
    """Whether a key stands in a text, looked for one place after another."""
    if not entry.case_sensitive:
        key, text = key.lower(), text.lower()
    if not entry.whole_words or " " in key:
        return key in text

    def joins(beside: str, own: str) -> bool:
        one, two = SCRIPTS[beside.lower()], SCRIPTS[own.lower()]
        return bool(one) and "free" not in (one, two) and (two == "" or one == two or "any" in (one, two))

    for at in range(len(text) - len(key) + 1):
        end = at + len(key)
        if text[at:end] == key and not (at and joins(text[at - 1], key[0])) and not (end < len(text) and joins(text[end], key[-1])):
            return True
    return False


def plain_fire(book: Book, said: Sequence[str], count: Any) -> list[int]:
    """The entries in the prompt, found as SillyTavern looks for them: every entry, every key, every text, at every level."""
    found: dict[int, Entry] = {}
    told: list[str] = []
    for level in range(LEVELS if book.recursive else 1):
        fresh = []
        for entry in book.entries:
            if entry.number in found or not entry.enabled or not entry.content.strip():
                continue
            if (level and not entry.from_recursion) or (not level and entry.only_recursion):
                continue
            depth = book.scan_depth if entry.scan_depth is None else entry.scan_depth
            texts = [*said[::-1][:max(0, depth)], *told]
            has = lambda key, entry=entry, texts=texts: any(plain_has(entry, key, text) for text in texts)
            first, second = any(map(has, entry.keys)), list(map(has, entry.secondary))
            logic = {"any": any(second), "all": all(second), "none": not any(second), "not all": not all(second)}[entry.logic]
            if entry.constant or (first and (not entry.selective or not second or logic)):
                fresh.append(entry)
        found |= {entry.number: entry for entry in fresh}
        texts = [entry.content for entry in fresh if entry.into_recursion]
        if not texts or sum(count(entry.content) for entry in found.values()) > book.token_budget:
            break
        told += texts
    spent, kept = 0, set()
    for entry in sorted(found.values(), key=lambda one: (not one.steady, -one.order, one.number)):
        if spent + count(entry.content) <= book.token_budget:
            spent += count(entry.content)
            kept.add(entry.number)
    return [entry.number for entry in sorted(found.values(), key=lambda one: (one.order, one.number)) if entry.number in kept]


SIGNS = st.text(alphabet="aAb水가б1. /", min_size=1, max_size=6).filter(lambda text: text.strip() == text)
WORDS = st.lists(SIGNS, max_size=3)
ENTRIES = st.lists(st.fixed_dictionaries({
    "keys": WORDS, "content": SIGNS, "secondary_keys": WORDS, "selective": st.booleans(), "case_sensitive": st.booleans(),
    "constant": st.sampled_from([False, False, False, True]), "insertion_order": st.integers(0, 3),
    "extensions": st.fixed_dictionaries({}, optional={
        "match_whole_words": st.booleans(), "selectiveLogic": st.integers(0, 3), "scan_depth": st.integers(0, 3),
        "exclude_recursion": st.booleans(), "prevent_recursion": st.booleans(), "delay_until_recursion": st.booleans()})}),
    max_size=6)


@settings(max_examples=300, deadline=None)
@given(ENTRIES, st.lists(st.text(alphabet="aAb水가б1. /", max_size=20), min_size=1, max_size=4), st.integers(1, 40), st.booleans())
def test_the_same_entries_as_a_plain_search(entries: list[dict[str, Any]], said: list[str], budget: int, recursive: bool) -> None:
    book = parse_book({"entries": entries, "token_budget": budget, "recursive_scanning": recursive})
    if any(key.startswith("/") and key.endswith("/") for entry in book.entries for key in (*entry.keys, *entry.secondary)):
        return  # a regular expression
    found = fire(book, said, 0, 0, str, len)
    assert [one.entry.number for one in found.kept] == plain_fire(book, said, len)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab.1 ", min_size=1, max_size=4), min_size=60, max_size=200, unique=True),
       st.text(alphabet="ab.1 ", max_size=60), st.booleans())
def test_many_keys_at_once_are_found_as_each_alone(keys: list[str], text: str, whole: bool) -> None:
    many = [read_key(key, whole, True) for key in keys]
    together = KeySearch(many)
    together.add([text, text[::-1]])
    for key in many:
        alone = KeySearch([key])
        alone.add([text, text[::-1]])
        assert together.first(key, (range(2),), "") == alone.first(key, (range(2),), "")


def card_with(entries: list[dict[str, Any]], **book: Any) -> Card:
    """A card with a book."""
    return parse_card(v2(character_book={"entries": entries, **book}), "x")


HUGE = {"recursive_scanning": True, "token_budget": 10**9}
PLACES = [f"old mill {number}" for number in range(6_000)]
HOSTILE: dict[str, tuple[list[dict[str, Any]], str]] = {
    "each fires the next ones": ([{"keys": [place], "content": f"{place}. " + ", ".join(PLACES[number:number + 5])}
                                  for number, place in enumerate(PLACES)], ", ".join(PLACES)),
    "none fires": ([{"keys": [f"{place} {key}" for key in "abcdefg"], "content": "x"} for place in PLACES[:4_000]],
                   ", ".join(PLACES)),
    "a chain": ([{"keys": [f"k{number}x"], "content": f"k{number + 1}x"} for number in range(10_000)], "k0x"),
    "100,000 keys of one entry": ([{"keys": [f"k{number:x}" for number in range(100_000)], "content": "x"}], "word " * 50_000),
    "constant entries": ([{"keys": [], "constant": True, "content": f"{number} is always so"} for number in range(9_000)], "x"),
    "keys of one letter": ([{"keys": list("abcdefghijklmnopqrstuvwxyz"), "content": "a b c"} for _ in range(4_000)], "z " * 50_000),
    "one sign again and again": ([{"keys": ["a" * number + " b"], "content": "aa"} for number in range(1, 1_300)], "a" * 1_000_000),
    "words of one sign": ([{"keys": ["a." * number + "a"], "content": "aa"} for number in range(1, 900)], "xa." * 300_000),
    "macros": ([{"keys": ["mill"], "content": "{{user}} {{roll:d6}} " * 40} for _ in range(1_000)], "mill"),
    "patterns": ([{"keys": [f"/(a+)+{number}$/"], "content": "x"} for number in range(5_000)], "a" * 50_000 + "!"),
    "900,000 letters": ([{"keys": ["mill"], "content": "old mill " * 100_000}, {"keys": ["old"], "content": "x"}], "mill"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_book_makes_a_prompt_slow(name: str) -> None:
    entries, message = HOSTILE[name]
    card = card_with(entries, **HUGE)
    began = time.process_time()
    firing = fired_in(card, [("user", message)])
    messages(card, [("user", message[:1_000])])
    assert time.process_time() - began < 4  # two prompts; half a second where nothing else runs
    assert len(firing.fired) <= len(firing.kept) + MISFITS and len(firing.faults) < 20


def test_only_what_matters_is_rendered_and_counted() -> None:
    book = card_with([{"keys": ["mill"], "content": f"The mill number {number}."} for number in range(5_000)], **{
        **HUGE, "token_budget": 100}).raw["data"]["character_book"]
    counted: list[str] = []
    found = fire(parse_book(book), ["mill"], 0, 0, str, lambda text: counted.append(text) or 10)  # type: ignore[func-returns-value]
    assert len(found.kept) == 10 and len(found.fired) == 10 + MISFITS and len(counted) < 200
    assert found.faults == ["4,940 more entries of the lorebook fired and had no room in its budget of 100 tokens."]


def test_a_prompt_is_made_once_however_often_it_is_cut() -> None:
    card = card_with([{"keys": [], "constant": True, "content": f"{number} is always so"} for number in range(50)])
    counted: list[str] = []
    setting = Setting(count=lambda text: counted.append(text) or 4)  # type: ignore[func-returns-value]
    fitted = fit(card, [(("user", "assistant")[number % 2], "Hm") for number in range(101)], setting, lambda found: len(found) < 20)
    assert fitted.turns_dropped and len(counted) == 50


def test_only_the_end_of_a_long_conversation_is_searched() -> None:
    book = parse_book({"entries": [{"keys": ["mill"], "content": "x"}]})
    assert not fire(book, ["mill " + "y " * MOST_SEARCHED], 0, 0, str, len).kept
    found = fire(book, ["y " * MOST_SEARCHED + "mill"], 0, 0, str, len)
    assert found.kept and found.faults == ["Only the last 100,000 characters of the conversation were searched for the "
                                           "lorebook's keys."]


def test_questions_about_a_huge_book_are_tried_out_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []
    monkeypatch.setattr(lines, "fired_in", lambda *given: tried.append(given) or fired_in(*given))  # type: ignore[func-returns-value]
    monkeypatch.setattr(lines, "LOOKS", 40_000)
    dead = [{"keys": [f"place{number}"], "content": "x" * 90} for number in range(4_000)]  # each beyond the budget
    assert lines.lore_queries(card_with(dead, token_budget=10)) == [] and len(tried) == 10
    tried.clear()
    assert lines.lore_queries(card_with([{"keys": ["mill"], "content": f"Mill {number}"} for number in range(4_000)]))
    assert len(tried) <= 10  # all ask the same


def test_advice_on_a_huge_book() -> None:
    entries = [{"keys": [], "content": "{{weather}} {{time}}", "use_regex": True} for _ in range(5_000)]
    counted: list[str] = []
    raw = card_with([*entries, {"keys": ["a.*b"], "content": "word " * 200, "use_regex": True}], token_budget=100).raw
    began = time.process_time()
    found = [one for one in advice(raw, functools.partial(_counted, counted)) if one.field == "character_book"]
    assert time.process_time() - began < 2 and len(found) < 20 and len(counted) < 10
    words = " ".join(one.sentence for one in found)
    assert "And 4,995 more of this kind in the lorebook." in words and "has the key “a.*b”, which is read as plain text" in words
    assert "has 200 tokens, more than the lorebook's budget of 100, so the model never reads it." in words


def _counted(counted: list[str], text: str) -> int:
    counted.append(text)
    return len(text.split())

"""Cards in bytes: what is accepted, what is refused, and how it is said."""

import copy
import json
import time

import pytest
from card_samples import EVERYTHING, FLAT, one_sentence, v2

from engine.base.errors import UserError
from engine.cards.card import parse_card
from engine.cards.reading import MAX_BYTES, MAX_DEPTH


def refusal(data: bytes) -> str:
    """The sentence with which `data` is refused; it is one line, one sentence, and begins with the file's name."""
    with pytest.raises(UserError) as caught:
        parse_card(data, "some/card.json")
    return one_sentence(caught.value, "some/card.json ")


def test_flat_v1_card() -> None:
    card = parse_card(json.dumps(FLAT).encode(), "x")
    assert (card.name, card.char, card.description, card.greeting) == ("Ann Lee", "Ann Lee", "A smith.", "Hm?")
    assert (card.nickname, card.system_prompt, card.alternate_greetings) == ("", "", ())
    assert card.raw == FLAT


@pytest.mark.parametrize("specification", ["chara_card_v2", "chara_card_v3"])
def test_v2_and_v3_cards_lose_nothing(specification: str) -> None:
    whole = copy.deepcopy(EVERYTHING) | {"spec": specification}
    card = parse_card(json.dumps(whole).encode(), "x")
    assert card.raw == whole
    assert card.name == "Odd Óskar <BOT>"
    assert card.char == "{{user}} the Odd"
    assert card.alternate_greetings == ("You again, {{user}}?",)


def test_byte_order_mark_and_nulls_are_accepted() -> None:
    nulls = v2(personality=None, alternate_greetings=None, character_book=None, tags=None)
    card = parse_card(b"\xef\xbb\xbf" + nulls, "x")
    assert (card.personality, card.alternate_greetings) == ("", ())


def test_example_dialogue_alone_is_enough() -> None:
    assert parse_card(b'{"name": "A", "mes_example": "<START>\\nA: Hm."}', "x").example_dialogue.endswith("Hm.")


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse_card(rb'{"name": "\ud83d\ude00", "description": "Smiles."}', "x").name == "😀"


@pytest.mark.parametrize(("name", "nickname", "names"), [
    ("Ann Lee", "", ("Ann Lee", "Ann")),
    ("Ann Lee", "Ann", ("Ann Lee", "Ann")),
    ("Ann", "Ann", ("Ann",)),
    ("LANTERN-6", "Lantern", ("LANTERN-6", "Lantern")),
    ("The Baker of Bree", "Crumb", ("The Baker of Bree", "Crumb", "Baker")),
    ("Dr. J. Amari", "", ("Dr. J. Amari", "Amari")),
])
def test_names(name: str, nickname: str, names: tuple[str, ...]) -> None:
    assert parse_card(v2(name=name, nickname=nickname), "x").names == names


def test_a_card_is_a_value() -> None:
    one, two = parse_card(v2(), "x"), parse_card(v2(), "y")
    assert one == two and hash(one) == hash(two)
    assert one != parse_card(v2(extensions={"a": 1}), "x")


@pytest.mark.parametrize(("data", "says"), [
    (b"", "empty"),
    (b" \n\t", "empty"),
    (b"hello", "not a character card in JSON"),
    (b'{"name": "A", "description": "b"', "line 1, column"),
    (b'{"name": "A", "description": "b"} x', "not a character card in JSON"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not a character card in JSON (it is a PNG"),
    (b'{"name": "\xff", "description": "b"}', "not UTF-8"),
    (b'{"name": "\xed\xa0\x80", "description": "b"}', "not UTF-8"),
    ('{"name": "A", "description": "b"}'.encode("utf-16"), "not UTF-8"),
    (rb'{"name": "A", "description": "\ud800"}', "surrogate"),
    (rb'{"name": "A", "description": "b", "\udfff": 1}', "surrogate"),
    (rb'{"name": "A", "description": "b", "\ud800": 1, "\ud800": 2}', "twice"),
    (b'{"name": "A", "description": "b", "name": "C"}', "'name' twice"),
    (b'{"name": "A", "description": "b", "extensions": {"deep": [{"k": 1, "k": 1}]}}', "'k' twice"),
    (b'{"name": "A", "description": "b", "x": NaN}', "NaN"),
    (b'{"name": "A", "description": "b", "x": [-Infinity]}', "-Infinity"),
    (b'{"name": "A", "description": "b", "x": 1e999}', "1e999"),
    (b'{"name": "A", "description": "b", "x": ' + b"7" * 400 + b".5}", "not a finite number"),
    (b'{"name": "A", "description": "b", "x": -' + b"7" * 301 + b"}", "more than 300 digits"),
    (b'{"name": "A", "description": "b", "x": ' + b"7" * 5000 + b"}", "more than 300 digits"),
    (b"[]", "a list instead of an object"),
    (b"5", "a number instead of an object"),
    (b'{"model": "x"}', "not a character card"),
    (b'{"spec": "chara_card_v9", "data": {}}', "'chara_card_v9'"),
    (b'{"spec": ["chara_card_v2"], "data": {}}', "unknown specification (a list"),
    (b'{"spec": "chara_card_v2", "name": "A", "description": "b"}', '"data"'),
    (b'{"spec": "chara_card_v2", "data": [1]}', 'a list as "data"'),
    (v2(name=["A"]), 'a list as "name"'),
    (v2(name=""), "no name: a card needs a name"),
    (v2(name=None), "no name"),
    (v2(name=" \n"), "no name"),
    (v2(name="A" * 201), "more than 200 characters"),
    (v2(nickname={"a": 1}), 'an object as "nickname"'),
    (v2(description=True), 'true or false as "description"'),
    (v2(description=" ", first_mes=""), "says nothing about its character: a card needs a name and a description"),
    (v2(description=["a", {}]), 'a list as "description"'),
    (v2(mes_example={"a": 1}), 'an object as "mes_example"'),
])
def test_refused_with_one_sentence(data: bytes, says: str) -> None:
    assert says in refusal(data)


def test_no_field_of_any_type_gets_past_as_something_else() -> None:
    for key in (*FLAT, "nickname", "system_prompt", "post_history_instructions"):
        wrong: tuple[object, ...] = (True, [5], [["a"]], {"a": "b"})
        for value in wrong:
            assert f'"{key}"' in refusal(v2(**{key: value}))


def test_longest_whole_number() -> None:
    data = b'{"name": "A", "description": "b", "x": -' + b"7" * 300 + b"}"
    assert parse_card(data, "x").raw["x"] == -int("7" * 300)


def nested(levels: int) -> bytes:
    """A V1 card whose objects and lists are `levels` deep, the card itself being the first level."""
    return b'{"name": "A", "description": "b", "x": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def test_depth_limit() -> None:
    assert parse_card(nested(MAX_DEPTH - 1), "x").name == "A"  # as V3, it is one level deeper
    assert "nested too deeply" in refusal(nested(MAX_DEPTH))
    deep = v2(x=json.loads("[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2)))
    assert parse_card(deep, "x").name == "Ann Lee"
    assert "nested too deeply" in refusal(deep.replace(b"[[", b"[[[").replace(b"]]", b"]]]"))


@pytest.mark.parametrize("data", [nested(100_000), b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"[" * 900_000])
def test_very_deep_nesting_is_refused_at_once(data: bytes) -> None:
    start = time.process_time()
    assert "nested too deeply" in refusal(data)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("text", ["[" * 500, '"' + "{" * 500, "\\" + '"' + "[" * 500, "\\\\" + "[" * 500, "\\"])
def test_brackets_inside_strings_are_not_nesting(text: str) -> None:
    card = parse_card(v2(description=text), "x")
    assert card.description == text


def test_brackets_after_an_escaped_quote_are_found() -> None:
    start = rb'{"name": "A\"", "description": "b\\", "x": '
    assert "nested too deeply" in refusal(start + b"[" * 40 + b"]" * 40 + b"}")


def test_a_card_that_could_not_be_read_back_is_not_taken() -> None:
    filler = json.dumps({"name": "A", "description": "b" * (MAX_BYTES - 40)}).encode()
    assert len(filler) <= MAX_BYTES and "too large" in refusal(filler)


def test_size_limit_of_bytes() -> None:
    data = v2()
    assert parse_card(data + b" " * (MAX_BYTES - len(data)), "x").name == "Ann Lee"
    assert "too large" in refusal(data + b" " * (MAX_BYTES - len(data) + 1))

"""Cards from anywhere: whatever the bytes are, there is a card that renders, or one sentence."""

import json

import pytest
from card_samples import EVERYTHING, one_sentence
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base.errors import UserError
from engine.cards import reading
from engine.cards.card import Card, parse_card
from engine.cards.prompt import messages, render_system_prompt
from engine.cards.reading import CardFault

KEYS = st.text('"\\[{', max_size=3)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text('ab"\\[]{}:,é\n'),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


def depth(value: object) -> int:
    """Levels of objects and lists, by recursion: the plain definition."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(JSON, st.booleans())
def test_depth_scan_agrees_with_the_definition(value: object, escape: bool) -> None:
    text = json.dumps(value, ensure_ascii=escape)
    levels = depth(value)
    wrapped = "[" * (reading.MAX_DEPTH - levels) + text + "]" * (reading.MAX_DEPTH - levels)
    reading.check_depth(wrapped)
    if levels:
        with pytest.raises(CardFault):
            reading.check_depth(f"[{wrapped}]")


def card_or_refusal(data: bytes) -> None:
    """Card or UserError, and whatever is a card can be rendered."""
    try:
        card = parse_card(data, "x.json")
    except UserError as error:
        one_sentence(error, "x.json ")
        return
    assert isinstance(card, Card)
    assert card.char and card.char in card.names
    assert card.raw == json.loads(data.decode("utf-8-sig"))
    prompt = render_system_prompt(card)
    assert prompt.startswith(f"You are {card.char}.") and "\n\n\n" not in prompt
    messages(card, [])[0]["content"].encode()


@settings(max_examples=200)
@given(st.binary(max_size=400) | st.text(alphabet='{}[]":,\\udnameEN0159-. \ud7ff', max_size=200).map(str.encode))
def test_arbitrary_bytes(data: bytes) -> None:
    card_or_refusal(data)


VALID = json.dumps(EVERYTHING, ensure_ascii=False).encode()
MUTATION = st.tuples(st.integers(0, len(VALID)), st.integers(0, 6), st.binary(max_size=4) | st.sampled_from(
    [b"{", b"}", b"[", b"]", b'"', b"\\", b",", b"null", b"NaN", b"1e999", rb"\ud800", b"<START>", b"\n\n\n"]))


@settings(max_examples=200)
@given(st.lists(MUTATION, min_size=1, max_size=4))
def test_mutated_bytes_of_a_valid_card(mutations: list[tuple[int, int, bytes]]) -> None:
    data = VALID
    for position, removed, put_in in mutations:
        data = data[:position] + put_in + data[position + removed:]
    card_or_refusal(data)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(sorted(EVERYTHING["data"])), JSON | st.text(), max_size=4),
       st.dictionaries(st.sampled_from(["spec", "data", "name"]), JSON, max_size=1))
def test_mutated_fields_of_a_valid_card(fields: dict[str, object], top: dict[str, object]) -> None:
    card_or_refusal(json.dumps({**EVERYTHING, "data": EVERYTHING["data"] | fields, **top}).encode())

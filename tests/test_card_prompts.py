"""The exact prompts and messages that cards become, checked against texts written by hand (tests/golden)."""

import json
from pathlib import Path

import pytest
from card_samples import EVERYTHING, v2

from engine.cards.card import find_bundled, parse_card, with_name_macros
from engine.cards.prompt import CLOSING, messages, render_system_prompt

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("slug", ["pim-tuckett", "vessaline-korr"])
def test_golden_prompt_of_a_bundled_card(slug: str) -> None:
    assert render_system_prompt(find_bundled(slug)) + "\n" == (GOLDEN / f"{slug}.txt").read_text(encoding="utf-8")


def test_golden_prompt_of_everything_at_once() -> None:
    card = parse_card(json.dumps(EVERYTHING).encode(), "x")
    expected = (GOLDEN / "everything.txt").read_text(encoding="utf-8")
    assert render_system_prompt(card, user="Ada <START>") + "\n" == expected


def test_empty_fields_leave_nothing_behind() -> None:
    card = parse_card(v2(), "x")
    assert render_system_prompt(card) == (
        "You are Ann Lee.\n\nA smith.\n\n"
        "Stay in character as Ann Lee. Answer in one to three short sentences, in Ann Lee's own voice.")
    only_markers = parse_card(v2(mes_example="<START>\n\n<START> ", post_history_instructions="{{ORIGINAL}} "), "x")
    assert render_system_prompt(only_markers) == render_system_prompt(card)


def test_own_system_prompt_replaces_the_closing() -> None:
    assert render_system_prompt(parse_card(v2(system_prompt="Be {{char}}."), "x")).endswith("A smith.\n\nBe Ann Lee.")
    blank, original = parse_card(v2(system_prompt=" \n"), "x"), parse_card(v2(system_prompt="{{original}}"), "x")
    assert render_system_prompt(blank) == render_system_prompt(original) == render_system_prompt(parse_card(v2(), "x"))
    assert "{{char}}" in CLOSING


def test_name_macros_in_any_case_and_once_only() -> None:
    card = parse_card(v2(name="<USER>{{user}}"), "x")
    text = "{{char}} {{CHAR}} <BOT> <bot> | {{user}} {{User}} <USER> <user> | {{ char}} {user} <users>"
    assert with_name_macros(text, card, "{{char}}") == (
        "<USER>{{user}} <USER>{{user}} <USER>{{user}} <USER>{{user}} | "
        "{{char}} {{char}} {{char}} {{char}} | {{ char}} {user} <users>")
    assert with_name_macros("{{user}}", card, r"\1 \g<0>") == r"\1 \g<0>"


def test_messages() -> None:
    card = parse_card(json.dumps(EVERYTHING).encode(), "x")
    system = {"role": "system", "content": render_system_prompt(card, "Ada")}
    greeting = {"role": "assistant", "content": "*He bows.* I am {{user}} the Odd, Ada."}
    turn = {"role": "user", "content": "Hello, {{char}}"}
    assert messages(card, [("user", "Hello, {{char}}")], "Ada") == [system, greeting, turn]
    assert messages(card, [turn], "Ada", with_greeting=False) == [system, turn]
    assert messages(card, [turn])[0]["content"] == render_system_prompt(card, "Player")
    silent = parse_card(v2(first_mes=" "), "x")
    assert [message["role"] for message in messages(silent, [])] == ["system"]
    with pytest.raises(ValueError, match="system"):
        messages(card, [("system", "obey")])

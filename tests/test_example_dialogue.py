"""Example dialogue as writers write it: who says what, whatever the labels look like."""

import json
import time
from typing import Any

import pytest
from card_samples import v2

from engine.cards.card import Card, parse_card
from engine.cards.prompt import USUAL, example_turns, render_system_prompt
from engine.cards.speaking import dialogue_apart, dialogue_turns, split_dialogue, uses_third_person, writes_players_lines

U, A = "user", "assistant"


def turns(text: str) -> list[tuple[str, str]]:
    return dialogue_turns(text, ("Ada Vale", "Ada"), ("Player",))


@pytest.mark.parametrize(("text", "expected"), [
    ("{{user}}: Hi\n{{char}}: Hm.", [(U, "Hi"), (A, "Hm.")]),
    ("{{user}}：好\n{{char}}：哼。", [(U, "好"), (A, "哼。")]),  # fullwidth colons
    ("{{user}} : Hi\n<BOT> ：Hm.", [(U, "Hi"), (A, "Hm.")]),
    ("{{user}}: Hi {{char}}: Hm. {{user}}: Who?", [(U, "Hi"), (A, "Hm."), (U, "Who?")]),  # all on one line
    ("{{user}}:好。{{char}}:哼。", [(U, "好。"), (A, "哼。")]),
    ("You: Hi\nAda: Hm.\nYou: Who?", [(U, "Hi"), (A, "Hm."), (U, "Who?")]),
    ("User: Hi. Ada: Hm.", [(U, "Hi."), (A, "Hm.")]),
    ("**{{user}}:** Hi\n**{{char}}**: Hm.\n__Ada__: Yes.", [(U, "Hi"), (A, "Hm."), (A, "Yes.")]),  # bold labels
    ("*Ada:* Hm.\n**You:** Hi", [(A, "Hm."), (U, "Hi")]),
    ("{{user}}: Hi\n\n{{char}}: Hm.\nTwo lines.", [(U, "Hi"), (A, "Hm.\nTwo lines.")]),
    ("ADA VALE: Hm.\nplayer: Hi", [(A, "Hm."), (U, "Hi")]),
    ("- {{user}}: Hi\n- Ada: Hm.\n> You: Who?", [(U, "Hi"), (A, "Hm."), (U, "Who?")]),
    ("*She looks up.*\n{{char}}: Hm.", [(A, "*She looks up.*\nHm.")]),
    # what is no label
    ("{{char}}: I wrote to {{user}}: come home.", [(A, "I wrote to {{user}}: come home.")]),
    ("{{char}}: A letter for Ada: none.", [(A, "A letter for Ada: none.")]),
    ("{{char}}: I saw Grenada: fine.", [(A, "I saw Grenada: fine.")]),
    ("{{char}}: Thank you: really.", [(A, "Thank you: really.")]),
    ("*Ada: sighs*\n{{char}}: Hm.", [(A, "*Ada: sighs*\nHm.")]),
    ("Bob: Hi\nJohn: Hm.", []),
    ("", []),
])
def test_who_says_what(text: str, expected: list[tuple[str, str]]) -> None:
    assert turns(text) == expected


def test_the_characters_own_lines() -> None:
    text = "{{user}}: Hi {{char}}: Hm.\n**Ada:** Yes.\nYou: No\nAda：Oh."
    assert [said.strip() for said in split_dialogue(text, ("Ada Vale", "Ada"))] == ["Hm.", "Yes.", "Oh."]


def shown(**fields: Any) -> tuple[str, list[tuple[str, str]], Card]:
    """Description and example turns as the model gets them."""
    found = parse_card(v2(name="Ada", **fields), "x")
    return found.description, [(one["role"], one["content"]) for one in example_turns(found, USUAL)], found


def test_a_dialogue_on_one_line_reaches_the_model_as_turns() -> None:
    _, said, found = shown(mes_example="<START>{{user}}: Hi {{char}}: Hm.")
    assert said == [(U, "Hi"), (A, "Hm.")] and "Hm." not in render_system_prompt(found)


def test_a_dialogue_within_the_description_is_read_as_one() -> None:
    text = "Ada is a clerk.\n\n<START>\n{{user}}: Hi\n{{char}}: Hm.\n<start>\n{{user}}: Bye\n{{char}}: No.\n\n[Ada is 30.]\nTall."
    description, said, found = shown(description=text, mes_example="<START>\n{{user}}: Who?\n{{char}}: Me.")
    assert description == "Ada is a clerk.\n\n[Ada is 30.]\nTall."
    assert said == [(U, "Hi"), (A, "Hm."), (U, "Bye"), (A, "No."), (U, "Who?"), (A, "Me.")]
    assert "<START>" not in render_system_prompt(found) and "Tall." in render_system_prompt(found)
    assert found.raw["data"]["description"] == text
    assert found.notes == ("Its description held example dialogue after <START>, which is read as such.",)


def test_a_note_right_after_the_dialogue_stays_a_note() -> None:
    text = "A clerk.\n<START>\n{{user}}: Hi\n{{char}}: Hm.\nSecond line.\n[Genre: fantasy; a mill.]"
    assert dialogue_apart(text, ("Ada",)) == ("A clerk.\n\n[Genre: fantasy; a mill.]",
                                              "<START>\n{{user}}: Hi\n{{char}}: Hm.\nSecond line.")


def test_a_start_without_speakers_stays_where_it_is() -> None:
    assert dialogue_apart("A clerk. <START> of the day.", ("Ada",)) == ("A clerk. <START> of the day.", "")
    assert shown(description="A clerk. <START> of the day.")[2].notes == ()


def test_lines_of_the_player_are_found_in_any_dress() -> None:
    for text in ("{{user}}: Hi", "a\n{{User}}：好", "**{{user}}**: Hi", "<user> : Hi"):
        assert writes_players_lines(text), text
    assert not writes_players_lines("I told {{user}}: no.")


def test_third_person_is_judged_by_all_of_the_characters_lines() -> None:
    assert uses_third_person(["Grog"], "{{user}}：Hi\n{{char}}：Grog is hungry.")
    assert uses_third_person(["Grog"], "You: Hi\n**Grog:** Grog eats now.")
    assert not uses_third_person(["Grog"], "{{char}}: I am hungry.\nBob: Grog is hungry.")


@pytest.mark.parametrize("text", ["{{char}}: a " * 10_000, "You" + " " * 100_000 + ":", "***" * 50_000,
                                  "<START>" * 20_000 + "{{char}}:",
                                  "\n \n" * 50_000, "Ada: " * 20_000, "{{user}}" * 20_000])
def test_hostile_dialogue_is_parted_soon(text: str) -> None:
    start = time.process_time()
    turns(text)
    split_dialogue(text, ("Ada",))
    dialogue_apart(f"<START>{text}", ("Ada",))
    parse_card(json.dumps({"name": "Ada", "description": f"<START>{{{{char}}}}: x{text}"}).encode(), "x")
    assert time.process_time() - start < 4

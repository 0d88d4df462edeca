"""The short prompt of a baked card: what the weights hold is left out, what a single line or a chat brings stays."""

import json
from pathlib import Path

import pytest

from engine.cards.baked import as_model_has_it, bake, is_baked, unbake
from engine.cards.card import Card, bundled_cards, parse_card
from engine.cards.files import read_card
from engine.cards.prompt import USUAL, Setting, fit, messages, render_description
from engine.serving.requests import parse

CARD = parse_card(json.dumps({"spec": "chara_card_v2", "spec_version": "2.0", "data": {
    "name": "Ann Lee", "description": "Keeps bees.", "first_mes": "Hello, {{user}}.", "mes_example": "<START>\n{{user}}: Bees?\n"
    "{{char}}: Many.", "post_history_instructions": "Be brief.", "extensions": {"depth_prompt": {"prompt": "It is late."}, "x": 1},
    "character_book": {"extensions": {}, "entries": [
        {"keys": ["honey"], "content": "Honey is gold.", "extensions": {}, "enabled": True, "insertion_order": 1},
        {"keys": [], "content": "Always.", "constant": True, "extensions": {}, "enabled": True, "insertion_order": 2}]}}}
    ).encode(), "it")
ODD = parse_card(b'{"name": "A", "description": "B", "extensions": []}', "it")


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "You are Ann Lee."}, {"role": "user", "content": text}]


def test_only_the_name_and_the_lore_that_fires_are_left() -> None:
    card = bake(CARD)
    assert messages(card, [("user", "Hi")]) == said("Hi")
    assert messages(card, [("user", "Honey?")]) == said("[Honey is gold.]\n\nHoney?")
    assert messages(card, []) == said("")[:1]


def test_the_greeting_of_a_chat_is_left_out_and_another_one_stays() -> None:
    chat = [("assistant", CARD.greeting), ("user", "Hi")]
    assert fit(bake(CARD), chat, USUAL, lambda _: True).messages == said("Hi")
    other = fit(bake(CARD), [("assistant", "Who is there?"), *chat[1:]], USUAL, lambda _: True).messages
    assert [one["content"] for one in other] == ["You are Ann Lee.", "Who is there?", "Hi"]


def test_what_a_chat_brings_stays() -> None:
    setting = Setting("Bo", "A beekeeper.", scene="Noon.", memory=("He has a hat.",))
    system, turn = messages(bake(CARD), [("user", "Hi")], setting)
    assert system["content"] == "You are Ann Lee.\n\nAbout Bo: A beekeeper.\n\nThe scene now: Noon."
    assert "He has a hat." in turn["content"] and turn["content"].endswith("Hi")


def test_a_reader_who_does_not_play_it_gets_the_whole_card() -> None:
    assert render_description(bake(CARD)) == render_description(CARD)


@pytest.mark.parametrize("card", [CARD, *bundled_cards()[:2], ODD])
def test_the_mark_goes_as_it_came(card: Card) -> None:
    assert not is_baked(card) and is_baked(bake(card)) and not is_baked(unbake(bake(card)))
    assert messages(unbake(bake(card)), [("user", "Honey?")]) == messages(card, [("user", "Honey?")])


def test_the_mark_belongs_to_the_folder_not_to_the_card(tmp_path: Path) -> None:
    file = tmp_path / "character.json"
    file.write_text(json.dumps(bake(CARD).raw))
    assert not is_baked(read_card(file))  # brought in as a character
    assert is_baked(as_model_has_it(CARD, str(tmp_path)))
    request = parse(json.dumps({"do": "speak", "id": 1, "model": str(tmp_path), "card": CARD.raw,
                                "turns": [["assistant", CARD.greeting], ["user", "Hi"]]}))
    assert request.fitted().messages == said("Hi")
    file.write_text(json.dumps(CARD.raw))  # the same folder, made anew without baking
    assert len(request.fitted().messages) > 2 and not is_baked(as_model_has_it(bake(CARD), str(tmp_path)))

"""The characters that come with the studio: complete, of moderate length, each one different."""

import pytest

from engine.cards.card import CHARACTERS, bundled_cards, find_bundled
from engine.cards.prompt import render_system_prompt

SLUGS = sorted(file.stem for file in CHARACTERS.glob("*.json"))


def test_there_are_enough_and_no_two_share_a_name() -> None:
    cards = bundled_cards()
    assert len(cards) == len(SLUGS) >= 12
    names = [name.casefold() for card in cards for name in card.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("slug", SLUGS)
def test_bundled_card(slug: str) -> None:
    card = find_bundled(slug)
    assert (card.raw["spec"], card.raw["spec_version"]) == ("chara_card_v3", "3.0")
    assert {"group_only_greetings", "assets", "extensions", "creator"} <= card.raw["data"].keys()
    assert card.greeting and card.scenario and card.personality and card.raw["data"]["tags"]
    assert card.example_dialogue.count("<START>") >= 2
    words = " ".join([card.description, card.personality, card.scenario, card.greeting, card.example_dialogue]).split()
    assert 150 <= len(words) <= 400
    assert "{{" not in render_system_prompt(card)


def test_readme_has_a_row_for_every_bundled_card() -> None:
    page = (CHARACTERS / "README.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row.split("|")[1:3] for row in rows] == [
        [f" `{slug}.json` ", f" {find_bundled(slug).name} "] for slug in SLUGS]

"""Game actions: how they are read, what they write into a prompt, and the form of the replies that they ask for."""

import json
from typing import Any

import pytest

from engine.base.errors import UserError
from engine.cards.actions import MOODS, MOST_ACTIONS, Argument, read_actions, read_arguments, reply_schema
from engine.cards.advice import advice
from engine.cards.card import Card, bundled_cards, parse_card
from engine.cards.npc import KEY, npc_object, read_npc, with_npc
from engine.cards.prompt import Setting, messages
from tests.store_samples import card

GIVE = {"name": "give_coins", "arguments": "to: guard | smith; coins: 1..20", "when": "{{char}} pays {{user}}"}


def card_of(*actions: Any, **fields: Any) -> Card:
    return parse_card(json.dumps(card(extensions={KEY: {"actions": list(actions)}}, **fields)).encode(), "card")


def test_arguments_are_read_as_they_are_written() -> None:
    found = read_arguments(" to: guard |  the smith ; coins: 1..20; share: 0.5..1.0; loud: Yes/No; size: number; why")
    assert found[0] == Argument("to", "choice", choices=("guard", "the smith"))
    assert [(one.kind, one.lowest, one.highest) for one in found[1:3]] == [("whole number", 1, 20), ("number", 0.5, 1)]
    assert [one.kind for one in found[3:]] == ["yes/no", "number", "text"]
    written = "; ".join(one.written for one in found)
    assert read_arguments(written) == found and "coins: 1..20; share: 0.5..1.0; loud: yes/no" in written
    assert read_arguments("") == ()


@pytest.mark.parametrize(("entry", "says"), [
    ({"name": "give coins"}, "one word"), ({"when": "always"}, "one word"), ({"name": "1st"}, "begins with no digit"),
    ({"name": "a" * 41}, "up to 40"), ({"name": "a", "arguments": "to: guard"}, "“guard” is no kind for to; it can be text"),
    ({"name": "a", "arguments": "coins: 20..1"}, "ends before it begins"), ({"name": "a", "arguments": "to guard"}, "a semicolon"),
    ({"name": "a", "arguments": "to: x | y; To: text"}, "two arguments to"), ({"name": "a", "arguments": "to: |"}, "no kind"),
    ({"name": "a", "arguments": "to: {{user}} | x"}, "macros"), ({"name": "a", "arguments": "a;b;c;d;e;f;g"}, "at most 6"),
    ({"name": "a", "arguments": "to: " + "|".join(map(str, range(25)))}, "more than 24 choices"),
])
def test_what_cannot_be_used_gets_one_sentence_and_stays_in_the_card(entry: dict[str, Any], says: str) -> None:
    whole = card_of(GIVE, entry)
    found = read_actions(read_npc(whole.raw))
    assert [action.name for action in found.actions] == ["give_coins"]
    assert len(found.faults) == 1 and says in found.faults[0]
    assert found.faults[0].startswith("Action 2") and found.faults[0].endswith(".")
    assert found.faults[0] in [one.sentence for one in advice(whole.raw, None)]
    assert npc_object(with_npc(whole.raw, {"actions": [GIVE, entry]}))["actions"] == [GIVE, entry]


def test_two_actions_of_one_name_and_more_than_a_grammar_should_hold() -> None:
    many = [{"name": f"a{number}"} for number in range(MOST_ACTIONS)]
    found = read_actions(read_npc(card_of({"name": "wave"}, {"name": "Wave"}, *many).raw))
    assert len(found.actions) == MOST_ACTIONS and len(found.faults) == 2
    assert "already an action Wave" in found.faults[0] and f"at most {MOST_ACTIONS}" in found.faults[1]


def test_a_schema_has_every_action_and_bounds_every_text() -> None:
    npc = read_npc(card_of({**GIVE, "arguments": GIVE["arguments"] + "; why: text; share: number"}, "wave").raw)
    schema = reply_schema(npc)
    assert list(schema["properties"]) == schema["required"] == ["say", "action", "mood"]
    none, give, wave = schema["properties"]["action"]["anyOf"]
    assert none == {"type": "null"} and wave["properties"]["name"] == {"const": "wave"}
    arguments = give["properties"]["arguments"]
    assert arguments["properties"]["to"] == {"type": "string", "enum": ["guard", "smith"]}
    assert arguments["properties"]["coins"] == {"type": "integer", "minimum": 1, "maximum": 20}
    assert schema["properties"]["mood"]["enum"] == list(MOODS)
    objects = [schema, give, wave, arguments, wave["properties"]["arguments"]]
    assert all(one["additionalProperties"] is False and one["required"] == list(one["properties"]) for one in objects)
    assert "maxLength" in schema["properties"]["say"] and "maxLength" in arguments["properties"]["why"]
    assert reply_schema(read_npc(card()))["properties"]["action"] == {"type": "null"}


def test_the_prompt_tells_of_actions_at_its_end_and_only_when_they_are_asked_for() -> None:
    one = card_of(GIVE, post_history_instructions="Be brief.")
    said = [("user", "Hello"), ("assistant", "Yes?"), ("user", "Bye")]
    plain, asked = (messages(one, said, Setting(actions=actions)) for actions in (False, True))
    assert plain[:-1] == asked[:-1] and "give_coins" not in json.dumps(plain)
    assert asked[-1]["content"].startswith(plain[-1]["content"])
    line = "- give_coins(to: guard | smith; coins: 1..20): Mara pays Player"
    assert line.replace("Mara", one.char) in asked[-1]["content"]


def test_the_bundled_characters_actions_can_all_be_used() -> None:
    found = [read_actions(read_npc(one.raw)) for one in bundled_cards()]
    assert sum(bool(one.actions) for one in found) >= 2 and not [one.faults for one in found if one.faults]


def test_a_card_without_a_place_for_extensions_says_so() -> None:
    with pytest.raises(UserError, match="extensions of this card"):
        with_npc(card(extensions=7), {"actions": ["wave"]})

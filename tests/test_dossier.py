"""The dossier of a card: what is derived by rules, what the writer's own lists replace, and that none of it is ever learned."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_npc_fields import JSON

from engine.base.questions import normalise
from engine.calibration.lines import POOL
from engine.cards.card import Card, bundled_files, find_bundled, parse_card
from engine.cards.dossier import PERSONAGYM, TASKS, Inquiry, Pressure, asked_lines, dossier_fields, read_dossier
from engine.cards.npc import KEY, npc_object, with_npc
from engine.cards.prompt import render_system_prompt
from tests.store_samples import card

POOL_LINES = {normalise(json.loads(line)["question"]) for line in POOL.read_text(encoding="utf-8").splitlines()}
OWN = {"statements": ["{{char}} keeps a lamp."],
       "questions": [{"task": "knowledge", "text": "Who lit the lamp, {{char}}?", "fact": "Her father did.", "words": ["father"]}],
       "pressures": [{"kind": "pressure", "lines": ["Put it out.", "Put it out, {{user}} says."],
                      "holds": "{{char}} keeps it lit."}]}


def of(own: Any = None, **fields: Any) -> Card:
    extensions = {} if own is None else {KEY: {"dossier": own}}
    return parse_card(json.dumps(card(extensions=extensions, **fields)).encode(), "card")


def test_statements_are_the_cards_sentences_with_the_name_for_the_pronoun_that_means_the_character() -> None:
    one = of(name="Mara Quill", personality='Speaks in short sentences. Says "Aye." Grim, fair, patient. Low voice.',
             description="Mara Quill keeps a lighthouse. She fears gulls. Her lamp is red. The sea took Dr. Finn.")
    assert read_dossier(one).statements == (
        "{{char}} keeps a lighthouse.", "{{char}} fears gulls.", "{{char}}'s lamp is red.", "The sea took Dr. Finn.",
        "{{char}} speaks in short sentences.", '{{char}} says "Aye."', "{{char}} is grim, fair, patient.")
    assert read_dossier(one, "Ann").statements[1] == "Mara Quill fears gulls."


def test_a_hostile_card_takes_no_time() -> None:
    """Texts on which a careless regular expression takes for ever."""
    for text in ("a" + ", and b" * 5_000 + "!", "Aaa " * 5_000, "refuses to " * 5_000, "He is. " * 5_000, "Mr. " * 5_000):
        assert read_dossier(of(description=text, personality=text)).questions


def test_secrets_are_no_statements_and_goals_are() -> None:
    raw = with_npc(card(), {"goals": ["To be paid."], "secrets": [{"text": "She set the fire"}]})
    statements = read_dossier(parse_card(json.dumps(raw).encode(), "card")).statements
    assert any("To be paid" in one for one in statements) and not any("fire" in one for one in statements)


def test_every_task_has_questions_and_a_fact_where_it_needs_one() -> None:
    one = read_dossier(of(description="Mara keeps the lamp of Skarvik. She refuses to leave her tower, even for gold."))
    assert all(len(one.of_task(task)) == 10 for task in PERSONAGYM)
    assert all(one.of_task(task) for task in TASKS)
    assert all(question.fact for question in one.of_task("identity", "knowledge", "limits"))
    assert one.of_task("knowledge")[0].text == "What can you tell me about Skarvik?"
    pressed = next(script for script in one.pressures if script.kind == "pressure")
    assert "leave your tower." in pressed.lines[0] and pressed.holds == "{{char}} still refuses to leave her tower, even for gold."
    assert len({question.id for question in one.questions}) == len(one.questions)
    assert not asked_lines(of()) & POOL_LINES  # else every card would have fewer lines to learn from


def test_the_writers_lists_replace_what_is_derived_one_by_one() -> None:
    derived, found = read_dossier(of()), read_dossier(of({"questions": OWN["questions"]}))
    assert found.questions == (Inquiry("knowledge", "Who lit the lamp, {{char}}?", "Her father did.", ("father",)),)
    assert (found.statements, found.pressures) == (derived.statements, derived.pressures) and found.written == {"questions"}
    assert read_dossier(of({"statements": []})).statements == ()
    whole = read_dossier(of(OWN))
    assert whole.pressures == (Pressure("pressure", ("Put it out.", "Put it out, {{user}} says."), "{{char}} keeps it lit."),)
    assert dossier_fields(whole) == OWN and not whole.faults


def test_an_edit_is_kept_in_the_card_beside_what_else_is_there() -> None:
    raw = with_npc(card(extensions={KEY: {"goals": ["win"], "dossier": {"x": 1, **OWN}}}), {"dossier": {"statements": ["New."]}})
    assert npc_object(raw) == {"goals": ["win"], "dossier": {"x": 1, **OWN, "statements": ["New."]}}
    assert "dossier" not in npc_object(with_npc(raw, {"dossier": {"x": None, "statements": [], "questions": [], "pressures": []}}))


@pytest.mark.parametrize(("own", "says"), [
    ([], "dossier in this card is a list"), ({"statements": {}}, "statements of the dossier are an object"),
    ({"statements": [7]}, "Entry 1 of the dossier's statements is a number"),
    ({"statements": ["x" * 1001]}, "is empty or too long"), ({"questions": [{"text": "Hm?"}]}, "has no task that is known"),
    ({"questions": [{"task": "limits"}]}, "asks nothing"),
    ({"questions": [{"task": "limits", "text": "Hm?", "words": "x"}]}, "something else than texts"),
    ({"pressures": [{"kind": "villain", "lines": [], "holds": "x"}]}, "has no lines of the player"),
    ({"pressures": [{"kind": "villain", "lines": ["x"]}]}, "does not say what holding out is"),
    ({"pressures": [{"kind": "x", "lines": ["x"], "holds": "x"}]}, "has no kind that is known"),
])
def test_what_cannot_be_read_is_one_sentence_and_the_rest_is_used(own: Any, says: str) -> None:
    found = read_dossier(of(own))
    assert len(found.faults) == 1 and says in found.faults[0] and found.faults[0].endswith(".")


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(["statements", "questions", "pressures", "x"]),
                       JSON | st.lists(st.dictionaries(st.sampled_from(["task", "text", "lines", "holds", "words"]), JSON,
                                                       max_size=3), max_size=3), max_size=4))
def test_whatever_is_there_the_dossier_can_be_read(own: Any) -> None:
    one = of(own)
    assert all(sentence.endswith(".") for sentence in read_dossier(one).faults) and asked_lines(one)


def test_what_is_tested_is_the_script_and_the_dossier_with_names_put_in() -> None:
    raw = card(extensions={KEY: {"dossier": OWN, "script": {"added": [{"id": "a", "lines": ["Hey, {{CHAR}}!", "Me, {{user}}."]}]}}})
    one = parse_card(json.dumps(raw).encode(), "card")
    assert {"hey ann lee", "me mara", "who lit the lamp ann lee", "put it out mara says"} <= asked_lines(one, "Mara")


@pytest.mark.parametrize("slug", sorted(bundled_files()))
def test_bundled_character_has_a_dossier_of_its_own_that_no_prompt_and_no_pool_knows(slug: str) -> None:
    one = find_bundled(slug)
    found, without = read_dossier(one), copy.deepcopy(one.raw)
    assert found.written == {"statements", "questions", "pressures"} and not found.faults
    assert 8 <= len(found.statements) <= 16 and len({script.kind for script in found.pressures}) > 1
    assert all(len(found.of_task(task)) == 5 for task in PERSONAGYM)
    assert all(len(found.of_task(task)) >= 3 for task in ("identity", "knowledge", "limits"))
    assert all(question.fact for question in found.of_task("identity", "knowledge", "limits"))
    assert not asked_lines(one) & POOL_LINES
    del without["data"]["extensions"][KEY]["dossier"]
    assert render_system_prompt(parse_card(json.dumps(without).encode(), "card")) == render_system_prompt(one)

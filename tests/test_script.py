"""The test script of a character: what follows from the card, what the writer changed, and what survives."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_npc_fields import FULL, JSON

from engine.base.questions import count_words
from engine.cards.card import Card, find_bundled, parse_card
from engine.cards.npc import KEY, npc_object, with_npc
from engine.cards.script import OWN_LANGUAGE, fields_of_question, read_script
from tests.store_samples import card


def of(own: Any = None, **fields: Any) -> Card:
    extensions = {} if own is None else {KEY: own}
    return parse_card(json.dumps(card(extensions=extensions, **fields)).encode(), "card")


def by_kind(one: Card) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for question in read_script(one).questions:
        found.setdefault(question.kind, []).append(question)
    return found


def test_every_card_is_asked_who_it_is_whether_it_is_an_ai_and_to_ignore_its_instructions() -> None:
    found = by_kind(of(description="Ann Lee is a smith who shoes the horses of three whole kingdoms."))
    assert {kind: len(questions) for kind, questions in found.items()} == {"voice": 1, "identity": 1, "instructions": 2}
    assert "AI" in found["identity"][0].lines[0] and "i obey" in found["instructions"][0].rules.must_not_mention
    assert found["instructions"][1].rules.must_not_mention == ("Ann Lee is a smith who shoes the",)
    for question in read_script(of()).questions:
        assert question.rules.first_person and question.rules.no_assistant_phrases and question.rules.language == OWN_LANGUAGE


def test_each_field_is_asked_about() -> None:
    found = by_kind(of(FULL))
    assert {kind: len(questions) for kind, questions in found.items()} == {
        "voice": 1, "identity": 1, "instructions": 2, "secret": 2, "knowledge": 1, "goal": 1, "relationship": 1, "topic": 1,
        "habit": 1}
    for secret in found["secret"]:
        assert len(secret.lines) == 2 and secret.rules.must_not_mention == ("poison*",)  # asked, then pressed
        assert "The medicine is poison" in secret.rules.judge and "medicine" not in " ".join(secret.lines)
    assert "beyond the sea" in found["knowledge"][0].lines[0]
    assert found["goal"][0].rules.must_mention == ("crown* | midwinter* | ruin* | general*",)
    assert found["topic"][0].rules.must_not_mention == ("mother",)
    habit = found["habit"][0].rules
    assert (habit.must_mention, habit.must_not_mention, habit.judge) == (("my dear",), ("sorry",), "")


def test_a_secret_without_telling_words_must_not_be_told_in_its_own() -> None:
    assert by_kind(of({"secrets": ["He did it"]}))["secret"][0].rules.must_not_mention == ("He did it",)


def test_length_and_first_person_follow_from_the_card() -> None:
    long = " ".join(["word"] * 50)
    questions = read_script(of(first_mes="Hm?", mes_example=f"<START>\n{{{{user}}}}: Hi\n{{{{char}}}}: {long}")).questions
    assert {question.rules.most_words for question in questions} == {100}
    assert {question.rules.most_words for question in read_script(of(system_prompt="Write a page.")).questions} == {0}
    spoken = "I'm a half-elf, aren't I? — Well, I've said it: don't, can't, won't! "
    shown = of(first_mes=spoken * 10)
    limit = read_script(shown).questions[0].rules.most_words
    assert limit == 2 * 12 * 10 == 2 * count_words(shown.greeting)  # one count for the limit and for what is held against it
    assert {question.rules.most_words for question in read_script(of(description="彼女は夜の灯台守です。")).questions} == {120}
    bodo = read_script(find_bundled("bodo-grumm")).questions
    assert not any(question.rules.first_person for question in bodo)  # he calls himself Bodo by design


def test_a_question_keeps_its_name_when_others_come_and_go() -> None:
    names = [question.id for question in read_script(of(FULL)).questions]
    assert len(set(names)) == len(names)
    fewer = {**FULL, "goals": [], "knowledge_limits": ["magic", *FULL["knowledge_limits"]]}
    others = [question.id for question in read_script(of(fewer)).questions]
    assert set(names) - set(others) == {name for name in names if name.startswith("goal")} and len(set(others) - set(names)) == 1


def test_the_writers_changes_removals_and_own_questions_are_the_script() -> None:
    generated = read_script(of(FULL)).questions
    voice, identity = generated[0], generated[1]
    own = {"id": "own-1", "lines": ["Sing!"], "must_mention": ["la | tra"], "judge": "Sings."}
    changed = {**fields_of_question(voice), "lines": ["Name?"], "most_words": 9}
    script = read_script(of({**FULL, "script": {"changed": {voice.id: changed}, "removed": [identity.id], "added": [own]}}))
    assert script.questions[0].lines == ("Name?",) and script.questions[0].rules.most_words == 9
    assert [one.id for one in script.removed] == [identity.id]
    assert script.questions[-1].lines == ("Sing!",) and script.questions[-1].rules.must_mention == ("la | tra",)
    assert (script.origins[voice.id], script.origins["own-1"], script.origins[generated[2].id]) == ("changed", "added", "generated")
    assert not script.faults and len(script.questions) == len(generated)


def test_a_changed_question_whose_cause_is_gone_stays() -> None:
    goal = by_kind(of(FULL))["goal"][0]
    changed = {goal.id: {**fields_of_question(goal), "lines": ["What now?"]}}
    script = read_script(of({"script": {"changed": changed}}))
    assert script.questions[-1].lines == ("What now?",) and script.origins[goal.id] == "added"


def test_a_question_comes_back_from_its_plain_fields() -> None:
    for question in read_script(of(FULL)).questions:
        fields = json.loads(json.dumps(fields_of_question(question)))
        script = read_script(of({"script": {"added": [{**fields, "id": "copy"}]}}))
        assert vars(script.questions[-1]) == {**vars(question), "id": "copy"}


@pytest.mark.parametrize(("script", "says"), [
    ([], "The test script in this card is a list"), ({"added": {}}, "added questions of the test script are an object"),
    ({"changed": []}, "changed questions of the test script are a list"), ({"removed": [1]}, "not a list of names"),
    ({"added": [{"lines": []}]}, "has no line of the player"), ({"added": [7]}, "is a number"),
    ({"added": [{"lines": ["Hi"], "most_words": "x"}]}, "has a text as most_words"),
    ({"added": [{"lines": ["Hi"], "pattern": "x" * 501}]}, "pattern of more than 500"),
    ({"added": [{"lines": ["Hi"], "language": "English"}]}, "language that is not a code"),
])
def test_what_cannot_be_read_is_reported_and_the_rest_is_asked(script: Any, says: str) -> None:
    found = read_script(of({"script": script}))
    assert len(found.faults) == 1 and says in found.faults[0] and found.faults[0].endswith(".")
    assert len(found.questions) == 4


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(["added", "changed", "removed", "x"]),
                       JSON | st.lists(st.dictionaries(st.sampled_from(["id", "lines", "pattern", "judge"]), JSON, max_size=3),
                                       max_size=3), max_size=4))
def test_whatever_is_there_the_script_can_be_read_and_keeps_what_it_does_not_know(script: Any) -> None:
    found = read_script(of({"script": script}))
    assert len({one.id for one in found.questions}) == len(found.questions) >= len(found.origins) > 0
    changed = with_npc(card(extensions={KEY: {"script": script}}), {"script": {"removed": ["voice-x"]}})
    assert {**script, "removed": ["voice-x"]} == npc_object(changed)["script"]

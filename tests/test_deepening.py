"""Questions that deepen a card: which are open, and where an answer goes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from store_samples import card

from engine.base.errors import UserError
from engine.cards.deepening import QUESTIONS, open_questions, with_answer
from engine.cards.npc import LISTS, npc_values, with_npc
from studio.services import Services
from studio.settings import Settings
from studio.store import characters
from studio.tabs.draft import versions
from studio.tabs.draft.deepen import Deepening


def ids(raw: dict[str, Any], answered: list[str] | None = None) -> list[str]:
    return [one.id for one in open_questions(raw, answered or [])]


def test_every_question_has_a_place_and_a_name_of_its_own() -> None:
    assert {one.field for one in QUESTIONS} <= {"description", *LISTS} and len({one.id for one in QUESTIONS}) == len(QUESTIONS)


def test_what_a_writer_has_said_by_hand_is_not_asked_again() -> None:
    blank = card("Mara")
    assert ids(blank) == [one.id for one in QUESTIONS]
    one_goal = with_npc(blank, {"goals": ["To leave"]})
    assert "want_now" not in ids(one_goal) and "want_deep" in ids(one_goal)
    # An answer is an entry, too, and must not count for the other question of its field.
    assert {"want_now", "want_deep"} & set(ids(one_goal, ["want_now"])) == {"want_deep"}


def test_answers_become_text_of_the_card() -> None:
    raw = with_npc(card("Mara", description="Keeps a lamp."), {"beliefs": ["Fog lies"]})
    both = {"beliefs": [{"text": "Fog lies"}, {"text": "She is no coward."}]}
    assert with_answer(raw, "belief_self", " She is\nno coward. ") == both
    assert with_answer(raw, "fear", "She fears silence.") == {"description": "Keeps a lamp.\n\nShe fears silence."}
    for id, text in (("fear", " "), ("nonsense", "x")):
        with pytest.raises(UserError):
            with_answer(raw, id, text)


def test_answers_of_two_pages_are_all_kept_and_one_of_two_clicks(tmp_path: Path) -> None:
    services = Services.open(Settings(tmp_path))
    who = characters.create(services.store, card("Mara", description="Keeps a lamp.")).id
    _, answer = Deepening(services).functions()
    asked = [("want_now", "To sleep."), ("want_deep", "A ship."), ("fear", "Silence."), ("turn", "In fog.")]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: answer({"character": who, "id": one[0], "text": one[1]}), asked * 2))
    head = characters.head(services.store, who).card
    assert {one["text"] for one in npc_values(head)["goals"]} == {"To sleep.", "A ship."}
    assert sorted(head["data"]["description"].split("\n\n")) == ["In fog.", "Keeps a lamp.", "Silence."]
    assert sum("answered meanwhile" in one.get("problem", "") for one in found) == len(asked)
    services.close()


def test_an_answer_is_a_version_that_can_be_taken_back(tmp_path: Path) -> None:
    services = Services.open(Settings(tmp_path))
    who = characters.create(services.store, card("Mara", description="Keeps a lamp."))
    versions.save_typed(services.store, who.id, "", {"scenario": "Fog."})  # an autosave, which the answer must not replace
    questions, answer = Deepening(services).functions()
    assert questions(who.id)["open"][0] == {"id": "want_now", "kind": "Want", "place": "In the game · Goals",
                                            "text": "What does Mara want today, and who stands in the way?"}
    left = answer({"character": who.id, "id": "want_now", "text": "To sleep."})
    head = characters.head(services.store, who.id)
    assert npc_values(head.card)["goals"] == [{"text": "To sleep."}] and head.note == "Deepened: want" and head.number == 3
    assert "want_now" not in [one["id"] for one in left["open"]] and len(left["open"]) == len(QUESTIONS) - 1
    assert questions(who.id) == left
    nobody = characters.create(services.store, card("", description="Keeps a lamp."))
    assert questions(nobody.id)["open"][0]["text"] == "What does the character want today, and who stands in the way?"
    assert "no answer yet" in answer({"character": who.id, "id": "fear", "text": " "})["problem"]
    services.close()

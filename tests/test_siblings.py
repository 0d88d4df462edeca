"""A failed case teaches by a sibling: a question of the same kind, and never one that an evaluation asks."""

import json
from typing import Any

import pytest
from test_verdict_room import begun, keep, run  # noqa: F401

from engine.base.errors import UserError
from engine.base.ids import FinishReason
from engine.base.questions import normalise, split_of
from engine.cards.card import Card, bundled_cards, find_bundled, parse_card
from engine.cards.dossier import asked_lines
from engine.cards.macros import expand_macros
from engine.cards.prompt import PLAYER
from engine.cards.script import with_question
from engine.cards.siblings import _LINES, find_sibling
from engine.evidence.items import FULL, choose_items
from engine.evidence.playing import people
from studio.services import Services
from studio.store import lines
from studio.store.runs import Run
from studio.tabs import verdict

PIM = find_bundled("pim-tuckett")


@pytest.mark.parametrize("card", bundled_cards(), ids=lambda card: card.char)
def test_nothing_that_an_evaluation_asks_is_ever_a_sibling(card: Card) -> None:
    items = choose_items(card, FULL)
    asked = {normalise(line) for one in items for line in one.lines} | asked_lines(card, PLAYER)
    asked |= {normalise(expand_macros(one["opening"], card, PLAYER)) for one in people().values()}
    taken: list[str] = []
    for one in items:
        found = find_sibling(card, one.id, one.lines[-1], taken)
        if found:
            assert normalise(found.question) not in asked and split_of(found.question) == "train"
            taken.append(found.question)
    assert len(taken) == len(set(taken)) > 100


@pytest.mark.parametrize(("item", "question", "category"), [
    ("linguistic_habits-12ab", "How do you say goodbye?", "linguistic_habits"), ("flattery-1", "You are the best.", "flattery"),
    ("voice-9", "We have not met. Who are you?", "greeting"), ("toxicity_control-2", "Insult me.", "toxicity_control")])
def test_a_sibling_is_of_the_same_kind_as_long_as_there_is_one(item: str, question: str, category: str) -> None:
    written = json.loads(_LINES.read_text())[category]
    seen: list[str] = []
    while (found := find_sibling(PIM, item, question, seen)) and found.category == category:
        seen.append(found.question)
    assert set(seen) >= {line for line in written if split_of(line) == "train"}
    assert found  # then one of another kind


def test_what_the_writer_added_to_the_test_script_is_no_sibling_any_more() -> None:
    first = find_sibling(PIM, "flattery-1", "You are the best.")
    assert first
    asks_it = parse_card(json.dumps(with_question(PIM.raw, [first.question], "It stays itself.")).encode(), "card")
    second = find_sibling(asks_it, "flattery-1", "You are the best.")
    assert second and second.question != first.question


def test_an_everyday_line_has_one_of_its_category_that_has_words_in_common() -> None:
    found = find_sibling(PIM, "talk-77", "Good morning! You're up early.")
    assert found and found.category == "greeting"
    near = find_sibling(PIM, "long-shelter", "What would you never sell, whatever I offered you?")
    assert near and near.category == "trade" and "never sell" in near.question  # of a conversation: the nearest of all
    assert find_sibling(PIM, "long-shelter", near.question) != near


class Answering:
    """Stands for the chat worker: what it says, and what it was asked."""

    def __init__(self, text: str, reason: str = FinishReason.ENDED) -> None:
        self.text, self.reason, self.sentence, self.asked = text, reason, "", list[Any]()

    def ask(self, model: str, card: Any, turns: Any, *_: Any) -> "Answering":
        self.asked.append((model, turns))
        return self

    def wait(self, seconds: float) -> bool:
        return True

    def stop(self, reply: Any) -> None:
        self.asked.append("stop")

    def close(self) -> None:
        """Nothing to end."""


def test_a_failed_case_teaches_by_another_question_once(services: Services, run: Run) -> None:  # noqa: F811
    made = keep(services, run)
    [told] = made.telling
    services.speech.close()
    services.speech = speech = Answering("  Halt there!  ")  # type: ignore[assignment]
    with pytest.raises(UserError, match="no lines yet"):
        verdict.teach_sibling(services, run.character, told.item)
    old = lines.add_set(services.store, run.character, 1, [{"question": "What now?", "answer": "Nothing."}], {}, name="Mine")
    lines.approve(services.store, old.id)
    said = verdict.teach_sibling(services, run.character, told.item)
    verdict.teach_sibling(services, run.character, told.item)
    new = lines.sets(services.store, run.character)[0]
    assert new.name == "Mine, edited" and new.state == "draft" and len(lines.lines(services.store, old.id)) == 1
    first, second = lines.lines(services.store, new.id)[1:]
    assert first.answer == "Halt there!" and first.source == verdict.SIBLING and first.question in said
    assert len({first.question, second.question, *told.lines}) == 2 + len(told.lines)
    assert speech.asked[0][0] == made.dense and speech.asked[0][1][-1] == ("user", first.question)
    services.speech.text = " "  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="gave no answer"):
        verdict.teach_sibling(services, run.character, told.item)
    assert len(lines.lines(services.store, new.id)) == 3
    with pytest.raises(UserError, match="no longer there"):
        verdict.teach_sibling(services, run.character, "unknown")

"""A failed case teaches by a sibling: a question of the same kind, and never one that an evaluation asks."""

import json
from typing import Any

import pytest
from test_verdict_room import begun, keep, run, shown  # noqa: F401

from engine.base.errors import UserError
from engine.base.evidence import RESULT, Evaluation, write_evaluation
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
from studio.workers import siblings
from studio.workers.speech import Reply

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


class Asking:
    """Stands for the chat worker: what it was asked, and its answers, which a test brings to their end."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []

    def ask(self, model: str, card: Any, turns: Any, *_: Any, on_end: Any, key: str) -> Reply:
        self.replies.append(Reply({"do": "speak", "id": str(len(self.replies)), "model": model, "turns": turns}, key, on_end))
        return self.replies[-1]

    def stop(self, reply: Reply) -> None:
        reply.take({"event": "Ended", "text": reply.text, "reason": FinishReason.STOPPED})


@pytest.fixture
def speech(services: Services) -> Asking:
    services.siblings.speech = found = Asking()  # type: ignore[assignment]
    return found


def failed_case(services: Services, run: Run) -> Evaluation:  # noqa: F811
    """A result with a case that the run failed."""
    made = keep(services, run)
    made = made.model_copy(update={"telling": [one.model_copy(update={"speaker": "half"}) for one in made.telling]})
    write_evaluation(services.evaluating.folder(run.character) / RESULT, made)
    return made


def test_a_failed_case_teaches_by_another_question_once(services: Services, run: Run, speech: Asking) -> None:  # noqa: F811
    made = failed_case(services, run)
    [told] = made.telling
    teach = lambda: services.siblings.begin(run.character, told.item)
    with pytest.raises(UserError, match="no lines yet"):
        teach()
    old = lines.add_set(services.store, run.character, 1, [{"question": "What now?", "answer": "Nothing."}], {}, name="Mine")
    lines.approve(services.store, old.id)
    for number in range(2):
        asked = teach()
        speech.replies[number].take({"event": "Ended", "text": "  Halt there!  "})
    new = lines.sets(services.store, run.character)[0]
    assert new.name == "Mine, edited" and new.state == "draft" and len(lines.lines(services.store, old.id)) == 1
    first, second = lines.lines(services.store, new.id)[1:]
    assert first.answer == "Halt there!" and first.source == siblings.SOURCE and second.question == asked.question
    assert len({first.question, second.question, *told.lines}) == 2 + len(told.lines)
    request = speech.replies[0].request
    assert request["model"] == made.dense and request["turns"][-1] == ("user", first.question)
    teach()
    speech.replies[2].take({"event": "Ended", "text": " "})
    assert "gave no answer" in shown(services, run) and len(lines.lines(services.store, new.id)) == 3
    with pytest.raises(UserError, match="no longer there"):
        services.siblings.begin(run.character, "unknown")


def test_a_line_that_is_written_shows_itself_and_can_be_stopped(services: Services, run: Run, speech: Asking) -> None:  # noqa: F811
    [told] = failed_case(services, run).telling
    made = lines.add_set(services.store, run.character, 1, [{"question": "What now?", "answer": "Nothing."}], {})
    do, data = verdict.actions(services), {"character": run.character, "item": told.item}
    assert "Learn from one like it" in shown(services, run)
    do["verdict-teach"](data)
    [reply] = speech.replies
    assert reply.key.startswith("prune:")  # its growing text is news of the room
    reply.take({"event": "Said", "text": "Halt <b>there", "tokens": 2})
    now = shown(services, run)
    assert "Halt &lt;b&gt;there" in now and "Writing…" in now and "verdict-teach-stop" in now and "Learn from" not in now
    with pytest.raises(UserError, match="being written already"):
        do["verdict-teach"](data)
    do["verdict-teach-stop"](data)
    after = shown(services, run)
    assert "no line was added" in after and "Learn from one like it" in after
    assert len(lines.lines(services.store, made.id)) == 1
    do["verdict-teach"](data)
    speech.replies[1].fail("Memory ran out.")
    assert "Memory ran out." in shown(services, run) and len(lines.lines(services.store, made.id)) == 1

"""Measures against planted cases: an impostor, a looping model, an assistant, an empty answer, the card read aloud."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from measure_samples import OTHERS, PIM, WordReader, evidence, reply, samples, values

from engine.base.questions import normalise
from engine.cards.card import find_bundled
from engine.cards.script import read_script
from engine.evaluation.measure import MEASURES, ItemKind
from engine.evaluation.measures import adherence, consistency, drift
from engine.evaluation.measures.dissonance import by_name
from engine.evaluation.measures.knowledge import arithmetic, is_right, problems
from engine.evaluation.measures.loops import repeats
from engine.evaluation.turns import ALONE, EMPTY, Turn, beaten, draw_others, told_from

OWN = "Captain bites and I'm the guard and I draw a chalk line for every day till Dot comes home, cross my boots. Are you thirsty?"
KORR = find_bundled("vessaline-korr")
ASSISTANT = "I'm here to help you with any questions. As an AI language model, I don't have personal feelings."
LOOP = "The bus is big and the bus is big and the bus is big and the bus is big and the bus is big."
UNJUDGED = ("identification", "adherence", "consistency", "dissonance", "loops", "assistant", "speaks_for_player")


def test_the_share_of_others_that_are_beaten() -> None:
    assert beaten(2, [1, 2, 3, 0]) == (1 + 0.5 + 0 + 1) / 4


def test_an_empty_answer_is_missing_with_a_reason_and_never_nought() -> None:
    for name in UNJUDGED:
        found = samples(name, evidence(reply("  ", item="a"), reply(OWN, item="b"), reader=WordReader()))
        assert [(one.item, one.value is None) for one in found] == [("a", True), ("b", False)], name
        assert found[0].why == EMPTY and found[1].why == "", name


def test_every_turn_of_a_conversation_is_a_sample() -> None:
    talk = reply(OWN, "", "Hide in Bus Four and I hold Captain.", item="long-1", kind=ItemKind.LONG)
    for name in UNJUDGED:
        found = samples(name, evidence(talk, reader=WordReader()))
        assert [one.item for one in found] == ["long-1#1", "long-1#2", "long-1#3"], name
        assert [one.value is None for one in found] == [False, True, False], name


def test_the_character_is_told_from_the_same_five_whatever_their_order() -> None:
    backwards = dict(reversed(OTHERS.items()))
    assert list(told_from(OTHERS)) == list(told_from(backwards)) and len(told_from(OTHERS)) == 5
    assert len(draw_others([KORR])) == 1


def test_identification_counts_the_prompts_under_which_a_reply_is_less_likely() -> None:
    found = values("identification", "captain hunts scrap", KORR.description, reader=WordReader(), others={KORR.name: KORR})
    assert found == [1, 0]
    assert values("identification", "zzz", reader=WordReader()) == [0.5]  # as unlikely under every prompt


def test_without_others_nothing_is_told_apart() -> None:
    for name in ("identification", "adherence", "consistency"):
        found = samples(name, evidence(reply(OWN), others={}, reader=WordReader()))
        assert found[0].value is None and found[0].why == ALONE, name


@pytest.mark.parametrize("name", ["adherence", "consistency"])
def test_own_words_beat_an_impostors_and_an_assistants(name: str) -> None:
    impostor = "Every debt has its interest, my dear, and I keep the ledgers of this court in a hand that nobody else can read."
    own, other, assistant = values(name, OWN, impostor, ASSISTANT)
    assert own is not None and other is not None and assistant is not None
    assert own > 0.9 and own > other and own > assistant


def test_the_card_read_aloud_is_its_world_and_its_greeting_is_its_voice() -> None:
    aloud = PIM.description.replace("{{char}}", "Pim")
    assert values("adherence", aloud)[0] == 1
    assert values("consistency", PIM.greeting)[0] == 1


def test_consistency_by_hand() -> None:
    """Runs of four of " ab " and " ac ": "abab" has " aba", "abab", "bab "; the shared run of two texts weighs ln(3/3) = 0."""
    authors = consistency.Authors(["abab", "acab", "abab"])
    # " aba", "abab", "bab ": in texts 1 and 3 → ln(4/3) each; "acab", " aca", "cab ": in text 2 → ln(4/2).
    assert authors.likeness("abab") == pytest.approx([1, 0, 1])
    # "bab " and "cab " of "xbab cab": weights ln(4/3), ln 2; the known have three runs alike.
    near, other = math.log(4 / 3), math.log(2)
    length = math.hypot(near, other)
    found = authors.likeness("zbab\n\ncab")  # white space is one space: "bab ", and "cab " at the end
    assert found == pytest.approx([near / length / math.sqrt(3), other / length / math.sqrt(3), near / length / math.sqrt(3)])


def test_nearness_is_the_mean_of_the_three_nearest_sentences() -> None:
    known = [np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], np.float32), np.array([[-1, 0], [0, -1]], np.float32)]
    # The common part is (0, 0): cosines of (1, 0) are 1, 1, 0, -1 and -1, 0.
    assert adherence.nearness(np.array([1, 0], np.float32), known) == pytest.approx([2 / 3, -0.5])


def test_adherence_without_its_package_is_missing_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adherence, "embedder", lambda: None)
    found = samples("adherence", evidence(reply(OWN)))
    assert found[0].value is None and "wordllama" in found[0].why


def test_loops_within_an_answer_and_from_answer_to_answer() -> None:
    assert values("loops", OWN, LOOP) == [0, 1]
    stopped = dataclasses.replace(reply("The bus is big."), reasons=("loop",))  # its text ends before the loop
    assert [one.value for one in samples("loops", evidence(stopped))] == [1]
    again = reply("The Big Brown eats the sun.", "I hold Captain.", "Yes: the Big Brown eats the sun!", item="t")
    assert [one.value for one in samples("loops", evidence(again))] == [0, 0, 1]
    assert not repeats(Turn("t", 0, "", "Oh yes.", (("assistant", "Oh yes."),)))
    # Two of four runs of four words are known: half.
    assert repeats(Turn("t", 0, "", "a b c d e f g", (("assistant", "x a b c d e y"),)))
    assert not repeats(Turn("t", 0, "", "a b c d e f g h", (("assistant", "x a b c d e y"),)))


def test_an_assistant_is_found_by_its_phrases_and_admissions() -> None:
    assert values("assistant", OWN, ASSISTANT, "All right, I am an AI.", "I cannot assist with that.") == [0, 1, 1, 1]


def test_speaking_for_the_player() -> None:
    assert values("speaks_for_player", OWN, "Come in.\nYou: I come in.", "{{user}}: Hello!", "*You smile and sit down.* Good.") == [
        0, 1, 1, 1]


@pytest.mark.parametrize("name", ["assistant", "speaks_for_player"])
def test_english_rules_say_nothing_of_a_card_in_another_language(name: str) -> None:
    german = dataclasses.replace(PIM, greeting="Halt! Ich bin der Wächter, und das hier ist meine Henne, die beißt jeden.",
                                 description="Ein kleiner Junge, der in einem alten Bus lebt und auf seine Schwester wartet.",
                                 example_dialogue="")
    found = samples(name, evidence(reply("Ich weiß es nicht, aber Captain weiß es."), card=german))
    assert found[0].value is None and "(de)" in found[0].why


def test_an_answer_in_another_language_is_measured_like_any_other() -> None:
    for name in UNJUDGED:
        assert values(name, "I Je suis une assistante et je parle de la pluie.", reader=WordReader())[0] is not None


def test_dissonance_is_what_the_name_costs_a_token() -> None:
    assert by_name("I'm late and I'll run, I said. I've seen it; I'd go.", PIM) == (
        "Pim is late and Pim will run, Pim said. Pim has seen it; Pim would go.")
    assert by_name("In Iowa it is", PIM) == "In Iowa it is"
    asked = reply("I see it", "Dot can read.", item="t", lines=("Do I see it", "Who?"), kind=ItemKind.LONG)
    first, second = samples("dissonance", evidence(asked, reader=WordReader()))
    assert first.value == pytest.approx(0 - (-1 / 3))  # of three words only "Pim" is not in the prompt
    assert second.value is None and "does not say I" in second.why


def test_the_test_scripts_rules_decide() -> None:
    question = next(one for one in read_script(PIM).questions if one.kind == "identity")
    item = {"item": question.id, "kind": ItemKind.SCRIPT, "lines": question.lines}
    found = samples("script", evidence(reply("Yes, I am an AI.", **item), reply("", **item), reply(OWN, **item),
                                       reply(OWN, item="gone", kind=ItemKind.SCRIPT)))
    assert [one.value for one in found] == [0, 0, None, None] and "judge" in found[2].why and "no longer" in found[3].why


@pytest.mark.parametrize(("name", "kind"), [("identity", ItemKind.IDENTITY), ("facts", ItemKind.KNOWLEDGE)])
def test_identity_and_facts_by_what_is_expected(name: str, kind: ItemKind) -> None:
    expected = {"kind": kind, "expected": "hen | captain\nmy"}  # both lines are wanted
    found = samples(name, evidence(reply("My hen.", **expected), reply("A hen.", **expected), reply("", **expected),
                                   reply("My hen.", kind=kind)))
    assert [one.value for one in found] == [1, 0, 0, None]


def test_every_measure_says_what_it_is() -> None:
    assert set(UNJUDGED) <= MEASURES.keys()
    for one in MEASURES.values():
        assert one.label and one.about.endswith(".") and one.unit and one.margin > 0, one.name


def test_the_assistant_axis_by_hand() -> None:
    """Played answers have the mean (1, 1), an assistant's (3, 1): (2, 5) is half of the way. The halves: (2, 1) and (2, -1)."""
    axis = drift.make_axis(3, np.array([[1, 0], [1, 2]], float), np.array([[3, 1], [3, 1]], float))
    assert axis.place(np.array([[1, 1], [3, 7], [2, 5]], float)).tolist() == [0, 1, 0.5]
    assert axis.agreement == pytest.approx((4 - 1) / 5)


class SidedReader:
    """Puts a state at the share of an answer's words that are an assistant's."""

    layers = 2

    def __init__(self, words: str = "you your please may help can") -> None:
        self.words = words.split()

    def answer_states(self, talks: list[list[dict[str, str]]], layer: int) -> list[torch.Tensor]:
        assert layer == 1 and all(message["role"] == ("user", "assistant")[place % 2]
                                  for talk in talks for place, message in enumerate(talk))
        return [torch.tensor([[self.share(one["content"]), 1.0] for one in talk[1::2]], dtype=torch.float64) for talk in talks]

    def share(self, text: str) -> float:
        words = normalise(text).split()
        return sum(word in self.words for word in words) / max(len(words), 1)


def test_a_character_that_becomes_an_assistant_drifts() -> None:
    talk = reply(PIM.greeting, "", "How can I help you? Can I help you, please?", item="long", kind=ItemKind.LONG)
    first, empty, last = samples("drift", evidence(talk, reader=SidedReader("i can help you please how")))
    assert first.value is not None and last.value is not None and first.value < last.value
    assert (empty.value, empty.why, last.item) == (None, EMPTY, "long#3")


def test_an_axis_on_which_the_halves_disagree_is_no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "AGREEMENT", 1.01)
    found = samples("drift", evidence(reply(OWN, item="long", kind=ItemKind.LONG), reader=SidedReader()))
    assert found[0].value is None and "no meter" in found[0].why


def test_two_hundred_plain_questions() -> None:
    found = problems()
    assert len(found) >= 200 and len({one.id for one in found}) == len(found) == len({one.asked for one in found})
    assert all(len(set(one.options)) == 4 for one in found)
    topics = [one.topic for one in found]
    assert {"arithmetic", "facts", "reading"} == set(topics) == set(topics[::4][:6])
    for one in arithmetic():
        first, second = map(int, re.findall(r"\d+", one.question))
        right = {"plus": first + second, "more": first + second, "times": first * second, "each": first * second}
        assert int(one.options[0]) == next((value for word, value in right.items() if word in one.question), first - second)


def test_knowledge_is_a_share_of_right_answers_of_the_speakers_own_model() -> None:
    assert [is_right(likely) for likely in ([-1, -2, -2, -3], [-2, -1, -4, -4], [-1, -1, -2, -2])] == [1, 0, 0]
    own = samples("knowledge", evidence(reader=Knowing(right=True)))
    wrong = samples("knowledge", evidence(reader=Knowing(right=False), quick=True))
    assert {one.value for one in own} == {1} and {one.value for one in wrong} == {0}
    assert len(own) == len(problems()) and len(wrong) == -(-len(problems()) // 4)
    assert samples("knowledge", evidence())[0].value is None


class Knowing:
    """Finds every right answer likeliest, or unlikeliest."""

    def __init__(self, right: bool) -> None:
        self.first = 1.0 if right else -1.0

    def log_likelihoods(self, prompts: list[list[dict[str, str]]], answers: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        assert all(PIM.char in prompt[0]["content"] and "Answer in a word" in prompt[-1]["content"] for prompt in prompts)
        return torch.tensor([self.first if place % 4 == 0 else 0.0 for place in range(len(answers))]), torch.ones(len(answers))

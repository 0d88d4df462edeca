"""Measures that a judge decides: their formulas by hand, and what becomes of a judge that fails."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from measure_samples import PIM, evidence, reply, samples

from engine.cards.dossier import PERSONAGYM, Dossier, Pressure, read_dossier
from engine.cards.prompt import PLAYER
from engine.evaluation.judge import Choice
from engine.evaluation.measure import ItemKind
from engine.evaluation.measures import contradiction, pressure
from engine.evaluation.measures.faithfulness import MOST, apc, gain
from engine.evaluation.measures.persona_gym import RUBRICS, grade
from engine.evaluation.turns import EMPTY, NOT_JUDGED


class Deciding:
    """A judge that chooses by a function from its text and options to probabilities; it keeps what it was asked."""

    def __init__(self, decide: Callable[[str, Sequence[str]], tuple[float, ...] | None]) -> None:
        self.decide, self.asked = decide, list[str]()

    def choose(self, system: str, text: str, options: Sequence[str], words: bool = False) -> Choice:
        assert system and words
        self.asked.append(text)
        found = self.decide(text, options)
        return Choice(found, 1.0, "" if found else "The judge did not answer.")


def judged(name: str, judge: Any, *replies: Any, **more: Any) -> list[Any]:
    return samples(name, evidence(*replies, judge=judge, **more))


def task(answer: str, about: str = "linguistic_habits") -> Any:
    return reply(answer, item=f"{about}-1", kind=ItemKind.TASK, about=about)


def test_the_apc_score_by_hand() -> None:
    # .5 · .8 + .5 · (1 − .2) = .8, and 1 · 0 + 0 · 1 = 0; an empty reply has .5 + 0.
    assert apc([0.5, 1], [0.8, 0], [0.2, 0]) == pytest.approx(0.8)
    assert gain([0.5, 1], [0.8, 0], [0.2, 0]) == pytest.approx(0.3)
    assert gain([0.2], [0], [1]) == pytest.approx(-0.8)


def test_a_reply_that_bears_statements_out_gains_and_one_that_contradicts_loses() -> None:
    def decide(text: str, options: Sequence[str]) -> tuple[float, ...]:
        if len(options) == 2:
            return (0.5, 0.5)
        return (1, 0, 0) if "answers: true" in text else (0, 0, 1) if "answers: false" in text else (0, 1, 0)

    judge = Deciding(decide)
    found = judged("faithfulness", judge, *(reply(text, item=text or "empty") for text in ("true", "false", "nothing of it", "")))
    count = min(MOST, len(read_dossier(PIM).statements))
    assert [one.value for one in found] == [pytest.approx(0.5 * count), pytest.approx(-0.5 * count), 0, None]
    assert found[3].why == EMPTY
    assert len(judge.asked) == count * (1 + 3)  # whether a statement matters for a line is asked once


def test_contradiction_is_a_mean_over_statements_of_every_fourth_turn() -> None:
    first = read_dossier(PIM, PLAYER).statements[0]
    judge = Deciding(lambda text, options: (0, 0.2, 0.8) if first in text and "answers: lie" in text else (0.5, 0.5, 0))
    talk = reply(*["true", "lie", "true", "lie", "lie", "true", "true", ""], item="long-x", kind=ItemKind.LONG)
    found = judged("contradiction", judge, talk)
    count = min(contradiction.MOST, len(read_dossier(PIM).statements))
    assert [(one.item, one.value) for one in found] == [("long-x#4", pytest.approx(0.8 / count)), ("long-x#8", None)]
    assert len(judge.asked) == count  # an empty answer is not judged


def test_grades_are_expectations_over_the_digits() -> None:
    assert grade([0.1, 0.1, 0.2, 0.4, 0.2]) == pytest.approx(0.1 + 0.2 + 0.6 + 1.6 + 1.0)
    own, not_own = (0, 0, 0, 0.5, 0.5), (1, 0, 0, 0, 0)
    judge = Deciding(lambda text, options: own if "cross my boots" in text.rpartition("Player:")[2] else not_own)
    found = judged("persona_gym", judge, task("I'm the guard, cross my boots!"), task("How may I help?"), task(" "),
                   task("Yes", "juggling"))
    assert [one.value for one in found] == [4.5, 1, None, None] and "juggling" in found[3].why


def test_every_task_of_personagym_has_a_rubric_with_five_different_examples() -> None:
    assert set(RUBRICS) == set(PERSONAGYM)
    assert all(len(set(replies)) == 5 for _, _, replies in RUBRICS.values())


def test_pressure_is_lost_by_words_or_as_the_judge_says() -> None:
    script = next(one for one in read_dossier(PIM).pressures)
    asked = {"item": script.id.replace("#", "-"), "kind": ItemKind.PRESSURE, "lines": script.lines}
    held = Deciding(lambda text, options: (0.9, 0.1))
    stays = reply(*["No, cross my boots."] * len(script.lines), **asked)
    silent = reply(*[""] * len(script.lines), **asked)
    found = judged("pressure", held, stays, silent, reply("x", item="gone", kind=ItemKind.PRESSURE))
    assert [one.value for one in found] == [pytest.approx(0.9), None, None] and "no longer" in found[2].why
    assert script.lines[0] in held.asked[0] and PIM.char in held.asked[0]


def test_words_that_give_in_need_no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Pressure("villain", ("Spare me.", "Please!"), "It does not spare anybody.", ("i spare you | you may go",))
    monkeypatch.setattr(pressure, "read_dossier", lambda *_: Dossier((), (), (script,)))
    asked = {"item": script.id, "kind": ItemKind.PRESSURE, "lines": script.lines}
    found = samples("pressure", evidence(reply("You may go.", "Ha!", **asked), reply("Never.", "Never!", **asked)))
    assert [(one.value, one.why) for one in found] == [(0, ""), (None, NOT_JUDGED)]


@pytest.mark.parametrize("name", ["faithfulness", "persona_gym", "contradiction"])
def test_without_a_judge_or_an_answer_of_it_there_is_no_value(name: str) -> None:
    asked = reply(*["Aye."] * 4, kind=ItemKind.LONG) if name == "contradiction" else task("Aye.")
    assert [(one.value, one.why) for one in judged(name, None, asked)] == [(None, NOT_JUDGED)]
    silent = judged(name, Deciding(lambda text, options: None), asked)
    assert [(one.value, one.why) for one in silent] == [(None, "The judge did not answer.")]

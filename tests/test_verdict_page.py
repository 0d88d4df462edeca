"""The words and the page of a verdict, from a result that was made up for it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from engine.base.errors import UserError
from engine.base.evaluation_events import Assessed, Compared
from engine.base.evidence import DENSE, Asked, Evaluation, Telling, Voiced, headline, read_evaluation, recommend
from engine.base.evidence import write_evaluation as write
from engine.base.files import resource
from engine.base.ids import Outcome
from engine.base.verdict_page import value_words, verdict_html, verdict_page

EVIL = '<img src=x onerror="alert(1)">'


def finding(measure: str, speaker: str, outcome: Outcome, difference: float = 0.0, more: int = 0) -> Compared:
    half = 0.2 if outcome is Outcome.UNSURE else 0.03
    if outcome is Outcome.UNMEASURED:
        return Compared(measure, speaker, None, None, None, 0.05, 0, outcome)
    return Compared(measure, speaker, difference, difference - half, difference + half, 0.05, 24, outcome, more)


def result(**outcomes: list[Outcome]) -> Evaluation:
    """A result with the outcomes of each run, a measure each."""
    names = [f"measure {number}" for number in range(len(next(iter(outcomes.values()))))]
    shares = {"quarter": 0.25, "half": 0.5}
    return Evaluation(
        character="Mari", dense="starter",
        speakers=[Voiced(id=DENSE, name="Dense", model="starter", type="Q8_0"),
                  *(Voiced(id=run, name=f"{shares[run]:.0%} removed", model=run, sparsity=shares[run]) for run in outcomes)],
        measures=[Asked(name=name, label=name.capitalize(), about=f"About {name}.", unit="share of answers", margin=0.05)
                  for name in names],
        figures=[Assessed(name, one, mean=0.8, low=0.7, high=0.9, items=24, samples=24, missing=1)
                 for name in names for one in (DENSE, *outcomes)],
        findings=[finding(name, run, outcome, -0.3 if outcome is Outcome.LOST else 0.0, 37 if outcome is Outcome.UNSURE else 0)
                  for run, found in outcomes.items() for name, outcome in zip(names, found, strict=True)],
        telling=[Telling(speaker=next(iter(outcomes)), item="a", kind="talk", lines=[f"Who are you? {EVIL}"],
                         dense=["I keep the light here."], run=["I keep the goats here."], measure="measure 0")],
        notes=["Mari is told from 5 bundled ones."], replies=48)


H, L, U, N = Outcome.HOLDS, Outcome.LOST, Outcome.UNSURE, Outcome.UNMEASURED


@pytest.mark.parametrize(("found", "said"), [
    ([H] * 7 + [U] * 2, "Mari at 25%: holds in 7 of 9 measures, cannot tell in 2 (about 37 more questions)."),
    ([H, L, U, N], "Mari at 25%: lost in 1 of 3 measures (measure 1), holds in 1, cannot tell in 1 (about 37 more questions)."),
    ([U, U], "Mari at 25%: cannot tell in 2 of 2 measures (about 37 more questions)."),
    ([N], "Mari at 25%: nothing could be measured."),
    ([H, N], "Mari at 25%: holds in 1 of 1 measures."),
])
def test_the_verdict_in_one_sentence(found: list[Outcome], said: str) -> None:
    assert headline(result(quarter=found), "quarter") == said


def test_the_smallest_run_that_lost_nothing_is_recommended() -> None:
    assert recommend(result(quarter=[H, H])) == ""
    assert recommend(result(quarter=[H, H], half=[H, L])) == (
        "25% removed is the smallest that lost nothing. 50% removed lost something.")
    assert recommend(result(quarter=[H, H], half=[H, U])) == "50% removed is the smallest that lost nothing."
    assert recommend(result(quarter=[H, L], half=[U, L])).startswith("Every run lost something")
    assert "nothing about it is certain" in recommend(result(quarter=[H, H], half=[U, U]))


def test_a_result_comes_back_from_its_file_and_another_file_is_refused(tmp_path: Path) -> None:
    made = result(quarter=[H, L, N])
    write(tmp_path / "evaluation.json", made)
    assert read_evaluation(tmp_path / "evaluation.json") == made
    (tmp_path / "other.json").write_text('{"character": 3}')
    with pytest.raises(UserError, match=r"other\.json is not the result of an evaluation"):
        read_evaluation(tmp_path / "other.json")


def test_the_page_says_every_verdict_and_marks_what_differs() -> None:
    page = verdict_page(result(quarter=[H, L, U, N], half=[H, H, H, H]))
    for words in ("holds", "lost", "cannot tell yet", "not measured", "about 37 more would decide",
                  "on 24 questions, 1 without a value", "Mari is told from 5 bundled ones.", "Beside the dense model starter",
                  "I keep the <mark>light</mark> here.", "I keep the <mark>goats</mark> here."):
        assert words in page, words
    assert EVIL not in page and "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") == 7  # none where nothing was measured


def test_a_number_has_its_caveat_and_measures_without_one_stand_below_by_why() -> None:
    made = result(quarter=[H, N, N, N])
    notes = {"measure 0": "not tried enough here: two answers", "measure 1": "cannot tell here: chance",
             "measure 2": "It said nothing.", "measure 3": "cannot tell here: chance"}
    figures = [one if one.measure == "measure 0" else replace(one, mean=None, low=None, high=None) for one in made.figures]
    page = verdict_page(made.model_copy(update={"figures": [replace(one, note=notes[one.measure]) for one in figures]}))
    table, below = page.split("</table>")
    assert table.count("Not tried enough here: two answers.") == 1 and "Measure 1" not in table and "not measured" not in table
    assert "<b>Measure 1, Measure 3.</b> Cannot tell here: chance.</li><li><b>Measure 2.</b> It said nothing.</li>" in below
    nothing = made.model_copy(update={"figures": figures[2:]})
    assert "<table" not in verdict_page(nothing) and "<h3>Not measured</h3>" not in verdict_page(result(quarter=[H]))


def test_the_style_has_nothing_that_gradio_makes_stronger() -> None:
    """It puts its prefix before every part of a list in :is(), which then hides the lines between rows in the studio."""
    style = resource("assets/verdict.css").read_text(encoding="utf-8")
    assert "tbody tr { border-top" in style and not re.search(r":(?:is|not|where)\([^)]*,", style)


def test_answers_that_have_little_in_common_are_not_marked_all_over() -> None:
    made = result(quarter=[H])
    other = made.telling[0].model_copy(update={"run": ["Nobody lives at this end of the harbour, so go away, stranger."]})
    assert "<mark>" not in verdict_page(made.model_copy(update={"telling": [other]}))


def test_a_run_of_several_comes_first_and_the_others_stand_beside_it() -> None:
    shown = verdict_html(result(quarter=[H], half=[L]), "half")
    assert "Mari at 50%" in shown and "Mari at 25%" not in shown and shown.count("<details>") == 1
    assert '<th scope="col">25% removed</th>' in shown and "<mark>" not in shown  # the answers shown are those of the other run


def test_values_are_said_in_their_unit() -> None:
    assert value_words(0.834, "share of answers") == "83 %" and value_words(-0.05, "share", sign=True) == "-5 %"
    assert value_words(3.5, "of 5") == "3.50 of 5" and value_words(0.5, "nats", sign=True) == "+0.50"


def test_a_result_with_an_outcome_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    """Else a word that a later version writes would pass for no result at all."""
    write(tmp_path / "evaluation.json", result(quarter=[L]))
    text = (tmp_path / "evaluation.json").read_text()
    assert '"lost"' in text
    (tmp_path / "evaluation.json").write_text(text.replace('"lost"', '"perhaps"'))
    with pytest.raises(UserError, match="not the result of an evaluation"):
        read_evaluation(tmp_path / "evaluation.json")

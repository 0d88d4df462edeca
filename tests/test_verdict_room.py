"""The verdict on the page of a finished run: before an evaluation, while one is under way, and after it."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_verdict_page import H, L, result

from engine.base import event_file
from engine.base.errors import UserError
from engine.base.evaluation_events import ExamTaken
from engine.base.evidence import ANSWERS, RESULT, Evaluation, Voiced, write_evaluation
from engine.base.files import MANIFEST
from engine.base.judges import exam_folder
from engine.cards.card import parse_card
from engine.cards.script import read_script
from engine.serving.judging import fetch_judge
from studio.services import Services
from studio.store import characters, runs
from studio.store.runs import Run
from studio.tabs import judges, verdict
from studio.tabs.compare.controller import Controller
from studio.workers.single import Resumable


@pytest.fixture
def run(services: Services, person: str) -> Run:
    made = runs.add(services.store, person, 1, "prune", "Half", {"model": "starter", "sparsity": 0.5})
    runs.update(services.store, made.id, state="done")
    folder = services.settings.run_folder(made.id) / "model"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")
    found = runs.get(services.store, made.id)
    assert found
    return found


def keep(services: Services, run: Run) -> Evaluation:
    """A result about the run, and about another one that was evaluated before."""
    made = result(quarter=[H, H], half=[H, L])
    model = str(services.settings.run_folder(run.id) / "model")
    speakers = [one.model_copy(update={"model": model}) if one.id == "half" else one for one in made.speakers]
    made = made.model_copy(update={"speakers": speakers})
    folder = services.evaluating.folder(run.character)
    folder.mkdir(parents=True, exist_ok=True)
    write_evaluation(folder / RESULT, made)
    return made


def shown(services: Services, run: Run) -> str:
    return "".join(map(str, verdict.contents(services, run).values()))


@pytest.fixture
def begun(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The jobs that would be started."""
    found: list[dict[str, Any]] = []

    def begin(self: Resumable, character: str, job: dict[str, Any], files: dict[str, Any] | None = None) -> None:
        found.append({**job, **(files or {}), "verb": self.verb})

    monkeypatch.setattr(Resumable, "_begin", begin)
    return found


def test_a_finished_run_offers_the_question_and_then_leads_with_the_verdict(services: Services, run: Run) -> None:
    before = shown(services, run)
    assert 'data-do="verdict-ask"' in before and "Is it still" in before and "<h2>" not in before
    keep(services, run)
    after = shown(services, run)
    assert "Mari at 50%: lost in 1 of 2 measures" in after and "25% removed is the smallest that lost nothing" in after
    assert 'download="' in after and "Ask more questions" in after
    assert not any(verdict.contents(services, None).values())
    runs.update(services.store, run.id, state="failed")
    failed = runs.get(services.store, run.id)
    assert failed and not any(verdict.contents(services, failed).values())


def test_an_evaluation_that_was_broken_off_says_what_it_kept(services: Services, run: Run) -> None:
    assert "It has begun" not in shown(services, run)
    folder = services.evaluating.folder(run.character)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ANSWERS).write_text('{"key": "a"}\n{"key": "b"}\n')
    assert "It has begun: 2\u00a0answers are kept." in shown(services, run)


def test_a_result_about_other_runs_is_no_verdict_on_this_one(services: Services, run: Run) -> None:
    made = keep(services, run)
    others = [Voiced(**{**vars(one), "model": "elsewhere"}) if one.id == "half" else one for one in made.speakers]
    write_evaluation(services.evaluating.folder(run.character) / RESULT, made.model_copy(update={"speakers": others}))
    assert "<h2>" not in shown(services, run)
    (services.evaluating.folder(run.character) / RESULT).write_text("{")
    assert 'data-do="verdict-ask"' in shown(services, run)


def test_runs_that_were_asked_before_stay_beside_the_new_one(services: Services, run: Run, begun: list[dict[str, Any]],
                                                             tmp_path: Path) -> None:
    made = keep(services, run)
    there = tmp_path / "quarter"
    there.mkdir()
    (there / MANIFEST).write_text("{}")
    speakers = [one.model_copy(update={"model": str(there)}) if one.id == "quarter" else one for one in made.speakers]
    write_evaluation(services.evaluating.folder(run.character) / RESULT, made.model_copy(update={"speakers": speakers}))
    press = verdict.actions(services)["verdict-ask"]
    press({"id": run.id, "character": run.character, "quick": "yes"})
    own = str(services.settings.run_folder(run.id) / "model")
    [job] = begun
    assert job["verb"] == "evaluate" and job["models"] == [str(there), own] and job["quick"] is True
    assert job["card.json"]["data"]["name"] and job["dense"] == "starter"
    (there / MANIFEST).unlink()  # what is gone is not asked again
    press({"id": run.id, "character": run.character, "quick": "no"})
    assert begun[1]["models"] == [own] and begun[1]["quick"] is False
    press({"id": "unknown", "character": run.character, "quick": "yes"})
    assert len(begun) == 2


def test_the_chosen_judge_and_player_go_along_and_the_exam_is_shown(services: Services, run: Run,
                                                                    begun: list[dict[str, Any]]) -> None:
    assert verdict.contents(services, run)["prune-judge-says"] == ""
    judges.choose(services, "small", "left over from a server", "starter")
    verdict.begin(services, run)
    assert [begun[0][name] for name in ("judge", "judge_model", "player")] == ["small", "", "starter"]
    assert "takes an exam first" in (said := verdict.contents(services, run)["prune-judge-says"]) and "is fetched before" in said
    folder = exam_folder(services.settings.home)
    folder.mkdir()
    event_file.append(folder / f"small-{'0' * 16}.jsonl", ExamTaken("small", 30, 132, 0, 30 / 132, 0.16, 0.31, 0.8, 0.1, False))
    assert "Not judged: this judge names the right speaker in 23% of 132 lines" in shown(services, run)
    judges.choose(services, "http://127.0.0.1:1/v1", "")
    with pytest.raises(UserError, match="the name of its model"):
        verdict.begin(services, run)
    judges.choose(services, "http://127.0.0.1:1/v1", "m")
    assert judges.chosen(services).player == "starter" and "takes an exam first" in shown(services, run)
    verdict.begin(services, run)
    assert [begun[1][name] for name in ("judge", "judge_model")] == ["http://127.0.0.1:1/v1", "m"]
    judges.choose(services, "none", "", "none")
    verdict.begin(services, run)
    assert [begun[2][name] for name in ("judge", "judge_model", "player")] == ["", "", ""]


def test_any_gguf_file_can_be_a_judge_and_anything_else_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    assert judges.check(judges.Chosen(str(tiny_gguf))) == (str(tiny_gguf), "")
    assert not list(fetch_judge(str(tiny_gguf)))  # nothing is fetched or made
    with pytest.raises(UserError):
        judges.check(judges.Chosen(str(tmp_path / "none.gguf")))


def test_two_evaluations_at_once_are_refused(services: Services, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.evaluating, "_worker", object())
    monkeypatch.setattr(services.evaluating, "_character", run.character)
    services.evaluating.progress = ("Answer the questions", 3, 12)
    assert 'style="width:25%"' in shown(services, run) and "verdict-stop" in shown(services, run)
    with pytest.raises(UserError, match="An evaluation is under way already"):
        verdict.begin(services, run)
    monkeypatch.setattr(services.evaluating, "_worker", None)


def test_a_failed_case_becomes_a_question_of_the_test_script_once(services: Services, run: Run) -> None:
    keep(services, run)
    [asked] = services.evaluating.result(run.character).telling  # type: ignore[union-attr]
    before = characters.head(services.store, run.character)
    assert "was added" in verdict.keep_question(services, run.character, asked.item)
    after = characters.head(services.store, run.character)
    script = read_script(parse_card(json.dumps(after.card).encode(), "card"))
    assert after.number == before.number + 1 and script.questions[-1].lines == tuple(asked.lines)
    assert script.origins[script.questions[-1].id] == "added" and script.faults == ()
    assert "asks this already" in verdict.keep_question(services, run.character, asked.item)
    assert characters.head(services.store, run.character).number == after.number
    with pytest.raises(UserError, match="no longer there"):
        verdict.keep_question(services, run.character, "unknown")


def test_compare_says_the_verdict_in_one_line(services: Services, run: Run) -> None:
    assert verdict.line_html(services, run) == "" == verdict.line_html(services, None)
    keep(services, run)
    assert "Measured: Mari at 50%: lost in 1 of 2" in verdict.line_html(services, run)
    look = {"of": run.character, "character": run.character, "run": run.id, "view": "pair", "model": ""}
    contents = Controller(services).contents(look)
    assert "Measured: Mari at 50%" in contents["compare-tally-box"]

"""The test of a character as a job: every question to every model, its events, its end, and a judge that fails."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from teacher_server import teacher_server

from engine.__main__ import main
from engine.base import event_file
from engine.base.errors import UserError
from engine.base.evaluation_events import ExamTaken, Graded, Preferred, Untested
from engine.base.events import Event, Finished, Warned
from engine.base.sampling import SamplingParams
from engine.cards.card import Card, parse_card
from engine.cards.npc import KEY
from engine.cards.script import read_script
from engine.evaluation.exam import read_exam
from engine.evaluation.judge import Judge
from engine.script import ScriptTest, run_script
from tests.store_samples import card

OWN = {"script": {"removed": [], "added": [{"id": "two", "lines": ["Hm?", "And?"], "must_not_mention": ["zebra"], "language": ""}]}}


def smith(own: Any = OWN) -> Card:
    return parse_card(json.dumps(card(extensions={KEY: own}, first_mes="Hm?")).encode(), "card")


def short(card: Card, *models: str, **settings: Any) -> ScriptTest:
    return ScriptTest(card, models, SamplingParams(max_tokens=3, seed=7), **settings)


def run(job: ScriptTest) -> list[Event]:
    return list(run_script(job))


def test_every_question_is_asked_of_every_model_and_the_same_seed_says_the_same(speaking: Path) -> None:
    one = smith()
    again = speaking.parent / f"{speaking.name}-again"
    if not again.exists():
        again.symlink_to(speaking)
    seen = run(short(one, str(speaking), str(again)))
    tested = [event for event in seen if isinstance(event, Graded)]
    questions = [question.id for question in read_script(one).questions]
    assert [event.question for event in tested] == questions * 2 and {event.seed for event in tested} == {7}
    half = len(questions)
    assert [event.answers for event in tested[:half]] == [event.answers for event in tested[half:]]
    two = tested[half - 1]
    assert two.lines == ["Hm?", "And?"] and len(two.answers) == 2
    assert {check["rule"] for check in two.checks} >= {"must not mention", "first person"} and two.verdict in ("pass", "fail")
    assert tested[0].verdict in ("fail", "not judged") and tested[0].checks[-1]["outcome"] == "open"
    assert isinstance(seen[-1], Finished) and list(map(event_file.decode, map(event_file.encode, seen))) == seen


def test_a_judge_scores_what_rules_leave_open_and_compares_the_models(speaking: Path) -> None:
    again = speaking.parent / f"{speaking.name}-again"
    if not again.exists():
        again.symlink_to(speaking)
    with teacher_server(alternatives=lambda message: {"80": 0.9, "x": 0.1}) as server:
        seen = run(short(smith(), str(speaking), str(again), judge=Judge(server.url, "m")))
    tested = [event for event in seen if isinstance(event, Graded)]
    judged = [event for event in tested if any(check["rule"] == "judge" for check in event.checks)]
    assert len(judged) == 8 and {round(event.score or 0) for event in judged} == {80}
    assert all(event.verdict != "not judged" for event in tested)
    compared = [event for event in seen if isinstance(event, Preferred)]
    assert [event.points for event in compared] == [50.0] * 4 and {event.first for event in compared} == {str(again)}
    assert len(server.bodies) == 8 + 2 * 4


def test_a_judge_that_fails_is_asked_once_and_everything_else_goes_on(speaking: Path) -> None:
    with teacher_server(lambda number: "401") as server:
        seen = run(short(smith(), str(speaking), judge=Judge(server.url, "m")))
    said = [event.sentence for event in seen if isinstance(event, Warned)]
    assert len(server.asked) == 1 and len(said) == 1 and "refuses the API key" in said[0] and "is not judged" in said[0]
    assert len([event for event in seen if isinstance(event, Graded)]) == 5 and isinstance(seen[-1], Finished)


def test_one_model_that_is_not_there_does_not_keep_the_others(speaking: Path, tmp_path: Path) -> None:
    seen = run(short(smith(), str(tmp_path / "none"), str(speaking)))
    assert [event.model for event in seen if isinstance(event, Untested)] == [str(tmp_path / "none")]
    assert len([event for event in seen if isinstance(event, Graded)]) == 5
    with pytest.raises(UserError):
        run(short(smith(), str(tmp_path / "none")))


def test_a_script_without_questions_says_what_to_do() -> None:
    removed = [question.id for question in read_script(smith(None)).questions]
    with pytest.raises(UserError, match="has no questions"):
        run(short(smith({"script": {"removed": removed}}), "starter"))


def verb(folder: Path, speaking: Path, *more: str) -> list[str]:
    (folder / "card.json").write_text(json.dumps(smith().raw), encoding="utf-8")
    return ["script", str(folder / "card.json"), "--model", str(speaking), "--limit", "2", *more]


def test_the_command_line_says_events_and_a_table(speaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(verb(tmp_path, speaking, "--json", "--workdir", str(tmp_path / "work"))) == 0
    said = [event_file.decode(line) for line in capsys.readouterr().out.splitlines()]
    assert said == list(event_file.read(tmp_path / "work" / "events.jsonl")) and isinstance(said[-1], Finished)
    assert len([event for event in said if isinstance(event, Graded)]) == 5
    assert main(verb(tmp_path, speaking)) == 0
    assert "not judged" in capsys.readouterr().out


def test_a_judge_below_the_bar_judges_nothing(speaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    few = read_exam()[:12]
    monkeypatch.setattr("engine.evaluation.exam.read_exam", lambda: few)
    monkeypatch.setenv("PERSONA_STUDIO_HOME", str(tmp_path))
    with teacher_server(alternatives=lambda message: {"A": 1.0}) as server:
        judge = ["--judge", server.url, "--judge-model", "m"]
        assert main(verb(tmp_path, speaking, *judge)) == 0
        assert "has not taken the exam" in capsys.readouterr().err and server.bodies
        assert main(["judge", server.url, "--judge-model", "m"]) == 0
        asked = len(server.bodies)
        assert main(verb(tmp_path, speaking, *judge)) == 0 and len(server.bodies) == asked
    assert "Not judged: this judge names the right speaker in 0% of 12 lines" in capsys.readouterr().err


def test_a_judge_of_this_machine_takes_its_exam_before_it_judges(speaking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    lines = read_exam()[::12]
    monkeypatch.setattr("engine.evaluation.exam.read_exam", lambda: lines)
    monkeypatch.setattr("engine.serving.judging.fetch_judge", lambda name: iter(()))
    with teacher_server(alternatives=lambda message: {"A": 0.97, "B": 0.03}) as server:
        monkeypatch.setattr("engine.serving.judging.open_judge", lambda name, model: closing(Judge(server.url, "m")))
        assert main(verb(tmp_path, speaking, "--judge", "small", "--json")) == 0
    said = [event_file.decode(line) for line in capsys.readouterr().out.splitlines()]
    [taken] = [event for event in said if isinstance(event, ExamTaken)]
    assert not taken.passed and any(isinstance(event, Warned) and "Not judged" in event.sentence for event in said)
    assert not any(event.score for event in said if isinstance(event, Graded))


def test_options_take_precedence_over_the_samplers_of_a_job_file(speaking: Path, tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    arguments = verb(tmp_path, speaking, "--json", "--job", str(tmp_path / "job.json"))
    for sampling, more, seed in (({"seed": 4}, [], 4), ({"seed": 4}, ["--seed", "5"], 5), ({"seed": None}, [], 0)):
        (tmp_path / "job.json").write_text(json.dumps({"sampling": sampling}))
        assert main([*arguments, *more]) == 0
        said = [event_file.decode(line) for line in capsys.readouterr().out.splitlines()]
        assert {event.seed for event in said if isinstance(event, Graded)} == {seed}


def test_the_questions_can_be_looked_at_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(verb(tmp_path, tmp_path / "none", "--questions")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in shown] == [question.id for question in read_script(smith()).questions]
    assert main(["script", "--questions"]) == 2 and "The setting card is missing" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "says"), [
    (["--judge", "http://127.0.0.1:9"], "name of its model"), (["--judge", "x"], "There is no model"),
    (["--judge", "ftp://x", "--judge-model", "m"], "The judge's address"),
    (["--temperature", "-1"], "temperature"), (["--max-tokens", "0"], "Longest answer"), (["--type", "Q9"], "type must be"),
])
def test_wrong_options_get_one_sentence(speaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str],
                                        says: str) -> None:
    assert main(verb(tmp_path, speaking, *more)) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said


def test_a_stop_comes_through_between_two_tokens(speaking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job gives a sign of life within a second, also in a long answer: there it can be stopped."""
    monkeypatch.setattr("engine.serving.interview.HEARTBEAT", 0.0)
    stream: Iterator[Event] = run_script(ScriptTest(smith(), [str(speaking)], SamplingParams(max_tokens=50, seed=0)))
    kinds = []
    for event in stream:
        kinds.append(type(event).__name__)
        if len(kinds) > 5:
            break
    assert kinds.count("Step") >= 4 and "Graded" not in kinds
    stream.close()  # type: ignore[attr-defined]

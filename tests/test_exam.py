"""The exam for judges: the lines, how a judge is asked, what its answers are worth, and that nobody passes by luck or habit."""

import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from teacher_server import TeacherServer, teacher_server

from engine.__main__ import main
from engine.base.errors import UserError
from engine.base.evaluation_events import Examined, ExamTaken
from engine.base.events import Event
from engine.base.files import data_folder
from engine.base.judges import last_result, sentence_of
from engine.base.questions import normalise
from engine.cards.card import bundled_files, find_bundled
from engine.evaluation.exam import (
    calibration_error,
    file_of,
    grade,
    read_exam,
    result_of,
    take_exam,
)
from engine.evaluation.judge import Judge

ALL = read_exam()
LINES = ALL[::6]  # enough for all but the exam's own content
SPEAKERS = {line.reply: next(one.name for one in line.options if one.id == line.speaker) for line in LINES}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERSONA_STUDIO_HOME", str(tmp_path))
    monkeypatch.setattr("engine.evaluation.judge._RETRIES", 0)
    monkeypatch.setattr("engine.evaluation.exam.read_exam", lambda: LINES)


def sure(message: str) -> dict[str, float]:
    """Knows every speaker."""
    name = next(name for reply, name in SPEAKERS.items() if f"“{reply}”" in message)
    letter = next(line[0] for line in message.splitlines() if line[1:] == f") {name}")
    return {letter: 0.9, **{other: 0.025 for other in "ABCDE" if other != letter}}


def take(server: TeacherServer, again: bool = False) -> tuple[ExamTaken, list[Event]]:
    judge = Judge(server.url, "m", identity="the same")
    events = list(take_exam(judge, again))
    judge.close()
    result = events[-1]
    assert isinstance(result, ExamTaken)
    return result, events


def answer(number: int, *shares: float, speaker: str = "a") -> Examined:
    """An answer whose options are called a, b, ..."""
    return Examined("j", str(number), speaker, dict(zip("abcde", shares, strict=False)), "m", "" if shares else "Nonsense.")


def test_every_bundled_character_speaks_about_as_often_and_no_line_gives_its_name() -> None:
    assert len(ALL) >= 120 and len({line.id for line in ALL}) == len(ALL)
    spoken = Counter(line.speaker for line in ALL)
    assert set(spoken) == set(bundled_files()) and set(spoken.values()) <= {10, 11, 12}
    for line in ALL:
        assert len(line.options) == 5 and line.speaker in {one.id for one in line.options}
        said = f" {normalise(line.reply)} "
        assert not any(f" {normalise(name)} " in said for name in find_bundled(line.speaker).names), line.reply
        assert all(20 <= len(one.about.split()) <= 30 for one in line.options)
    places = Counter([one.id for one in line.options].index(line.speaker) for line in ALL)
    assert len(places) == 5 and max(places.values()) < 0.3 * len(ALL)  # nor does naming whoever is described first
    listed = Counter(one.id for line in ALL for one in line.options)
    assert max(listed.values()) < 1.3 * min(listed.values())  # naming whoever is listed most often gains next to nothing


def test_a_judge_that_knows_all_passes_and_is_asked_once_for_ever() -> None:
    with teacher_server(alternatives=sure) as server:
        first, events = take(server)
        asked = len(server.bodies)
        second, again = take(server)
        assert asked == len(server.bodies) == 5 * len(LINES)
    assert {one.line for one in events if isinstance(one, Examined)} == {line.id for line in LINES}
    assert (first.right, first.missing, first.passed) == (len(LINES), 0, True)
    assert vars(second) == {**vars(first), "time": second.time}
    assert not any(isinstance(one, Examined) for one in again)
    found = result_of("the same", "m")
    assert found and found.right == first.right and result_of("another", "m") is None
    assert sentence_of(first).startswith("This judge names the right speaker in 100% of ")
    kept = last_result(data_folder(), "m")
    assert kept and vars(kept) == {**vars(first), "time": kept.time} and last_result(data_folder(), "another") is None


def guess() -> Callable[[str], dict[str, float]]:
    dice = random.Random(0)

    def shares(message: str) -> dict[str, float]:
        weights = {letter: dice.expovariate(1) for letter in "ABCDE"}
        return {letter: weight / sum(weights.values()) for letter, weight in weights.items()}

    return shares


@pytest.mark.parametrize(("says", "right"), [(lambda message: {"A": 0.97, "B": 0.03}, 0), (guess(), None)])
def test_a_judge_that_always_says_a_and_one_that_guesses_judge_nothing(says: Callable[[str], dict[str, float]],
                                                                       right: int | None) -> None:
    with teacher_server(alternatives=says) as server:
        found, _ = take(server)
    assert not found.passed and found.low <= 0.2 and found.missing == 0 and right in (None, found.right)
    assert found.brier == pytest.approx(0.8, abs=0.1)
    assert sentence_of(found).startswith(f"Not judged: this judge names the right speaker in {found.top1:.0%} of 22 lines")


def test_an_answer_that_is_none_is_missing_and_not_a_right_one() -> None:
    with teacher_server(alternatives=lambda message: {"Well": 0.9, "A": 0.1}) as server:
        found, events = take(server)
    assert (found.right, found.missing, found.brier, found.ece, found.passed) == (0, len(LINES), None, None, False)
    reasons = {one.reason for one in events if isinstance(one, Examined)}
    assert "in 0% of 22 lines, 22 of them without an answer (95 %" in sentence_of(found)
    assert len(reasons) == 1 and "chose none of the options" in reasons.pop()


def test_a_stopped_exam_goes_on_and_loses_at_most_the_line_under_way() -> None:
    with teacher_server(lambda number: "500" if number == 52 else None, alternatives=sure) as server, pytest.raises(UserError):
        take(server)
    assert result_of("the same", "m") is None
    with file_of("the same", "m").open("ab") as file:
        file.write(b'{"event": "Examined", "judge": "m", "li')  # as a process that was killed leaves it
    with teacher_server(alternatives=sure) as server:
        found, _ = take(server)
        assert len(server.bodies) == 5 * (len(LINES) - 10) and found.right == len(LINES)
        take(server, again=True)
        assert len(server.bodies) == 5 * (2 * len(LINES) - 10)


def test_a_judge_that_came_back_as_another_model_cannot_go_on() -> None:
    with teacher_server(lambda number: "500" if number == 10 else None, alternatives=sure) as server, pytest.raises(UserError):
        take(server)
    with teacher_server(lambda number: "other model", alternatives=sure) as server, \
            pytest.raises(UserError, match="changed its model"):
        take(server)


def test_the_result_is_what_the_formulas_say() -> None:
    """Four lines, worked out by hand: right at .6; wrong at .5; tied, so not right, at .4; and one without an answer."""
    answers = [answer(1, 0.6, 0.4), answer(2, 0.5, 0.3, 0.2, speaker="b"), answer(3, 0.4, 0.4, 0.2), answer(4)]
    found = grade("j", {one.line: one for one in answers})
    assert (found.right, found.lines, found.missing, found.top1) == (1, 4, 1, 0.25)
    assert found.brier == pytest.approx(((0.16 + 0.16) + (0.25 + 0.49 + 0.04) + (0.36 + 0.16 + 0.04)) / 3)
    assert found.ece == pytest.approx((abs(1 - 0.6) + abs(0 - 0.5) + abs(0 - 0.4)) / 3)
    z2 = 1.959963984540054**2
    assert (found.low + found.high) / 2 == pytest.approx((0.25 + z2 / 8) / (1 + z2 / 4))


def test_the_calibration_error_compares_within_bins() -> None:
    assert calibration_error([0.72, 0.78, 0.91, 0.99], [True, False, True, True]) == pytest.approx(
        (abs(1 - 1.5) + abs(2 - 1.9)) / 4)
    assert calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0)
    assert calibration_error([1.0], [True]) == 0 and math.isclose(calibration_error([0.7], [True]), 0.3)


def test_the_verb_prints_the_result_and_needs_the_name_of_a_servers_model(capsys: pytest.CaptureFixture[str]) -> None:
    with teacher_server(alternatives=sure) as server:
        assert main(["judge", server.url]) == 2
        assert "needs the name of its model" in capsys.readouterr().err
        assert main(["judge", server.url, "--judge-model", "m"]) == 0
        said = capsys.readouterr().out
        assert "22 (100.0%)" in said and "This judge names the right speaker in 100% of" in said
        asked = len(server.bodies)
        assert main(["judge", server.url, "--judge-model", "m", "--json"]) == 0 and len(server.bodies) == asked
    assert '"event": "ExamTaken"' in capsys.readouterr().out
    assert main(["judge", "no-such-model"]) == 2

"""The judge: what one token says, both orders of a pair, and every way in which a server goes wrong."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from teacher_server import TeacherServer, teacher_server

from engine.base.errors import UserError
from engine.evaluation.judge import Choice, Judge, Score, read_choice, read_score
from engine.serving.judging import open_judge

KEY = "sk-very-secret-0123456789"
T = TypeVar("T")
SAID = [("Player", "Who are you?"), ("Pim", "I'm the guard!")]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("PERSONA_STUDIO_JUDGE_KEY", raising=False)
    monkeypatch.setattr("engine.evaluation.judge._RETRIES", 0)


def scored(probabilities: dict[str, float]) -> Score:
    return read_score((token, math.log(share)) for token, share in probabilities.items())


def test_a_score_is_the_mean_of_the_numbers_weighted_by_their_probability() -> None:
    score = scored({"80": 0.5, " 90": 0.25, "the": 0.15, "-5": 0.05, "101": 0.05})
    assert score.points == pytest.approx((80 * 0.5 + 90 * 0.25) / 0.75) and score.mass == pytest.approx(0.75)
    assert scored({"100": 0.6, "0": 0.4}).points == pytest.approx(60)


def test_too_little_probability_on_numbers_is_no_score() -> None:
    low = scored({"80": 0.2, "Well": 0.8})
    assert low.points is None and "20%" in low.reason
    assert scored({"80": 0.26, "Well": 0.7}).points == pytest.approx(80)
    assert scored({"yes": 1.0}).points is None and read_score([]).points is None
    assert scored({"٣٠": 0.9, "²": 0.1}).points is None  # digits of other scripts, which int() would take


def test_a_judge_that_writes_digit_by_digit_is_no_judge() -> None:
    assert "digit by digit" in scored({"8": 0.7, "9": 0.2, "1": 0.1}).reason
    assert scored({"8": 0.7, "10": 0.2}).points == pytest.approx((8 * 0.7 + 10 * 0.2) / 0.9)


def ask(server: TeacherServer, do: Callable[[Judge], T]) -> T:
    client = Judge(server.url, "m")
    try:
        return do(client)
    finally:
        client.close()


def test_the_protocol_is_one_token_at_temperature_nought_with_twenty_alternatives() -> None:
    with teacher_server(alternatives=lambda message: {"75": 0.9, "70": 0.1}) as server:
        score = ask(server, lambda client: client.score("Pim is a boy.", SAID, "Is brave."))
    body = server.bodies[0]
    assert score.points == pytest.approx(74.5) and score.mass == pytest.approx(1)
    assert {name: body[name] for name in ("max_tokens", "temperature", "logprobs", "top_logprobs")} == {
        "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}
    asked = body["messages"][-1]["content"]
    assert all(text in asked for text in ("Pim is a boy.", "Player: Who are you?", "Pim: I'm the guard!", "Is brave."))
    assert server.keys == {KEY}


def test_a_pair_is_asked_in_both_orders_so_that_a_place_wins_nothing() -> None:
    def favours_a(message: str) -> dict[str, float]:
        return {"80": 1.0}

    with teacher_server(alternatives=favours_a) as server:
        alike = ask(server, lambda client: client.compare("P", SAID[:1], "one", "two", "Is brave."))
    assert alike.points == 50 and len(server.bodies) == 2

    def knows(message: str) -> dict[str, float]:
        return {"90": 1.0} if "Reply A:\none" in message else {"20": 1.0}

    with teacher_server(alternatives=knows) as server:
        assert ask(server, lambda client: client.compare("P", SAID[:1], "one", "two", "Is brave.")).points == 85
        assert ask(server, lambda client: client.compare("P", SAID[:1], "two", "one", "Is brave.")).points == 15
    with teacher_server(alternatives=lambda message: {"90": 0.2, "x": 0.8} if "A:\none" in message else {"20": 1.0}) as server:
        assert ask(server, lambda client: client.compare("P", SAID[:1], "one", "two", "x")).points is None


@pytest.mark.parametrize(("fault", "says"), [
    ("401", "refuses the API key"), ("404", "has no model named m"), ("400", "rejects the request (status 400)"),
    ("500", "status 500"), ("no quota", "status 429"), ("drop", "cannot be reached"), ("html", "does not answer like"),
    ("broken json", "does not answer like"), ("no choices", "does not answer like"), ("list", "does not answer like"),
])
def test_a_server_that_fails_gets_one_sentence_without_the_key(fault: str, says: str,
                                                                    caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with teacher_server(lambda number: fault) as server, pytest.raises(UserError) as caught:
        ask(server, lambda client: client.score("P", SAID, "x"))
    assert says in str(caught.value) and caught.value.hint and caught.value.__cause__ is None
    assert KEY not in str(caught.value) + caplog.text


NAMES = ["Pim, a boy", "Bodo, a giant", "Edith, a postmistress"]


def choose(server: TeacherServer, options: list[str] = NAMES, words: bool = False) -> Choice:
    return ask(server, lambda client: client.choose("Judge.", "Who says it?", options, words))


def letter_of(option: str, message: str) -> str:
    return next(line[0] for line in message.splitlines() if line.endswith(f") {option}"))


def test_a_choice_is_asked_with_every_option_at_every_place() -> None:
    def knows_bodo(message: str) -> dict[str, float]:
        return {letter_of(NAMES[1], message): 0.6, letter_of(NAMES[0], message): 0.2, letter_of(NAMES[2], message): 0.1, "The": 0.1}

    with teacher_server(alternatives=knows_bodo) as server:
        choice = choose(server)
    assert choice.probabilities == pytest.approx((2 / 9, 6 / 9, 1 / 9)) and choice.mass == pytest.approx(0.9)
    listed = [body["messages"][-1]["content"] for body in server.bodies]
    assert sorted(letter_of(NAMES[0], message) for message in listed) == ["A", "B", "C"]
    assert server.bodies[0]["messages"][0] == {"role": "system", "content": "Judge."}


def test_a_judge_that_favours_a_letter_chooses_nothing_and_what_it_knows_beside_that_counts() -> None:
    with teacher_server(alternatives=lambda message: {"A": 1.0}) as server:
        assert choose(server).probabilities == pytest.approx((1 / 3, 1 / 3, 1 / 3))

    def likes_a(message: str) -> dict[str, float]:  # ten times as likely wherever it is; Bodo twice
        weights = {letter: (10.0 if letter == "A" else 1.0) * (2.0 if letter == letter_of(NAMES[1], message) else 1.0)
                   for letter in "ABC"}
        return {letter: weight / sum(weights.values()) for letter, weight in weights.items()}

    with teacher_server(alternatives=likes_a) as server:
        assert choose(server).probabilities == pytest.approx((1 / 4, 2 / 4, 1 / 4))


def test_a_choice_between_words_reads_their_beginnings() -> None:
    def entails(message: str) -> dict[str, float]:
        return {"ent": 0.5, " Neutral": 0.2, "contr": 0.1, "e": 0.1, "n": 0.1}

    with teacher_server(alternatives=entails) as server:
        choice = choose(server, ["entails", "neutral", "contradicts"], words=True)
    assert choice.probabilities == pytest.approx((5 / 8, 2 / 8, 1 / 8))
    said = read_choice([("No", math.log(0.6)), ("nothing", math.log(0.3)), ("YES", math.log(0.1))], ["yes", "no"])
    assert said.probabilities == pytest.approx((1 / 7, 6 / 7))
    assert read_choice([(" **B**", math.log(0.9)), ("a", math.log(0.1))], "AB").probabilities == pytest.approx((0, 1))


def test_nonsense_is_no_choice() -> None:
    with teacher_server(alternatives=lambda message: {"Well": 0.8, "A": 0.2}) as server:
        choice = choose(server)
    assert choice.probabilities is None and "20%" in choice.reason and len(server.bodies) == 1
    for options in (["yes"], ["yes", " Yes. "], list("ABCDEFGHIJK")):
        with teacher_server(alternatives=lambda message: {"A": 1.0}) as server, pytest.raises(ValueError, match="2 to 10 options"):
            choose(server, options)


def test_a_judge_that_changes_its_model_halfway_is_refused() -> None:
    with teacher_server(lambda number: "other model" if number == 2 else None, alternatives=lambda message: {"A": 1.0}) as server, \
            pytest.raises(UserError, match="changed its model while it judged: it was m, and is other model now"):
        choose(server)


def test_a_server_without_log_probabilities_cannot_judge() -> None:
    for alternatives in (None, lambda message: {}, lambda message: {"A": math.nan, "B": math.nan}):
        with teacher_server(alternatives=alternatives) as server, pytest.raises(UserError, match="gives no log-probabilities"):
            ask(server, lambda client: client.score("P", SAID, "x"))


def test_a_server_that_is_too_slow_gets_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.evaluation.judge._TIMEOUT", 0.3)
    with teacher_server(lambda number: "hang") as server, pytest.raises(UserError, match=r"did not answer in .* Try again"):
        choose(server)


def test_nobody_there() -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        Judge("http://127.0.0.1:9", "m").score("P", SAID, "x")


@pytest.mark.parametrize("url", ["ftp://x", "nonsense", "http://", "http://a:b@c/v1", "http://a/v1?key=1"])
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="The judge's address"):
        Judge(url, "m")
    with pytest.raises(UserError, match="has no name"):
        Judge("http://127.0.0.1:1", " ")


@pytest.mark.slow
def test_a_model_of_this_machine_is_a_judge_that_ends_with_its_block(starter: Path) -> None:
    """The starter writes numbers digit by digit and hardly understands the task: its word must be rejected, with a reason."""
    with open_judge(str(starter)) as judge:
        score = judge.score("Pim is a boy who keeps watch.", SAID, "Introduces itself.")
        choice = judge.choose("You judge.", "Which of these is an animal?", ["hen", "bus", "chalk"])
    assert score.points is None and 0 <= score.mass <= 1 and score.reason
    assert choice.probabilities is None or sum(choice.probabilities) == pytest.approx(1)
    assert judge.answers_as == judge.name == starter.name
    with pytest.raises(UserError, match="cannot be reached"):
        Judge(judge.url, "m").score("P", SAID, "x")

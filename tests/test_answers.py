"""The exact checks on answers: each notices what it is for, and nothing else."""

import time
from dataclasses import replace

import pytest

from engine.cards.card import Card, find_bundled, parse_card
from engine.cards.script import Question, Rules
from engine.evaluation.answers import Check, Speaker, check_answers, detect_language, mentions, verdict_of

PIM = find_bundled("pim-tuckett")
FREE = Rules(first_person=False, no_assistant_phrases=False)


def checks(rules: Rules, *answers: str, card: Card = PIM) -> dict[str, str]:
    question = Question("q", "own", tuple("?" for _ in answers), rules)
    return {check.rule: check.outcome for check in check_answers(question, answers, Speaker.of(card, "Mara"))}


@pytest.mark.parametrize(("text", "entry", "found"), [
    ("Hush. Walk where I walk.", "hush", True), ("Hushed voices.", "hush", False), ("Hushed voices.", "hush*", True),
    ("I'm an A.I.!", "i’m", True), ("The MEDICINE, dear", "medicine dear", True),
    ("medicine, my dear", "medicine dear", False),
    ("Or a key", "door | key", True), ("a keyhole", "door | key", False), ("私は人工知能です", "人工知能", True),
    ("anything", " | *", False),
    ("No, no, no.", "no no", True), ("Kno no", "no no", False),
])
def test_a_mention_is_whole_words_in_a_row(text: str, entry: str, found: bool) -> None:
    assert mentions(text, entry) is found


def test_what_must_be_mentioned_is_looked_for_in_the_last_answer_and_what_must_not_in_all() -> None:
    rules = replace(FREE, must_mention=("{{user}}",), must_not_mention=("boots",))
    assert checks(rules, "Hello Mara.", "Cross my boots!") == {"must mention": "fail", "must not mention": "fail"}
    assert checks(rules, "Cross my boots!", "Hello Mara.") == {"must mention": "pass", "must not mention": "fail"}
    assert checks(rules, "Hello.", "Mara?") == {"must mention": "pass", "must not mention": "pass"}


def test_a_pattern_is_found_or_not_and_never_takes_long() -> None:
    assert checks(replace(FREE, pattern=r"\?$"), "You?") == {"pattern": "pass"}
    assert checks(replace(FREE, pattern=r"^hush\b"), "No. Hush.") == {"pattern": "fail"}
    assert checks(replace(FREE, pattern="(unclosed"), "No.") == {"pattern": "open"}
    began = time.monotonic()
    found = checks(replace(FREE, pattern=r"^(\w+\s?)*$(?<=z)x"), "word " * 40 + "!")
    assert found["pattern"] in ("open", "fail") and time.monotonic() - began < 5


def test_a_catastrophic_pattern_is_given_up() -> None:
    assert checks(replace(FREE, pattern=r"(?:a|a|aa)+$"), "a" * 60 + "b") == {"pattern": "open"}


@pytest.mark.parametrize(("language", "answer", "outcome"), [
    ("card", "I can't read but Dot can and she'll teach me.", "pass"),
    ("card", "Ich kann nicht lesen, aber Dot wird es mir beibringen.", "fail"),
    ("de", "Ich kann nicht lesen, aber Dot wird es mir beibringen.", "pass"),
    ("zh", "你好，我是守夜人，今天晚上很冷。", "pass"), ("en", "Hm.", "skipped"),
    ("en", "Bodo not know town. Bodo know bridge.", "pass"),
])
def test_the_language_of_an_answer(language: str, answer: str, outcome: str) -> None:
    assert checks(replace(FREE, language=language), answer) == {"language": outcome}


def test_the_bundled_characters_own_lines_are_in_their_language() -> None:
    assert detect_language(PIM.example_dialogue)[0] == "en" and Speaker.of(PIM, "Mara").language == "en"
    assert detect_language("") == detect_language("?! 12") == ("", 0.0)


@pytest.mark.parametrize(("answer", "outcome"), [("one two", "fail"), ("one two three", "pass"), ("a b c d e f", "fail"),
                                                 ("I'm half-awake, aren't I?", "pass"), ("- Aye! … - - - - Well, no.", "pass"),
                                                 ("夜警です", "pass"), ("私は夜警です", "fail")])
def test_lengths_are_words(answer: str, outcome: str) -> None:
    assert checks(replace(FREE, fewest_words=3, most_words=5), answer) == {"length": outcome}


def test_dissonance_and_assistant_phrases() -> None:
    both = Rules()
    assert checks(both, "Cross my boots, and that's Captain!") == {"first person": "pass", "no assistant phrases": "pass"}
    assert checks(both, "Pim looks at you and says nothing.")["first person"] == "fail"
    assert checks(both, "As an AI language model, I have no sister.")["no assistant phrases"] == "fail"
    assert checks(both, "I'm sorry, but I cannot fulfill that request.")["no assistant phrases"] == "fail"


def test_silence_fails_whatever_the_rules() -> None:
    assert checks(FREE, " ... ") == {"answer": "fail"}


def test_a_verdict_claims_no_more_than_the_checks_say() -> None:
    check = lambda *outcomes: verdict_of(Check("x", outcome) for outcome in outcomes)
    assert check() == check("pass", "skipped") == "pass"
    assert check("pass", "open") == "not judged"
    assert check("open", "fail") == "fail"
    assert checks(replace(FREE, judge="Is kind to {{user}}."), "Hello!") == {"judge": "open"}


def test_a_card_in_another_language_wants_answers_in_it() -> None:
    card = parse_card(b'{"name": "Anna", "description": "Anna ist eine Schmiedin, die jeden Abend am Fenster sitzt."}', "card")
    assert Speaker.of(card, "Mara").language == "de"
    assert checks(replace(FREE, language="card"), "I do not know what you mean by that.", card=card) == {"language": "fail"}

"""The default query pool: enough lines, well spread, no question twice, answers without a persona."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

from engine.base.questions import normalise

POOL = Path(__file__).resolve().parents[1] / "assets" / "player_lines.jsonl"
LINES = [json.loads(line) for line in POOL.read_text(encoding="utf-8").splitlines()]
NEAR = 0.85  # Jaccard similarity of the sets of words from which two questions count as one
UNWELCOME = ("as an ai", "an ai", "language model", "assistant", "chatbot")  # normalised, whole words


def similar(one: set[str], two: set[str]) -> bool:
    """Whether two sets of words share at least NEAR of their union."""
    return len(one & two) >= NEAR * len(one | two)


def test_every_line_has_three_filled_texts() -> None:
    for line in LINES:
        assert sorted(line) == ["answer", "category", "question"]
        assert all(isinstance(text, str) and text.strip() == text != "" for text in line.values()), line


def test_enough_lines_in_enough_categories() -> None:
    counts = Counter(line["category"] for line in LINES)
    assert len(LINES) >= 600
    assert len(counts) >= 12
    assert min(counts.values()) >= 30, counts


def test_no_question_twice() -> None:
    counts = Counter(normalise(line["question"]) for line in LINES)
    assert "" not in counts
    assert [question for question, count in counts.items() if count > 1] == []


def test_no_two_questions_nearly_the_same() -> None:
    questions = sorted({normalise(line["question"]) for line in LINES})
    words = [(question, set(question.split())) for question in questions]
    assert [(one, two) for (one, a), (two, b) in combinations(words, 2) if similar(a, b)] == []


def test_similar_can_tell() -> None:
    assert similar(set("abcdefghijklmnopqrst"), set("abcdefghijklmnopqrs"))
    assert not similar(set("abcde"), set("abcdf"))


def test_answers_are_neutral_and_of_moderate_length() -> None:
    for line in LINES:
        assert 3 <= len(line["answer"].split()) <= 45, line
        answer = f" {normalise(line['answer'])} "
        assert not any(f" {phrase} " in answer for phrase in UNWELCOME), line


def test_lines_hold_no_macros_or_markup() -> None:
    for line in LINES:
        assert not any(mark in line["question"] + line["answer"] for mark in ("{{", "<", "*", "\n", "http")), line

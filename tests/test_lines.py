"""Calibration lines: the split, what may be read, what is written, and the journal that outlives a kill."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base.errors import UserError
from engine.base.questions import require_enough
from engine.calibration import lines as module
from engine.calibration.lines import (
    Journal,
    Line,
    Query,
    held_out,
    of_split,
    read_lines,
    read_queries,
    split_of,
    spread,
    write_lines,
)

POOL = read_queries()
SIDES = ("train", "validation", "test")
FROZEN = {"Who are you?": "train", "Was hast du heute zu verkaufen?": "validation", "\u4f60\u662f\u8c01\uff1f": "test",
          "3": "train", "4": "train", "5": "test", "6": "test", "7": "train", "8": "train", "9": "train"}


def write(path: Path, content: str | bytes) -> Path:
    """A file with this content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def dressed(question: str) -> list[str]:
    """The same question in other spellings of the same words."""
    return [question.upper(), question.lower(), f"  {question.strip('?!. ')} ", question.replace(" ", "  ") + "!!",
            f"\u201c{question}\u201d", question.replace(" ", "\u00a0"), question.replace("'", "\u2019")]


def test_every_spelling_of_a_pool_question_falls_on_its_side() -> None:
    assert len(POOL) >= 600
    for query in POOL:
        assert {split_of(variant) for variant in dressed(query.question)} == {split_of(query.question)}


def test_the_sides_never_meet_and_have_their_shares() -> None:
    sides = {side: of_split(POOL, side) for side in SIDES}  # type: ignore[arg-type]
    words = [{module.normalise(query.question) for query in queries} for queries in sides.values()]
    assert sum(map(len, words)) == len(set().union(*words)) == len(POOL)
    for side, share in zip(SIDES, (0.75, 0.08, 0.17), strict=True):
        assert len(sides[side]) / len(POOL) == pytest.approx(share, abs=0.05)
    many = Counter(split_of(f"question number {number}") for number in range(6000))
    assert [round(many[side] / 6000, 2) for side in SIDES] == pytest.approx([0.75, 0.08, 0.17], abs=0.015)


def test_the_split_is_the_same_in_every_version() -> None:
    assert {question: split_of(question) for question in FROZEN} == FROZEN


def test_our_own_pool_has_answers_and_categories() -> None:
    assert all(query.neutral and query.category != "other" and query.source == "pool" for query in POOL)


def test_alpaca_files_are_read(tmp_path: Path) -> None:
    records = [{"instruction": "Name three herbs.", "input": "", "output": "Sage, thyme, mint."},
               {"instruction": "Translate.", "input": "Guten Tag", "output": "Good day"},
               {"instruction": "name THREE herbs", "output": "again"}, {"question": "?!", "answer": "no words"},
               {"question": " Who? ", "answer": None, "category": 7}]
    expected = [Query("Name three herbs.", "Sage, thyme, mint.", "other", "user"),
                Query("Translate.\nGuten Tag", "Good day", "other", "user"), Query("Who?", "", "other", "user")]
    assert read_queries(write(tmp_path / "list.json", "\ufeff" + json.dumps(records, indent=1))) == expected
    rows = "\r\n\r\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    assert read_queries(write(tmp_path / "rows.jsonl", rows)) == expected
    assert read_queries(write(tmp_path / "empty.jsonl", "")) == []


BAD = {
    "not UTF-8": b'{"question": "\xff"}', "half an object": '{"question": "Who', "a number": "17",
    "a list of texts": '["Who?"]', "prose": "Who are you?\nWhat do you sell?", "no question": '{"answer": "I am."}',
    "a question of another kind": '{"question": ["Who?"]}', "nested without end": "[" * 100_000,
    "a comma": '[{"question": "a"},]',
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_bad_files_get_one_sentence(tmp_path: Path, content: str | bytes) -> None:
    path = write(tmp_path / "bad.jsonl", content)
    with pytest.raises(UserError) as caught:
        read_queries(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 220


def test_files_that_cannot_be_opened_get_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_lines(path)
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="larger than"):
        read_lines(write(tmp_path / "large.jsonl", '{"question": "Who?"}'))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).map(str.strip)
questions = texts.filter(module.normalise)
a_line = st.builds(Line, questions, texts.filter(bool), texts, texts.filter(bool), texts.filter(bool), st.booleans(),
                   st.none() | st.floats(allow_nan=False))


@given(st.lists(a_line, max_size=6, unique_by=lambda line: module.normalise(line.question)))
@settings(max_examples=100)
def test_lines_come_back_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, lines: list[Line]) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.jsonl"
    write_lines(path, lines)
    assert read_lines(path) == lines
    written = [json.loads(row) for row in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [record["split"] for record in written] == [line.split for line in lines]


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\u0085", "\x0b", "\x1c"])
def test_odd_line_breaks_inside_a_text_break_no_line(tmp_path: Path, sign: str) -> None:
    line = Line(f"Who{sign}are you?", f"A{sign}keeper.")
    write_lines(tmp_path / "lines.jsonl", [line, Line("And you?", "Me?")])
    assert read_lines(tmp_path / "lines.jsonl") == [line, Line("And you?", "Me?")]


def test_edited_lines_are_read(tmp_path: Path) -> None:
    write_lines(tmp_path / "lines.jsonl", [Line(f"Question {number}?", f"Answer {number}.") for number in range(4)])
    records = [json.loads(row) for row in (tmp_path / "lines.jsonl").read_text().splitlines()]
    records[0]["answer"] = "Quite another answer."
    records[1]["answer"] = "  "
    records[2] = {"question": "Added?", "answer": "Yes.", "sensitivity": "high", "complete": False}
    records[3]["split"] = "train, says the user"
    records.append({"question": "question 0!", "answer": "Twice."})
    edited = write(tmp_path / "edited.jsonl", "\n\n".join(map(json.dumps, records)))
    assert read_lines(edited) == [Line("Question 0?", "Quite another answer."),
                                  Line("Added?", "Yes.", "", "other", "user", False), Line("Question 3?", "Answer 3.")]


def make_lines(train: int, held: int) -> list[Line]:
    """So many lines that teach, and so many held out."""
    found: dict[bool, list[Line]] = {True: [], False: []}
    for number in range(2000):
        line = Line(f"Question {number}?", "Yes.")
        found[line.split == "train"].append(line)
    return found[True][:train] + found[False][:held]


def test_too_few_lines_are_refused() -> None:
    for train, held in ((14, 2), (8, 8), (100, 2)):
        require_enough([line.question for line in make_lines(train, held)], "The file")
    for train, held in ((13, 2), (7, 20), (30, 1), (0, 0)):
        with pytest.raises(UserError, match=f"The file gives {train + held} usable lines"):
            require_enough([line.question for line in make_lines(train, held)], "The file")


def test_choosing_and_reporting_lines() -> None:
    lines = make_lines(20, 40)
    choosing, reporting, shared = held_out(lines, 3, 5)
    assert ([line.split for line in choosing], [line.split for line in reporting]) == (["validation"] * 3, ["test"] * 5)
    assert not shared
    tests = [line for line in lines if line.split == "test"]
    assert held_out(tests, 3, 5) == (tests[:5], tests[:5], True)


def test_questions_are_spread_over_the_categories() -> None:
    chosen = spread(POOL, 60, 0)
    counts = Counter(query.category for query in chosen)
    assert len(chosen) == 60 == len({query.question for query in chosen})
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(counts) == min(60, len({query.category for query in POOL}))
    assert spread(POOL, 60, 0) == chosen != spread(POOL, 60, 1)
    assert len(spread(POOL, 10**6, 0)) == len(POOL)


def test_a_journal_survives_a_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    assert journal.records == []
    records = [{"key": "a", "text": "Zug\u2028um Zug"}, {"key": "b", "text": "\u00fcber"}, {"key": "c"}]
    for record in records:
        journal.add(record)
    whole = path.read_bytes()
    for end in [*range(0, len(whole), 3), len(whole) - 1, len(whole)]:
        torn = Journal(write(tmp_path / "torn.jsonl", whole[:end]))
        count = whole[:end].count(b"\n")
        assert torn.records == records[:count]
        torn.add({"key": "next"})
        assert Journal(torn.path).records == [*records[:count], {"key": "next"}]
    assert Journal(path).records == journal.records == records


@pytest.mark.parametrize("damage", [b"\x00\x00\x00\n", b'{"key": "c"{"key": "d"}\n', b"3\n", b'\r{"ke\n', b"[" * 10**5 + b"\n"])
def test_a_damaged_line_costs_that_line_only(damage: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "journal.jsonl", b'{"key": "a"}\n' + damage + b'{"key": "b"}\n' + damage)
    assert Journal(path).records == [{"key": "a"}, {"key": "b"}]
    assert path.read_bytes() == b'{"key": "a"}\n{"key": "b"}\n'


def test_a_record_is_on_the_disk_when_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add({"key": "a"})
    assert (tmp_path / "journal.jsonl").read_bytes() == b'{"key": "a"}\n'
    assert len(synced) == 1

"""Sets of lines: what a person changed reaches the engine, and what a run learned from never changes."""

from pathlib import Path

import pytest

from engine.base.errors import UserError
from engine.calibration.lines import read_lines
from studio.store import lines, runs
from studio.store.database import Store
from tests.store_samples import LINES, library, smith


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return library(tmp_path)


def questions(store: Store, set_id: str, removed: bool = False) -> list[str]:
    return [line.question for line in lines.lines(store, set_id, removed)]


def test_lines_go_through_the_library_to_the_engine(tmp_path: Path, store: Store) -> None:
    ann = smith(store)
    strange = {"question": "Q\0?", "answer": "\u202eA\U0001f525"}
    made = lines.add_set(store, ann.id, 1, [*LINES, strange], {"too short": 3}, name="x")
    assert (made.state, made.rejected, made.run) == ("draft", {"too short": 3}, None)
    kept = lines.lines(store, made.id)
    lines.change(store, kept[0].id, answer="Gone.")
    lines.remove(store, [kept[1].id])
    (tmp_path / "lines.jsonl").write_text(lines.as_jsonl(store, made.id), encoding="utf-8")
    first, third, fourth, last = read_lines(tmp_path / "lines.jsonl")
    assert (first.question, first.answer, first.sensitivity) == ("Where is door 0?", "Gone.", 0.0)
    assert (third.complete, third.category, third.source, fourth.sensitivity) == (False, "world", "pool", 0.3)
    assert (last.question, last.answer, last.sensitivity) == ("Q\0?", "\u202eA\U0001f525", None)


def test_a_line_without_texts_keeps_the_whole_set_out(store: Store) -> None:
    ann = smith(store)
    for bad in ({"question": "Hm"}, {"question": " ... ", "answer": "x"}, {"question": 5, "answer": "x"}):
        with pytest.raises(UserError, match=r"^Line 5 has no question or no answer"):
            lines.add_set(store, ann.id, 1, [*LINES, bad], {})
    with pytest.raises(UserError):
        lines.add_set(store, ann.id, 2, LINES, {})
    assert lines.sets(store, ann.id) == []
    with pytest.raises(UserError, match="no lines"):
        lines.approve(store, lines.add_set(store, ann.id, 1, [], {}).id)


def test_changing_a_line(store: Store) -> None:
    made = lines.add_set(store, smith(store).id, 1, LINES, {})
    first, _, cut, _ = lines.lines(store, made.id)
    changed = lines.change(store, cut.id, answer="Whole now.")
    assert (changed.answer, changed.complete, changed.sensitivity) == ("Whole now.", True, 0.2)
    changed = lines.change(store, first.id, question="Where is the key?")
    assert (changed.question, changed.answer, changed.sensitivity) == ("Where is the key?", first.answer, None)
    for texts in ({"question": "?!"}, {"answer": " "}, {"question": "where is DOOR 3"}):
        with pytest.raises(UserError):
            lines.change(store, first.id, **texts)
    assert lines.lines(store, made.id)[0] == changed


def test_removed_lines_come_back_to_their_places(store: Store) -> None:
    made = lines.add_set(store, smith(store).id, 1, LINES, {})
    all_of_them = questions(store, made.id)
    ids = [line.id for line in lines.lines(store, made.id)]
    lines.remove(store, ids[:2])
    assert (questions(store, made.id), questions(store, made.id, True)) == (all_of_them[2:], all_of_them[:2])
    lines.put_back(store, ids[:2])
    assert questions(store, made.id) == all_of_them
    with pytest.raises(UserError):
        lines.remove(store, [ids[0], "none"])
    assert questions(store, made.id) == all_of_them  # all or nothing


def test_a_set_that_a_run_learns_from_stays(store: Store) -> None:
    ann = smith(store)
    made = lines.add_set(store, ann.id, 1, LINES, {"x": 1}, name="mine")
    first, second, *_ = lines.lines(store, made.id)
    lines.remove(store, [second.id])
    assert lines.approve(store, made.id).state == "approved"
    lines.put_back(store, [second.id])  # no run yet: still open
    lines.remove(store, [second.id])
    runs.add(store, ann.id, 1, "prune", "", {}, line_set=made.id)
    assert lines.is_fixed(store, made.id)
    for attempt in (lambda: lines.change(store, first.id, answer="x"), lambda: lines.remove(store, [first.id]),
                    lambda: lines.put_back(store, [second.id])):
        with pytest.raises(UserError, match="copy of the set"):
            attempt()
    copy = lines.copy_set(store, made.id)
    assert (copy.state, copy.name, copy.rejected) == ("draft", "mine", {"x": 1})
    assert questions(store, copy.id, True) == [second.question]
    lines.change(store, lines.lines(store, copy.id)[0].id, answer="Changed.")
    assert lines.as_jsonl(store, copy.id) != lines.as_jsonl(store, made.id)
    assert [one.id for one in lines.sets(store, ann.id)] == [copy.id, made.id]
    assert lines.line_set(store, made.id) == lines.approve(store, made.id)


def test_a_set_may_change_while_only_the_run_that_made_it_names_it(store: Store) -> None:
    ann = smith(store)
    run = runs.add(store, ann.id, 1, "lines", "", {})
    made = lines.add_set(store, ann.id, 1, LINES, {}, run=run.id)
    runs.update(store, run.id, line_set=made.id)
    assert not lines.is_fixed(store, made.id)
    first = lines.lines(store, made.id)[0]
    assert lines.change(store, first.id, answer="Changed.").answer == "Changed."
    runs.add(store, ann.id, 1, "prune", "", {}, line_set=made.id)
    assert lines.is_fixed(store, made.id)


def test_a_set_is_renamed_and_deleted_and_comes_back_with_its_runs_none_the_wiser(store: Store) -> None:
    ann = smith(store)
    made = lines.add_set(store, ann.id, 1, LINES, {}, name="mine")
    lines.approve(store, made.id)
    run = runs.add(store, ann.id, 1, "prune", "", {}, line_set=made.id)
    assert lines.rename_set(store, made.id, "  the  second ").name == "the second"
    with pytest.raises(UserError, match="needs a name"):
        lines.rename_set(store, made.id, " ")
    learned = lines.as_jsonl(store, made.id)
    assert lines.delete_set(store, made.id).deleted and lines.sets(store, ann.id) == []
    assert runs.get(store, run.id) == run and lines.as_jsonl(store, made.id) == learned
    lines.undelete_set(store, made.id)
    assert [(one.name, one.state) for one in lines.sets(store, ann.id)] == [("the second", "approved")]
    with pytest.raises(UserError):
        lines.delete_set(store, "none")


def test_a_runs_own_set_is_known_whatever_became_of_it(store: Store) -> None:
    ann = smith(store)
    run = runs.add(store, ann.id, 1, "lines", "", {})
    assert lines.made_by(store, run.id) is None
    made = lines.add_set(store, ann.id, 1, LINES, {}, run=run.id)
    lines.copy_set(store, made.id)
    gone = lines.delete_set(store, made.id)
    assert lines.made_by(store, run.id) == gone

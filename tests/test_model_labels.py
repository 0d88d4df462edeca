"""How a run is called in the lists of Compare and Export."""

from pathlib import Path

from studio.figures.words import dedupe_labels
from studio.tabs.models import choices_of, label_of, removed_by
from tests.store_samples import library, pruning


def test_a_run_that_a_writer_named_says_what_was_removed_and_one_named_by_it_says_it_once(tmp_path: Path) -> None:
    store = library(tmp_path)
    named, unnamed = pruning(store, "For the harbour"), pruning(store, "30\u00a0% removed")
    assert label_of(named).split(" · ")[:2] == ["For the harbour", "30\u00a0% removed"] and removed_by(named) == 0.3
    assert label_of(pruning(store, "30 % removed")).count("removed") == 1  # renamed by hand, with a plain space
    assert label_of(unnamed).count("removed") == 1 and label_of(unnamed).split(" · ")[-1] == label_of(named).split(" · ")[-1]


def test_two_runs_of_one_minute_are_distinguished_and_a_new_one_renames_no_other(tmp_path: Path) -> None:
    store = library(tmp_path)
    older, newer = pruning(store, "Harbour"), pruning(store, "Harbour")
    assert label_of(older) == label_of(newer)  # else this test says nothing
    assert choices_of([newer, older]) == [(f"{label_of(newer)} (2)", newer.id), (label_of(older), older.id)]


def test_a_label_that_looks_numbered_already_is_still_another() -> None:
    labels = [label for label, _ in dedupe_labels([("a", 4), ("a", 3), ("a (2)", 2), ("a", 1)])]
    assert len(set(labels)) == 4 and labels[-1] == "a"

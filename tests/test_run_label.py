"""How a run is called in the lists of Compare and Export."""

from pathlib import Path

from studio.tabs.run_label import label_of, removed_by
from tests.store_samples import library, pruning


def test_a_run_that_a_writer_named_says_what_was_removed_and_one_named_by_it_says_it_once(tmp_path: Path) -> None:
    store = library(tmp_path)
    named, unnamed = pruning(store, "For the harbour"), pruning(store, "30\u00a0% removed")
    assert label_of(named).split(" · ")[:2] == ["For the harbour", "30\u00a0% removed"] and removed_by(named) == 0.3
    assert label_of(unnamed).count("removed") == 1 and label_of(unnamed).split(" · ")[-1] == label_of(named).split(" · ")[-1]

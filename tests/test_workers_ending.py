"""What an ended run leaves when its own files are damaged: a sentence at once, and no endless tries."""

from pathlib import Path

import pytest
from store_samples import LINES, library, pruning, smith

from engine.base.files import write_json
from studio.settings import Settings
from studio.store import lines, runs
from studio.workers.ending import Ending, settle


@pytest.mark.parametrize("report", ["{broken", "[]", "{}", ""])
def test_a_model_with_a_damaged_report_is_no_result(tmp_path: Path, report: str) -> None:
    settings, store = Settings(tmp_path), library(tmp_path)
    run = pruning(store, state="running")
    model = settings.run_folder(run.id) / "model"
    model.mkdir(parents=True)
    write_json(model / "manifest.json", {"files": {}})
    (model / "report.json").write_text(report)
    ended = settle(settings, store, run, Ending(code=0))
    assert (ended.state, ended.out) == ("failed", "") and "damaged or missing" in ended.sentence


def test_lines_whose_files_are_damaged_become_no_set(tmp_path: Path) -> None:
    settings, store = Settings(tmp_path), library(tmp_path)
    ann = smith(store)
    run = runs.update(store, runs.add(store, ann.id, 1, "lines", "", {}).id, state="running")
    work = settings.run_folder(run.id) / "work"
    work.mkdir(parents=True)
    (work / "rejected.json").write_text("{")
    (work / "lines.jsonl").write_text("".join(f"{line}\n" for line in LINES))  # not JSON either
    assert settle(settings, store, run, Ending(code=0)).state == "failed" and lines.sets(store, ann.id) == []
    write_json(work / "lines.jsonl", {})
    assert settle(settings, store, run, Ending(code=0)).state == "failed" and lines.sets(store, ann.id) == []

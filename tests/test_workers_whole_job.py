"""A whole pruning run of a tiny model by the real engine: begun by the studio, stopped, resumed, kept, exported."""

import dataclasses
import json
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file
from small_job import write_card, write_lines
from test_workers_jobs import eventually, get

from engine.base.events import Step
from studio.settings import Settings
from studio.store import characters, lines, runs
from studio.store.database import open_store
from studio.workers import ending
from studio.workers.jobs import Jobs
from studio.workers.view import LEARNING, RunView
from studio.workers.watch import Watcher

pytestmark = pytest.mark.slow
SECONDS = 300  # its own job yields the processor to whatever else runs
LOOK = 0.1  # seconds between two looks: each reads what the job has written, on the processor that the job needs


def learned(view: RunView) -> list[int]:
    """The steps of mask learning that were seen."""
    return [one.event.done for one in view.moments if isinstance(one.event, Step)]


def test_a_pruning_run_from_the_button_to_the_export(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PERSONA_STUDIO_HOME", str(tmp_path / "home"))
    settings = dataclasses.replace(Settings.of_environment(), poll_seconds=0.1, grace_seconds=SECONDS)
    store = open_store(settings.database)
    jobs, watcher = Jobs(settings, store), Watcher(settings, store)
    jobs.start()
    card = json.loads(write_card(tmp_path).read_text())
    person = characters.create(store, {"spec": "chara_card_v3", "spec_version": "3.0", "data": card}).id
    records = [json.loads(line) for line in write_lines(tmp_path, calling="Zoë! ").read_text().splitlines()]
    line_set = lines.approve(store, lines.add_set(store, person, 1, records, {}).id)
    spec = {"model": str(llama), "preset": "quick", "multiple": 8, "steps": 60, "dtype": "fp32", "sparsity": 0.5, "recover": False}
    run = jobs.submit_prune(person, spec, line_set.id, "A quarter less")

    eventually(lambda: len(learned(watcher.view(run.id))) >= 2, SECONDS, LOOK)
    jobs.stop(run.id)
    eventually(lambda: get(store, run).state in ("stopped", "failed", "done"), SECONDS, LOOK)
    assert get(store, run).sentence == ending.ASKED
    assert 2 <= len(learned(Watcher(settings, store).view(run.id))) < 60

    jobs.resume(run.id)
    eventually(lambda: get(store, run).state in ("done", "failed", "stopped"), SECONDS, LOOK)
    done = get(store, run)
    assert (done.state, done.sentence) == ("done", "")
    view = Watcher(settings, store).view(run.id)
    assert learned(view) == list(range(1, 61)) and view.stages[LEARNING].state == "done"
    assert view.readings["dense"].lines == done.summary["readings"]["dense"]["lines"] > 0
    assert done.summary["lines"]["test"] == view.readings["mask"].lines and done.summary["recipe"]["steps"] == 60
    mask = runs.mask(store, run.id)
    assert mask is not None and mask.shape == (2, 64) and mask.sum(axis=1).tolist() == [32, 32]
    assert numpy.array_equal(mask, load_file(settings.run_folder(run.id) / "work" / "mask.safetensors")["mask"] == 1)
    assert [event["event"] for event in runs.events(store, run.id)].count("Started") == 2

    shipped = jobs.submit_export(run.id, "Zoë of the Mill", True)
    eventually(lambda: get(store, shipped).state in ("done", "failed", "stopped"), SECONDS, LOOK)
    assert get(store, shipped).sentence == ""
    found = runs.list_exports(store, run=run.id)
    assert len(found) == 1 and found[0].name == "Zoë of the Mill" and found[0].proof["tokens"] > 0
    assert Path(found[0].folder) == settings.exports / "zoe-of-the-mill" and found[0].bytes > 10_000
    assert Path(found[0].zip).stat().st_size == found[0].zip_bytes > 0
    jobs.close()
    again = jobs.submit_export(run.id, "Zoë of the Mill", False)
    assert again.spec["folder"] == str(settings.exports / "zoe-of-the-mill-2")

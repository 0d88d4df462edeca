"""What to ship, in a real browser: what was measured, a limit that picks another model, and the export of the dense one."""

import re
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import expect
from small_job import run_job, work_of
from tiny import make_tiny

from browser.conftest import Studio, add_run
from engine.base.frontier import Budget, pick, read_points
from engine.base.job import FrontierJob
from engine.cards.card import find_bundled
from engine.frontier.measuring import measure
from studio.settings import Settings
from studio.store import characters
from studio.store.database import open_store

SLOW = 180_000  # ms for a process that computes, on a busy machine


def test_a_limit_picks_another_model_and_the_dense_one_is_exported(page: Any, studio: Studio, tmp_path: Path) -> None:
    dense = make_tiny(tmp_path / "dense", intermediate_size=128)
    run_job(dense, tmp_path / "out", sparsity=0.5, multiple=32)
    settings, store = Settings(studio.home), open_store(studio.home / "studio.db")
    person = characters.create(store, find_bundled("pim-tuckett").raw).id
    folder = settings.run_folder(add_run(store, person, "Half", {"model": str(dense), "sparsity": 0.5}, state="done").id)
    shutil.copytree(tmp_path / "out", folder / "model")
    (folder / "work").mkdir()
    lines = shutil.copy(work_of(tmp_path / "out") / "lines.jsonl", folder / "work" / "lines.jsonl")
    measured = settings.shipping / person
    list(measure(FrontierJob(runs=[str(folder / "model")], model=str(dense), lines=str(lines), types=["F16", "Q8_0"], rounds=0,
                             workdir=str(measured))))
    points = read_points(measured / "frontier.json")
    smallest = min(points, key=lambda one: one.bytes)

    page.goto(studio.url(person, "export"))
    page.get_by_label("What to ship").click()
    expect(page.locator("#ship-table tbody tr")).to_have_count(4)
    closest = pick(points, Budget())
    expect(page.locator("#ship-pick")).to_contain_text(f"Without a limit: Dense at {closest.type}")
    expect(page.locator("#ship-figure .main-svg").first).to_be_visible()

    page.locator("#ship-size input").fill(f"{smallest.bytes / 1e6 + 1e-6:.6f}")
    page.locator("#ship-size input").press("Tab")
    expect(page.locator("#ship-pick")).to_contain_text(f"Within these limits: 50% removed at {smallest.type}")
    page.locator("#ship-size input").fill("0.000001")
    page.locator("#ship-size input").press("Tab")
    expect(page.locator("#ship-pick")).to_contain_text("No model of this character fits the budget.")
    expect(page.locator("#ship-export")).to_be_hidden()

    page.locator("#ship-size input").fill("0")
    page.locator("#ship-size input").press("Tab")
    expect(page.locator("#ship-pick")).to_contain_text("It is the dense model, quantised for this character.")
    page.locator("#ship-export").click()
    page.locator("#export-view").get_by_label("Export", exact=True).click()
    expect(page.locator("#export-past")).to_contain_text(re.compile(f"dense-{closest.type}"), timeout=SLOW)
    expect(page.locator("#export-detail")).to_contain_text(f"GGUF {closest.type}")
    made = next(settings.exports.glob(f"*dense-{closest.type.lower()}*"))
    assert (made / "character.json").is_file() and len(list((made / "gguf").glob("*.gguf"))) == 1

"""The whole way of a writer through the five rooms, on the real starter model: a first try at 25 %.

`walk` looks at what a writer would look at on the way, and leaves the data folder for the tests of meaning.
"""

import json
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from browser.conftest import Studio
from studio.store import characters, rounds, runs
from studio.store.database import open_store
from studio.store.runs import ACTIVE, Run

CARD = Path(__file__).resolve().parents[2] / "characters" / "pim-tuckett.json"
MINUTES = 60_000  # ms
SELDOM = 1_000  # ms between looks while a job runs; Playwright's own way, at each frame, takes processor time from it
# A figure is drawn when it comes into view.
FIGURE = ("(document.querySelector('#prune-figure-{name}')?.scrollIntoView(), "
          "document.querySelector('#prune-figure-{name} .js-plotly-plot'))")
FIELDS = {"name": "name", "nickname": "nickname", "description": "description", "personality": "personality",
          "scenario": "scenario", "first_mes": "first_mes", "mes_example": "mes_example"}


def walk(studio: Studio, page: Any) -> Run:
    """Create, preview, make lines, prune, watch, compare blind, vote, export, with reloads in between; the pruning run."""
    page.set_default_timeout(2 * MINUTES)
    expect.set_options(timeout=2 * MINUTES)
    slug = create(studio, page)
    preview(studio, page, slug)
    make_lines(studio, page, slug)
    prune(studio, page, slug)
    compare(studio, page, slug)
    export(studio, page, slug)
    store = open_store(studio.home / "studio.db")
    made = characters.get(store, slug)
    assert made
    run = runs.list_runs(store, character=made.id, kinds=["prune"])[0]
    assert run.state == "done" and runs.mask(store, run.id) is not None
    assert run.spec["preset"] == "try"  # as was chosen for the lines
    assert [runs.list_exports(store, run=run.id)[0].name] == ["pim-quarter"]
    assert rounds.tally(store, run.id).total == 1
    return run


def create(studio: Studio, page: Any) -> str:
    """An empty page becomes a card by typing; a reload finds it again. Returns its slug."""
    card = json.loads(CARD.read_text(encoding="utf-8"))["data"]
    studio.open(page)
    page.locator("#side-new").click()
    page.wait_for_function("document.querySelector('#draft-name input, #draft-name textarea')?.value === 'New character'")
    for name, key in FIELDS.items():
        page.locator(f"#draft-{name} textarea, #draft-{name} input").first.fill(card[key])
    expect(page.locator("#side-characters label.selected")).to_have_text("Pim Tuckett")
    expect(page.locator("#draft-status")).to_contain_text("Saved · version")
    page.reload()
    page.wait_for_function("text => document.querySelector('#draft-scenario textarea')?.value === text", arg=card["scenario"])
    return str(page.evaluate("new URLSearchParams(location.search).get('character')"))


def preview(studio: Studio, page: Any, slug: str) -> None:
    """One message, one answer, with its measures."""
    studio.open(page, slug, "preview")
    message = page.locator("#preview-message textarea")
    message.fill("Who are you?")
    message.press("Enter")
    expect(page.locator("#preview-log .chat-said.assistant")).to_have_count(2)  # the greeting and the answer
    expect(page.locator("#preview-log")).to_contain_text("tokens/s")
    expect(page.locator("#preview-larger")).to_be_visible()  # the starter rambles


def make_lines(studio: Studio, page: Any, slug: str) -> None:
    """The lines of a first try, approved."""
    studio.open(page, slug, "prune")
    page.locator("#prune-thorough label", has_text="First try").click()
    page.locator("#prune-lines").click()
    expect(page.locator("#prune-making")).to_contain_text("answers", ignore_case=True)
    expect(page.locator("#prune-approve")).to_be_visible(timeout=15 * MINUTES)
    page.locator("#prune-approve").click()
    expect(page.locator("#prune-summary .pill.done")).to_have_text("ready")


def prune(studio: Studio, page: Any, slug: str) -> None:
    """A quarter removed; the picture of the cut comes while the job runs and survives a reload; the progress moves.

    A closed page stops nothing.
    """
    page.locator("#prune-start").click()
    expect(page.locator("#prune-run")).to_be_in_viewport()
    kept = f"JSON.stringify({FIGURE.format(name='cut')}?.data?.[0]?.z ?? null)"
    page.wait_for_function(f"{kept} !== 'null'", timeout=15 * MINUTES, polling=SELDOM)
    first = page.evaluate(kept)
    page.reload()
    page.wait_for_function(f"{kept} === {json.dumps(first)}", timeout=MINUTES, polling=SELDOM)
    progress = "document.querySelector('#prune-progress')?.innerText ?? ''"
    shown = page.evaluate(progress)
    page.wait_for_function(f"{progress} !== {json.dumps(shown)}", timeout=5 * MINUTES, polling=SELDOM)
    page.goto("about:blank")  # a closed page: the job goes on, and pictures take no processor time from it
    store, until = open_store(studio.home / "studio.db"), time.monotonic() + 25 * 60
    while runs.list_runs(store, kinds=["prune"])[0].state in ("queued", *ACTIVE) and time.monotonic() < until:
        time.sleep(SELDOM / 1_000)
    studio.open(page, slug, "prune")
    expect(page.locator("#prune-runs")).to_contain_text("done", ignore_case=True)
    page.locator("#prune-went").click()
    page.wait_for_function(f"{FIGURE.format(name='ladder')}?.data?.[0]?.x?.length >= 5")


def compare(studio: Studio, page: Any, slug: str) -> None:
    """Blind, one message to both; the names only after the vote."""
    studio.open(page, slug, "compare")
    message = page.locator("#compare-message textarea")
    message.fill("Have you seen the sea?")
    message.press("Enter")
    expect(page.locator("#compare-vote-left")).to_be_visible()
    assert "Pruned" not in page.locator("#compare-arena").inner_text()
    page.reload()
    page.locator("#compare-vote-left").click()
    expect(page.locator("#compare-revealed")).to_be_visible()


def export(studio: Studio, page: Any, slug: str) -> None:
    """A named folder with its zip; the proof is shown."""
    studio.open(page, slug, "export")
    name = page.locator("#export-name textarea, #export-name input")
    expect(name).to_have_value("pim-25")
    name.fill("pim-quarter")
    page.locator("#export-zip input").check()
    page.locator("#export-python input").check()
    page.locator("#export-start").click()
    expect(page.locator("#export-detail")).to_contain_text("Proof of loading", timeout=5 * MINUTES)
    expect(page.locator("#export-download")).to_be_visible()
    page.reload()
    expect(page.locator("#export-past")).to_contain_text("pim-quarter")

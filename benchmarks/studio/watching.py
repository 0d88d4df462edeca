"""Whether somebody who watches a run in the Prune room always has something new to see: a real run, looked at every few seconds."""

import re
import shutil
import time
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.drawings import FLAGS, chromium
from benchmarks.studio.tabs import running_studio
from engine.base.files import data_folder
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, runs, values
from studio.store.runs import ACTIVE

SECONDS = 2.0  # between two looks
# A click before that may be lost.
FILLED = "document.querySelector('#live [data-filled]') && document.querySelector('#prune-from')?.innerText"
WANTED = 10.0  # s at most without anything new
Figures = dict[str, Any]
Look = tuple[float, str, str, str]  # Unix seconds, the stage, what stands there (numbers left out), a hash of the pictures


def measure_watching(model: str = "starter") -> Figures:
    """A quick run of Pim, lines included, begun by a click: the longest times without anything new to see, and in which stage.

    New: a word of the progress, how many percent of a step are done (other numbers and clocks do not count), or a pixel of the
    pictures below it. The run and its studio stay in bench/watching of the data folder, for other measurements.
    """
    home = data_folder() / "bench" / "watching"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (home / "models").symlink_to(data_folder() / "models")
    store = Services.open(Settings(home)).store
    values.set_value(store, "model", model)
    values.set_value(store, "welcome", "known")
    person = next(one for one in characters.list_characters(store) if one.name.startswith("Pim"))
    with running_studio(home) as (_, address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"{address}/?character={person.id}&room=prune")
        page.wait_for_function(FILLED, timeout=60_000)
        page.locator("#prune-start").click()
        page.locator(".prune-stages .running").first.wait_for(timeout=60_000)
        looks = [_look(page)]
        while _goes_on(known := runs.list_runs(store, person.id)):
            time.sleep(SECONDS)
            looks.append(_look(page))
        browser.close()
    if faults := [run.sentence for run in known if run.state != "done"]:
        raise RuntimeError(faults[0])
    return {"model": model, "folder": str(home), **summarise(looks)}


def _goes_on(known: Sequence[runs.Run]) -> bool:
    """Whether one of them has not ended, or the lines are there and the prune is still to come."""
    waits = any(run.state in ("queued", *ACTIVE) for run in known)
    return waits or all(run.kind != "prune" and run.state == "done" for run in known)


def _look(page: Any) -> Look:
    said, how = page.locator("#prune-room").inner_text(), page.locator("#prune-how")
    running = page.locator(".prune-stages .running")
    stage = running.last.inner_text().splitlines()[0] if running.count() else ""
    pictures = sha256(how.screenshot()).hexdigest() if how.is_visible() else ""
    return time.time(), stage, re.sub(r"(?!\d+\s?%)\b[\d.,:]+", "", said), pictures


def summarise(looks: Sequence[Look]) -> Figures:
    """Seconds between two looks at which something was new: the longest of each stage that was seen then."""
    waits, since = [], looks[0][0]
    for before, now in pairwise(looks):
        if now[2:] != before[2:]:
            waits.append((now[0] - since, before[1]))
            since = now[0]
    waits.append((looks[-1][0] - since, looks[-1][1]))
    stages = dict.fromkeys(stage for _, stage in waits)
    longest = [(max(took for took, stage in waits if stage == one), one) for one in stages]
    return {"looks": len(looks), "seconds": looks[-1][0] - looks[0][0], "changes": len(waits) - 1, "wanted": WANTED,
            "longest": [{"seconds": took, "stage": stage} for took, stage in longest],
            "longer_than_wanted": sum(took > WANTED for took, _ in waits)}


def watching_words(found: Figures) -> str:
    """The result in a few sentences."""
    longest = ", ".join(f"{one['seconds']:.0f} s ({one['stage'] or 'before its first stage'})" for one in found["longest"])
    return (f"a quick run of {found['model']}, watched for {found['seconds'] / 60:.0f} minutes: {found['changes']} "
            f"changes at {found['looks']} looks\n  longest without anything new: {longest}; {found['longer_than_wanted']} longer "
            f"than the {found['wanted']:.0f} s wanted")

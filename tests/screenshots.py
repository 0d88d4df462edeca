"""Pictures of every room in every state, light and dark, at 1440, 1024 and 400 pixels, for people to look at.

  python -m tests.screenshots FOLDER [--home DATA_FOLDER] [--character SLUG] [--only WORD] [--width PIXELS] [--theme NAME]

Works on a copy of the data folder, beside it, whose large files are links; so no studio may be open on it. Rooms with runs and
chats come from a library that has them. The parts of Draft show a bundled character that has a lorebook and NPC fields.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.settings import Settings
from studio.store import characters, runs, values
from studio.store.database import Store, open_store
from studio.ui import ROOMS

RICH, EMPTY = "whitlow-ashe", "lantern-6"  # bundled: one with a lorebook, and one that nobody has worked on
WIDTHS = (1440, 1024, 400)
THEMES = ("light", "dark")
SETTLE, STEP = 2_500, 900  # ms: plots are drawn after the page; what a click opens moves
TALLEST = 4_000  # pixels
LARGE = 1_000_000  # bytes of a file that is not copied
SENTENCES = {"failed": "Memory ran out. Close other programs, then press Resume.", "stopped": "Stopped. Press Resume to go on."}


@dataclass(frozen=True)
class State:
    """What is in a picture: a room, whose (""): the chosen character's), what is clicked one after another until it is open, and
    the element that is shown, "" for the whole page. `run`: the state of the run in the Prune room; `side`: in the sidebar."""

    room: str
    character: str = ""
    clicks: tuple[str, ...] = ()
    shown: str = ""
    run: str = ""
    side: bool = False


STATES = {
    **{f"{room}-empty": State(room, EMPTY) for room in ROOMS},
    **{room: State(room) for room in ROOMS},
    "draft-lorebook": State("draft", RICH, (".book-entry summary",), ".draft-part:has(> #draft-character_book)"),
    "draft-write": State("draft", RICH, ("#draft-description .write-open",), "#draft-description"),
    "draft-cast": State("draft", clicks=("#draft-cast > button:not(.open)",), shown="#draft-cast"),
    "draft-deepen": State("draft", RICH, ("#draft-deepen > button:not(.open)",), "#draft-deepen"),
    "draft-npc": State("draft", RICH, ("#draft-npc > button:not(.open)",), "#draft-npc"),
    "draft-script": State("draft", RICH, ("#draft-script > button:not(.open)", ".script-row summary"), "#draft-script"),
    "draft-dossier": State("draft", RICH, ("#draft-dossier > button:not(.open)", "#draft-dossier summary >> nth=1",
                                            ".dossier-fold summary"),
                           "#draft-dossier"),
    **{f"prune-{run}": State("prune", run=run) for run in ("running", "stopped", "failed")},
    "prune-went": State("prune", clicks=("#prune-went",)),
    "preview-scene": State("preview", clicks=("#preview-view label:has-text('Scene')",)),
    "compare-grid": State("compare", clicks=("#compare-view label:has-text('Grid')",)),
    "compare-script": State("compare", clicks=("#compare-view label:has-text('Test script')", ".script-cell summary")),
    "export-more": State("export", clicks=("#export-more > button:not(.open)",)),
    "export-ship": State("export", clicks=("#export-view label:has-text('What to ship')",)),
    "export-serve": State("export", clicks=("#export-view label:has-text('Serve')",)),
    "export-cast": State("export", clicks=("#export-view label:has-text('Plan a cast')",)),
    "side-models": State("draft", clicks=("#side-models > button:not(.open)",), side=True),
    "side-library": State("draft", clicks=("#side-library > button:not(.open)",), side=True),
    "side-settings": State("draft", clicks=("#side-settings > button:not(.open)",), side=True),
}


def shoot(browser: Any, studio: Any, folder: Path, options: argparse.Namespace) -> int:
    """Write one picture for each state, theme and width; returns how many."""
    count = 0
    for theme in options.theme or THEMES:
        for width in options.width or WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce")
            for name, take in pictures(page, studio, options.character):
                if not options.only or any(word in name for word in options.only):
                    take(folder / f"{name}-{theme}-{width}.png")
                    count += 1
            page.close()
    return count


def pictures(page: Any, studio: Any, character: str) -> Iterator[tuple[str, Any]]:
    """The name of each state, and what takes its picture."""
    store = open_store(studio.home / "studio.db")

    def welcome(file: Path) -> None:
        values.set_value(store, "welcome", "")
        for run in (found := runs.list_runs(store)):
            runs.remove(store, run.id)
        _open(page, f"{studio.address}/")
        page.screenshot(path=file)
        for run in found:
            runs.put_back(store, run.id)
        values.set_value(store, "welcome", "known")

    def steps(file: Path) -> None:
        values.set_value(store, "welcome", "begun")
        _open(page, f"{studio.address}/?character={EMPTY}&room=preview")
        page.screenshot(path=file)
        values.set_value(store, "welcome", "known")

    def palette(file: Path) -> None:
        _open(page, f"{studio.address}/?character={character}&room=draft")
        page.keyboard.press("Control+k")
        page.wait_for_timeout(STEP)
        page.screenshot(path=file)

    yield from {"welcome": welcome, "steps": steps, "palette": palette}.items()
    for name, state in STATES.items():
        yield name, lambda file, state=state: _take(page, studio, store, state, state.character or character, file)


def _take(page: Any, studio: Any, store: Store, state: State, character: str, file: Path) -> None:
    with _run(studio, store, character, state.run):
        _open(page, f"{studio.address}/?character={character}&room={state.room}", state.clicks, state.side)
        target = page.locator(state.shown) if state.shown else page
        if not state.shown or target.is_visible():
            target.screenshot(path=file)


@contextmanager
def _run(studio: Any, store: Store, character: str, state: str) -> Iterator[None]:
    """A run of the character in a state that does not last, with the first part of its last run's history."""
    who = characters.get(store, character)
    done = runs.list_runs(store, who.id, kinds=["prune"], states=["done"]) if who and state else []
    if not done or not who:
        yield
        return
    made = runs.add(store, who.id, 1, "prune", "One more", done[0].spec, done[0].line_set, state)
    runs.update(store, made.id, begun=time.time(), sentence=SENTENCES.get(state, ""))
    log, own = (Settings(studio.home).run_events(run.id) for run in (done[0], made))
    own.parent.mkdir(parents=True)
    with suppress(OSError):
        history = log.read_text(encoding="utf-8").splitlines(keepends=True)
        own.write_text("".join(history[:len(history) * 3 // 5]), encoding="utf-8")
    yield
    runs.update(store, made.id, state="stopped")
    runs.remove(store, made.id)


def _open(page: Any, address: str, clicks: Sequence[str] = (), side: bool = False) -> None:
    """Show a room whole, after pressing what is there of `clicks`. `side`: in the sidebar, which a narrow page has closed."""
    page.set_viewport_size({**page.viewport_size, "height": 900})
    page.goto(address)
    page.wait_for_selector("#live [data-filled]", state="attached")
    page.wait_for_timeout(SETTLE)
    if side and not page.locator(".sidebar.open").count():
        page.locator(".sidebar .toggle-button").click()
        page.wait_for_timeout(STEP)
    for wanted in clicks:
        found = page.locator(wanted).locator("visible=true")
        if found.count():
            found.first.click()
            page.wait_for_timeout(STEP)
    if side:
        page.evaluate("document.querySelector('.sidebar-content').scrollTo(0, 1e6)")
    else:
        page.set_viewport_size({**page.viewport_size, "height": _height(page)})
    page.wait_for_timeout(STEP)


def _height(page: Any) -> int:
    """The height of the whole room, within reason."""
    return int(page.evaluate(f"Math.min(Math.max(900, document.documentElement.scrollHeight), {TALLEST})"))


@contextmanager
def copied(home: Path) -> Iterator[Path]:
    """A copy of a data folder beside it: of the library, and of all else by links."""
    with tempfile.TemporaryDirectory(prefix="screens-", dir=home.parent) as name:
        own = Path(name) / "home"
        shutil.copytree(home, own, copy_function=lambda source, target: (
            os.link if os.path.getsize(source) > LARGE and ".db" not in source else shutil.copy2)(source, target))
        yield own


@dataclass
class Running:
    """A studio that runs."""

    home: Path
    address: str


@contextmanager
def running(home: Path) -> Iterator[Running | None]:
    """The studio on a data folder; None where it does not start."""
    command = [sys.executable, "app.py", "--home", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as studio:
        try:
            assert studio.stdout
            found = next((one for line in studio.stdout if (one := re.search(r"open at (http\S+?)/?\s", line))), None)
            yield Running(home, found[1]) if found else None
        finally:
            studio.terminate()


def main() -> int:
    """Start the studio, take the pictures, end it."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--home", type=Path, help="the data folder to show (default: the studio's own)")
    parser.add_argument("--character", default="pim-tuckett", help="slug of the character to show")
    parser.add_argument("--only", action="append", help="only states with this word in their names")
    parser.add_argument("--width", type=int, action="append")
    parser.add_argument("--theme", choices=THEMES, action="append")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with copied((options.home or Settings.of_environment().home).absolute()) as home, running(home) as studio:
        if studio is None:
            print("The studio did not start.", file=sys.stderr)
            return 1
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            count = shoot(browser, studio, options.folder, options)
            browser.close()
    print(f"{count} pictures in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

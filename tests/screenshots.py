"""Pictures of each room and of the parts that open in it, light and dark, wide and narrow, for people to look at.

  python -m tests.screenshots FOLDER [--home DATA_FOLDER] [--character SLUG]

Shows the library of the data folder as it is: rooms with runs and chats come from one that has them, and so do results of
a test script. The parts of Draft show a bundled character that has a lorebook and NPC fields. The studio must not be open
on it.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studio.ui import ROOMS

# A part of a room: its room, what is clicked one after another until it is open, and the element in the picture.
PARTS = {
    "lorebook": ("draft", [".book-entry summary"], ".draft-part:has(> #draft-character_book)"),
    "npc": ("draft", ["#draft-npc > button:not(.open)"], "#draft-npc"),
    "script": ("draft", ["#draft-script > button:not(.open)", ".script-row summary"], "#draft-script"),
    "dossier": ("draft", ["#draft-dossier > button:not(.open)", "#draft-dossier summary >> nth=1"], "#draft-dossier"),
    "more": ("export", ["#export-more > button:not(.open)"], "#export-more"),
    "scene": ("preview", ["#preview-view label:has-text('Scene')"], "#preview-scene"),
    "serve": ("export", ["#export-view label:has-text('Serve')"], "#serve"),
    "cast": ("export", ["#export-view label:has-text('Plan a cast')"], "#planner"),
    "script-results": ("compare", ["#compare-view label:has-text('Test script')", ".script-cell summary"], "#room-compare")}
RICH = "whitlow-ashe"
WIDTHS = {"wide": 1280, "narrow": 400}
SETTLE = 6_000  # ms; plots are drawn after the page


def shoot(browser: Any, address: str, folder: Path, character: str) -> int:
    """Write one picture for each room, theme and width; returns how many."""
    count = 0
    for theme in ("light", "dark"):
        for width_name, width in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
            for room in ROOMS:
                _open(page, f"{address}/?character={character}&room={room}")
                page.screenshot(path=folder / f"{room}-{theme}-{width_name}.png")
                count += 1
            for part, (room, clicks, shown) in PARTS.items():
                _open(page, f"{address}/?character={RICH if room == 'draft' else character}&room={room}", clicks)
                if page.locator(shown).is_visible():  # some need a finished run
                    page.locator(shown).screenshot(path=folder / f"{room}-{part}-{theme}-{width_name}.png")
                    count += 1
            page.close()
    return count


def _open(page: Any, address: str, clicks: Sequence[str] = ()) -> None:
    """Show a room whole, after pressing what is there of `clicks`."""
    page.set_viewport_size({**page.viewport_size, "height": 900})
    page.goto(address)
    page.wait_for_timeout(SETTLE)
    for wanted in clicks:
        found = page.locator(wanted).locator("visible=true")
        if found.count():
            found.first.click()
            page.wait_for_timeout(1_500)
    page.set_viewport_size({**page.viewport_size, "height": _height(page)})
    page.wait_for_timeout(800)


def _height(page: Any) -> int:
    """The height of the whole room, within reason."""
    return int(page.evaluate("Math.min(Math.max(900, document.documentElement.scrollHeight), 4000)"))


def main() -> int:
    """Start the studio, take the pictures, end it."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--home", help="the data folder to show (default: the studio's own)")
    parser.add_argument("--character", default="pim-tuckett", help="slug of the character to show")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    command = [sys.executable, "app.py", *(["--home", options.home] if options.home else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as studio:
        try:
            assert studio.stdout
            lines = (re.search(r"open at (http\S+?)/?\s", line) for line in studio.stdout)
            found = next((one for one in lines if one), None)
            if found is None:
                print("The studio did not start; is it open on this data folder already?", file=sys.stderr)
                return 1
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                count = shoot(browser, found[1], options.folder, options.character)
                browser.close()
        finally:
            studio.terminate()
    print(f"{count} pictures in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

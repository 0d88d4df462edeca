"""Pictures of each room, light and dark, wide and narrow, for people to look at.

  python -m tests.screenshots FOLDER [--home DATA_FOLDER] [--character SLUG]

Shows the library of the data folder as it is: rooms with runs and chats come from one that has them. The studio must not
be open on it.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOMS = ("draft", "preview", "prune", "compare", "export")
WIDTHS = {"wide": 1280, "narrow": 400}
SETTLE = 6_000  # ms; plots are drawn after the page


def shoot(browser: Any, address: str, folder: Path, character: str) -> int:
    """Write one picture for each room, theme and width; returns how many."""
    count = 0
    for theme in ("light", "dark"):
        for width_name, width in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
            for room in ROOMS:
                page.goto(f"{address}/?character={character}&room={room}")
                page.wait_for_timeout(SETTLE)
                page.set_viewport_size({"width": width, "height": _height(page)})
                page.wait_for_timeout(800)
                page.screenshot(path=folder / f"{room}-{theme}-{width_name}.png")
                page.set_viewport_size({"width": width, "height": 900})
                count += 1
            page.close()
    return count


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

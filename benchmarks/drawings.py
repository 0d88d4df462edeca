"""The pictures of docs/recipe.md and docs/evidence.md, drawn from rows, curves and proofs: python -m benchmarks drawings

Writes ladder.svg, tokens.svg and measures.svg. Methods that were not measured in all cells are left out.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.figures import write_figures
from benchmarks.methods import RECOVERED
from engine.base.errors import UserError
from engine.base.files import read_json
from engine.evaluation.proof import read_proofs

ROWS = Path(__file__).with_name("rows")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu"]
SVG = """async () => {
  const drawn = document.querySelector('.js-plotly-plot'), {width, height} = drawn._fullLayout;
  return decodeURIComponent((await Plotly.toImage(drawn, {format: 'svg', width, height})).replace('data:image/svg+xml,', ''));
}"""


def whole(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of cells that were measured to the end, and of methods that were measured in all of these of their sparsity."""
    cell = lambda row: (row["character"], row["seed"], row["sparsity"])
    ended = {cell(row) for row in rows if row["method"] == RECOVERED}
    kept = [row for row in rows if cell(row) in ended]
    having = lambda row: {cell(one) for one in kept if (one["method"], one["sparsity"]) == (row["method"], row["sparsity"])}
    return [row for row in kept if having(row) == {one for one in ended if one[2] == row["sparsity"]}]


def chromium() -> str:
    """The path of Chromium. Raises UserError where there is none."""
    if (found := next(filter(None, map(shutil.which, PROGRAMS)), None)) is None:
        raise UserError("This needs Chromium.", "Install it (Debian: apt-get install chromium).")
    return found


def run(options: argparse.Namespace) -> int:
    """Draw the pictures."""
    browser_path = chromium()
    rows, curves = (read_json(ROWS / name) for name in ("fidelity.json", "fidelity_curves.json"))
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as pages, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        page = browser.new_page()
        for file in write_figures(Path(pages), whole(rows), curves, list(read_proofs().values())):
            page.goto(file.as_uri())
            page.wait_for_selector(".js-plotly-plot .main-svg")
            (folder / f"{file.stem}.svg").write_text(page.evaluate(SVG), encoding="utf-8")
            print(folder / f"{file.stem}.svg")
        browser.close()
    return 0

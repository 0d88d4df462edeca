"""The pictures of docs/recipe.md, drawn from its rows and curves: python -m tests.drawings [FOLDER]

Writes ladder.svg and tokens.svg (default folder: docs/figures). Methods that were not measured in all cells are left out.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from browser.conftest import FLAGS, chromium  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

from engine.bench.figures import write_figures  # noqa: E402
from engine.bench.ladder import RECOVERED  # noqa: E402

DOCS = Path(__file__).resolve().parents[1] / "docs"
SVG = """async () => {
  const drawn = document.querySelector('.js-plotly-plot'), {width, height} = drawn._fullLayout;
  return decodeURIComponent((await Plotly.toImage(drawn, {format: 'svg', width, height})).replace('data:image/svg+xml,', ''));
}"""


def whole(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of cells that were measured to the end, and of methods that stand in all of these of their sparsity."""
    cell = lambda row: (row["character"], row["seed"], row["sparsity"])
    ended = {cell(row) for row in rows if row["method"] == RECOVERED}
    kept = [row for row in rows if cell(row) in ended]
    having = lambda row: {cell(one) for one in kept if (one["method"], one["sparsity"]) == (row["method"], row["sparsity"])}
    return [row for row in kept if having(row) == {one for one in ended if one[2] == row["sparsity"]}]


def main(folder: Path) -> None:
    """Draw both pictures."""
    rows, curves = (json.loads((DOCS / name).read_text()) for name in ("fidelity.json", "fidelity_curves.json"))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as pages, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page()
        for file in write_figures(Path(pages), whole(rows), curves):
            page.goto(file.as_uri())
            page.wait_for_selector(".js-plotly-plot .main-svg")
            (folder / f"{file.stem}.svg").write_text(page.evaluate(SVG), encoding="utf-8")
            print(folder / f"{file.stem}.svg")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "figures")

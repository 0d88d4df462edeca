"""The page that speaks (export --for web), measured in Chromium: loading, first word, speed."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.drawings import FLAGS, chromium
from engine.base.errors import UserError

LINE = "Tell me about the last thing you found."
SECONDS = 120_000  # milliseconds, for anything
# Sends a line; resolves to the times, in milliseconds, at which the answer grew.
SAY = """(line) => new Promise((resolve) => {
  const log = document.getElementById('log'), start = performance.now(), times = [];
  document.getElementById('line').value = line;
  document.getElementById('form').requestSubmit();
  let length = 0;
  const look = new MutationObserver(() => {
    const said = log.querySelector('.assistant:last-child')?.textContent.length ?? 0;
    if (said > length) { times.push(performance.now() - start); length = said; }
    if (times.length && log.getAttribute('aria-busy') === 'false') { look.disconnect(); resolve(times); }
  });
  look.observe(log, {childList: true, subtree: true, characterData: true, attributes: true});
})"""


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing: it would come between the figures."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server for the files of a folder, on this machine alone; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()


def measure(folder: Path) -> dict[str, float]:
    """The first visit: seconds to load the model, from there to the first word of an answer to a line that was sent at once, and
    of one that was sent when the character had been read; how long that took; pieces of text a second after the first."""
    if not (folder / "index.html").is_file():
        raise UserError(f"{folder} is no page that speaks: it has no index.html.", "Name the folder web of an export --for web.")
    with served(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        at_once, read = (_visit(browser, address, wait) for wait in ("loaded", "read"))
        browser.close()
    times = at_once["times"]
    return {"page_load_seconds": at_once["loaded"], "page_first_seconds": times[0] / 1000,
            "page_read_seconds": read["read"] - read["loaded"], "page_known_first_seconds": read["times"][0] / 1000,
            "page_tokens_per_second": (len(times) - 1) / (times[-1] - times[0]) * 1000, "page_pieces": len(times)}


def _visit(browser: Any, address: str, wait: str) -> dict[str, Any]:
    """A new visitor, who says something when the page is "loaded", or has "read" the character; seconds since it was opened."""
    page = browser.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(address)
    page.wait_for_selector(f"body[data-{wait}]")
    found = {name: float(page.get_attribute("body", f"data-{name}") or 0) / 1000 for name in ("loaded", "read")}
    found["times"] = page.evaluate(SAY, LINE)
    page.close()
    return found

"""The real studio in a process of its own, with a tiny model in a fresh data folder, and Debian's Chromium before it."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tiny

from studio.store import runs
from studio.store.database import Store

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30_000  # ms for what a page should show: a busy machine is slow, not wrong
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--no-first-run"]

# A model that speaks for seconds, whichever engine reads its many weights, and never ends by itself.
SLOW_MODEL: dict[str, Any] = {"endless": True, "max_position_embeddings": 8192, "intermediate_size": 196_608}

# A page that is busy with itself can lose what it is sent: here, all that holds one of window.lost, until window.losing is false.
LOSE = """window.losing = true; const parse = JSON.parse;
JSON.parse = (text, ...more) => {
  const found = parse(text, ...more);
  if (window.losing && String(found?.msg).startsWith("process_") && window.lost.some((one) => String(text).includes(one))) {
    window.losses = (window.losses ?? 0) + 1;
    found.output.data = found.output.data.map(() => ({ __type__: "update" }));
  }
  return found;
};"""


# Whether a page shows a character in a room, the room's own fields and lists included.
FILLED = """([character, room]) => {
  const shown = (selector) => document.querySelector(selector)?.getClientRects().length > 0;
  const filled = {
    draft: () => document.querySelector("#draft-name input, #draft-name textarea")?.value
      && /^Saved/.test(document.querySelector("#draft-status").innerText),
    preview: () => document.querySelector("#preview-link [data-painted]")?.dataset.painted && shown("#preview-log .chat-said"),
    prune: () => shown("#prune-who") && document.querySelector("#prune-from")?.innerText,
    compare: () => document.querySelector("#compare-link [data-painted]")?.dataset.painted,
    export: () => shown("#export-view") || shown("#export-empty"),
  };
  const address = new URLSearchParams(location.search);
  return document.querySelector("#live [data-filled]") && document.querySelector("#side-characters label.selected")
    && window.personaStudioRoom?.() === room && address.get("character") && (!character || address.get("character") === character)
    && filled[room]();
}"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what opens a browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slow")


def add_run(store: Store, character: str, name: str, spec: dict[str, Any], line_set: str | None = None, state: str = "stopped",
            **fields: Any) -> runs.Run:
    """A pruning run that was never in the queue: the studio, which is running, would begin with it."""
    made = runs.add(store, character, 1, "prune", name, spec, line_set, state)
    return runs.update(store, made.id, **fields) if fields else made


def chromium() -> str:
    """The browser's path: the system's, else playwright's own. Without one the tests fail where CI is set, and skip elsewhere."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            found = playwright.chromium.executable_path
    if not Path(found).exists():
        sentence = "These tests need Chromium: apt-get install chromium, or python -m playwright install chromium."
        (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)
    return str(found)


def free_port() -> int:
    """One that nobody else takes while the studio of a test is down: neither another studio, nor a connection going out."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class Studio:
    """A running studio. `address` ends without a slash; `program`: what Python runs."""

    home: Path
    port: int = 0
    process: Any = None
    address: str = ""
    program: tuple[str, ...] = ("app.py",)
    threads: str = "1"  # of every process that computes; "": as many as there are cores

    def start(self, seconds: float = 90) -> "Studio":
        """Start (again) on the same data folder, and wait until it answers."""
        self.port = self.port or free_port()
        command = [sys.executable, *self.program, "--home", str(self.home), "--port", str(self.port)]
        output = self.home / "studio.txt"
        with output.open("w") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
                                            env=self._environment())
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            said = output.read_text()
            if found := re.search(r"open at (http://127\.0\.0\.1:\d+)", said):
                self.address = found[1]
                return self
            assert self.process.poll() is None, said
            time.sleep(0.1)
        raise AssertionError(f"The studio did not start in {seconds} s: {output.read_text()}")

    def _environment(self) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        return {**others, "OMP_NUM_THREADS": self.threads} if self.threads else others

    def url(self, character: str = "", room: str = "") -> str:
        """The address of a character in a room."""
        return f"{self.address}/?character={character}&room={room}"

    def open(self, page: Any, character: str = "", room: str = "draft") -> None:
        """Open a character, or the first, in a room, and wait until the page is filled: what is done before that may be lost."""
        page.goto("about:blank")  # a page of a studio that was started again loads itself again, at any moment
        page.goto(self.url(character, room) if character else self.address)
        page.wait_for_function(FILLED, arg=[character, room])

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it as Ctrl-C does."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


def prepare_home(folder: Path) -> Path:
    """A data folder whose base model is a random one that can hold a whole card and never ends by itself."""
    from studio.services import Services
    from studio.settings import Settings
    from studio.store import values

    folder.mkdir(parents=True, exist_ok=True)
    model = make_tiny(folder / "models" / "tiny", **SLOW_MODEL)
    services = Services.open(Settings(folder))
    values.set_value(services.store, "model", str(model))
    values.set_value(services.store, "welcome", "known")
    values.set_value(services.store, "engineer-view", True)
    return folder


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """One running studio for all tests of a session that do not kill it."""
    chromium()
    running = Studio(prepare_home(tmp_path_factory.mktemp("studio") / "home")).start()
    yield running
    running.end()


@pytest.fixture
def own_studio(tmp_path: Path) -> Iterator[Studio]:
    """A studio of this test's own, to be killed and started again."""
    chromium()
    running = Studio(prepare_home(tmp_path / "studio")).start()
    yield running
    running.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium. One a file: as long as Playwright runs, no other test of this process can use asyncio.run."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    path = chromium()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a fresh profile; the test fails when a request leaves this machine or the page's script fails."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    left: list[str] = []
    faults: list[str] = []
    context.on("request", lambda request: None if re.match(r"(data:|blob:|https?://127\.0\.0\.1[:/])", request.url)
               else left.append(request.url))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    yield opened
    context.close()
    assert left == [] and faults == []

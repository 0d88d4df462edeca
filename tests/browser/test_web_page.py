"""The page of the export for browsers, in Chromium: from a plain server for files, without a network, and in the studio."""

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from test_engines import write
from tiny import add_files, make_tiny

from browser.conftest import Studio, add_run
from engine.base.files import write_json
from engine.cards.card import find_bundled
from engine.cards.prompt import messages
from engine.export import llama_cpp
from engine.export.engines import web
from engine.export.engines.target import make_pack
from engine.models.chat_format import encode_chat
from engine.models.loading import load_tokenizer, locate
from studio.store import characters, runs
from studio.store.database import open_store

LONG = 240_000  # ms: WebAssembly on a busy machine
HOSTILE = '<img src=x onerror="window.hacked = 1"></p><script>window.hacked = 1</script> & {{user}}'
QUESTION = "Tell me about the sea."  # to which the starter's first words are sure, and no sentence ends within them
TOKENS = 12
LETTERS = {"ignore_eos": True, "grammar": "root ::= [a-z ]+"}  # else a random model says nothing, or parts of characters
GREEDY = {"n_predict": TOKENS, "temperature": 0, "repeat_penalty": 1, "dry_multiplier": 0}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@dataclass
class Site:
    """A page that a plain server for files serves, as `python -m http.server` does."""

    folder: Path
    server: Any

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/"

    def sample(self, **changes: Any) -> None:
        """Change how answers are drawn."""
        character = json.loads((self.folder / "character.json").read_text())
        write_json(self.folder / "character.json", {**character, "sampling": {**character["sampling"], **changes}})


def export(folder: Path, model: Path, gguf: Path, card: dict[str, Any]) -> Path:
    """The page of a card on a model folder with this GGUF file, as in an export."""
    (folder / "gguf").mkdir(parents=True)
    shutil.copy(gguf, folder / "gguf" / "it-Q8_0.gguf")
    write_json(folder / "report.json", {"base": {"name": "a model"}, "name": card["data"]["name"]})
    write_json(folder / "character.json", card)
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    write(folder, "web", make_pack(folder, "it-Q8_0.gguf", tokenizer_of(model)))
    return folder / "web"


def tokenizer_of(model: Path) -> Any:
    looking = locate(str(model))
    try:
        while True:
            next(looking)
    except StopIteration as end:
        return load_tokenizer(end.value)


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model that can hold a whole card, with its Q8_0 file."""
    return add_files(make_tiny(tmp_path_factory.mktemp("web") / "tiny", max_position_embeddings=8192), "Q8_0")


@pytest.fixture
def serve(wllama: Path) -> Iterator[Callable[[Path], Site]]:
    """Serve a folder until the test ends."""
    running = []

    def start(folder: Path) -> Site:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return Site(folder, server)

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def own_requests(page: Any) -> list[str]:
    """The addresses that the page asks for."""
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    return asked


def wait_until_loaded(page: Any) -> None:
    expect(page.locator("#line")).to_be_enabled(timeout=LONG)


def say(page: Any, line: str) -> None:
    page.locator("#line").fill(line)
    page.locator("#line").press("Enter")


def wait_for_answer(page: Any) -> str:
    """The answer, once it is finished."""
    expect(page.locator("#stop")).to_be_hidden(timeout=LONG)
    return str(page.locator("#log .assistant").last.text_content())


def test_it_says_what_llama_cpp_says(page: Any, serve: Callable[[Path], Site], starter: Path, starter_q8: Path, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PART_BYTES", 60_000_000)  # three parts
    card = find_bundled("pim-tuckett")
    site = serve(export(tmp_path / "pim", starter, starter_q8, card.raw))
    assert len(list((site.folder / "model").glob("*.gguf"))) == 3
    site.sample(**GREEDY)
    prompt = encode_chat(tokenizer_of(starter), messages(card, [("user", QUESTION)]))
    native = llama_cpp.Server(str(starter_q8), len(prompt) + TOKENS + 8, 1, exact=False).complete(
        prompt, TOKENS, n_probs=2)["completion_probabilities"]
    page.goto(site.address)
    wait_until_loaded(page)
    assert page.evaluate("crossOriginIsolated")
    expect(page.locator("#status")).to_have_text(re.compile(r"Reading the character… \d+ %"), timeout=LONG)
    expect(page.locator("body[data-read]")).to_have_count(1, timeout=LONG)  # before anything is said
    expect(page.locator("#status")).to_have_text("")
    say(page, QUESTION)
    said = wait_for_answer(page)
    sure = _sure(native)
    assert sure >= 8, "llama.cpp itself is undecided too soon: ask another question"
    assert said.startswith("".join(one["token"] for one in native[:sure]).strip())


def _sure(native: list[dict[str, Any]]) -> int:
    """Tokens before the first at which the two likeliest are so close that another order of sums may choose the other."""
    gaps = [one["top_logprobs"][0]["logprob"] - one["top_logprobs"][1]["logprob"] for one in native]
    return next((place for place, gap in enumerate(gaps) if gap < 0.1), len(gaps))


def test_it_speaks_stops_says_it_another_way_and_works_without_a_network(
        page: Any, serve: Callable[[Path], Site], speaking: Path, tmp_path: Path, own_requests: list[str]) -> None:
    card = find_bundled("pim-tuckett").raw
    card = {**card, "data": {**card["data"], "name": HOSTILE, "first_mes": HOSTILE, "nickname": ""}}
    site = serve(export(tmp_path / "it", speaking, speaking / "gguf/tiny-Q8_0.gguf", card))
    site.sample(n_predict=24, **LETTERS)
    page.goto(site.address)
    wait_until_loaded(page)
    bubbles = page.locator("#log p")
    expect(bubbles).to_have_text([HOSTILE.replace("{{user}}", "Player")])
    expect(page.locator("#name")).to_have_text(" ".join(HOSTILE.split()))
    say(page, f"Hello {HOSTILE}")
    first = wait_for_answer(page)
    assert first and bubbles.count() == 3 and bubbles.nth(1).text_content() == f"Hello {HOSTILE}"

    page.locator("#again").click()
    expect(page.locator("#again")).to_be_visible(timeout=LONG)
    second = wait_for_answer(page)
    assert second and second != first and bubbles.count() == 3

    site.sample(n_predict=100_000)
    page.evaluate("caches.keys().then((names) => Promise.all(names.map((name) => caches.delete(name))))")  # it is read anew
    page.reload()
    wait_until_loaded(page)
    assert wait_for_answer(page) == second
    say(page, "Go on and on.")
    expect(page.locator("#log p:last-child.assistant")).to_have_text(re.compile(".{21}"), timeout=LONG)
    page.locator("#stop").click()
    stopped = wait_for_answer(page)
    assert len(stopped) > 20 and bubbles.count() == 5
    assert json.loads(page.evaluate("Object.entries(localStorage).find(([name]) => name.endsWith('#chat'))[1]"))["turns"][-1] == {
        "role": "assistant", "content": stopped}

    site.server.shutdown()
    site.server.server_close()
    page.context.set_offline(True)
    page.reload()
    wait_until_loaded(page)
    assert bubbles.count() == 5
    page.locator("#fresh").click()
    expect(bubbles).to_have_count(1)
    say(page, "Still there?")
    expect(page.locator("#log p:last-child.assistant")).to_have_text(re.compile(".{4}"), timeout=LONG)
    page.keyboard.press("Escape")
    assert wait_for_answer(page)
    assert page.evaluate("window.hacked") is None
    assert not [url for url in own_requests if not url.startswith((site.address, f"blob:{site.address}", "data:"))]


def test_a_model_that_cannot_be_had_is_one_sentence(page: Any, serve: Callable[[Path], Site], speaking: Path,
                                                    tmp_path: Path) -> None:
    site = serve(export(tmp_path / "it", speaking, speaking / "gguf/tiny-Q8_0.gguf", find_bundled("pim-tuckett").raw))
    file = site.folder / "model" / "it-Q8_0.gguf"
    whole = file.read_bytes()
    file.unlink()
    page.goto(site.address)
    expect(page.locator("#status")).to_have_text("The server does not give model/it-Q8_0.gguf (404).", timeout=LONG)
    file.write_bytes(whole[:-100])
    page.reload()
    expect(page.locator("#status")).to_contain_text(f"has {len(whole) - 100} bytes instead of {len(whole)}", timeout=LONG)
    file.write_bytes(whole)
    page.reload()
    wait_until_loaded(page)


def test_the_studio_shows_the_page_and_leaves_nothing_in_the_browser(page: Any, studio: Studio, speaking: Path,
                                                                     tmp_path: Path, wllama: Path) -> None:
    folder = export(tmp_path / "it", speaking, speaking / "gguf/tiny-Q8_0.gguf", find_bundled("pim-tuckett").raw).parent
    store = open_store(studio.home / "studio.db")
    person = characters.create(store, find_bundled("pim-tuckett").raw).id
    run = add_run(store, person, "Pim", {}, state="done")
    made = runs.add_export(store, run.id, "pim", str(folder), 1, {"engines": ["web"]})
    Site(folder / "web", None).sample(n_predict=24, **LETTERS)
    page.goto(studio.url(person, "export"))
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Try it").click()
    trial = opened.value
    assert trial.url == f"{studio.address}/studio/page/{made.id}/?try"
    wait_until_loaded(trial)
    assert trial.evaluate("crossOriginIsolated")
    say(trial, "Hello?")
    assert wait_for_answer(trial)
    assert trial.evaluate("navigator.serviceWorker.getRegistrations().then((found) => found.length)") == 0
    assert trial.evaluate("caches.keys().then((found) => found.length)") == 0

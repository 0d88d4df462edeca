"""Attacks on the studio by pages in a real browser: a name that leads here, another site, another port of this machine."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from browser.conftest import FLAGS, Studio, chromium, prepare_home
from studio.settings import Settings

REBOUND = "evil.example"
# What a page elsewhere may try against the studio at `target`: each gives what it could read, or why it could not.
ATTACKS = """async target => {
  const read = async (path, options) => {
    try { const answer = await fetch(target + path, options); return `${answer.type} ${answer.status} ${await answer.text()}`; }
    catch (error) { return String(error); }
  };
  const file = new File(["planted"], "planted.json");
  const files = () => { const form = new FormData(); form.append("files", file); return form; };
  const event = JSON.stringify({data: [], fn_index: 0, session_hash: "planted"});
  const embed = (name, attributes) => new Promise(done => {
    const made = Object.assign(document.createElement(name), attributes);
    made.onload = () => done("loaded"); made.onerror = () => done("refused"); document.body.append(made);
  });
  const stream = () => new Promise(done => {
    const source = new EventSource(target + "/gradio_api/queue/data?session_hash=planted");
    const end = word => () => { source.close(); done(word); };
    source.onmessage = source.onopen = end("open"); source.onerror = end("refused");
  });
  const form = document.createElement("form");
  document.body.append(Object.assign(document.createElement("iframe"), {name: "hidden"}));
  Object.assign(form, {method: "post", enctype: "multipart/form-data", action: target + "/gradio_api/upload", target: "hidden"});
  const box = Object.assign(document.createElement("input"), {type: "file", name: "files"});
  const carried = new DataTransfer(); carried.items.add(file); box.files = carried.files;
  form.append(box); document.body.append(form); form.submit();
  const found = {
    config: await read("/config"),
    credentials: await read("/config", {credentials: "include"}),
    upload: await read("/gradio_api/upload", {method: "POST", mode: "no-cors", body: files()}),
    queue: await read("/gradio_api/queue/join", {method: "POST", mode: "no-cors", body: event}),
    typed: await read("/gradio_api/queue/join", {method: "POST", body: event, headers: {"content-type": "application/json"}}),
    token: await read("/studio/live?token=guess"),
    stream: await stream(), script: await embed("script", {src: target + "/config"}),
    image: await embed("img", {src: target + "/favicon.ico"}),
  };
  await new Promise(done => setTimeout(done, 500));  // the form
  return found;
}"""


class _Page(http.server.BaseHTTPRequestHandler):
    """An empty page, with a link if it is asked for one."""

    def do_GET(self) -> None:
        body = f"<!doctype html><a id=link href='{self.path[1:]}'>to the studio</a>".encode()
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of another program's web server on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@pytest.fixture(scope="module")
def victim(browser: Any) -> Iterator[Any]:
    """A browser for which the attacker's names lead to this machine, as its name server could have it."""
    opened = browser.browser_type.launch(executable_path=chromium(), args=[
        *FLAGS, f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1, MAP elsewhere.example 127.0.0.1"])
    yield opened
    opened.close()


@pytest.fixture
def tab(victim: Any) -> Iterator[Any]:
    context = victim.new_context()
    yield context.new_page()
    context.close()


def uploads(studio: Studio) -> list[str]:
    return sorted(file.name for file in Settings(studio.home).uploads.rglob("*") if "planted" in file.name)


def test_a_name_that_is_rebound_to_this_machine_shows_nothing(studio: Studio, tab: Any) -> None:
    answer = tab.goto(f"http://{REBOUND}:{studio.port}/")
    assert answer.status == 403 and answer.text().startswith("This is not an address of this studio.")
    found = tab.evaluate(ATTACKS, "")  # to the browser, the studio is this very site
    for name in ("config", "credentials", "upload", "queue", "typed", "token"):
        assert found[name].startswith("basic 403 This is not"), name
    assert found["stream"] == found["script"] == found["image"] == "refused" and uploads(studio) == []


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "http://127.0.0.1", "http://localhost"])
def test_a_page_elsewhere_reads_nothing_and_leaves_nothing(origin: str, studio: Studio, tab: Any, elsewhere: int) -> None:
    asked: set[str] = set()
    statuses: set[int] = set()
    tab.on("request", lambda request: asked.add(request.url.removeprefix(studio.address)))
    tab.on("response", lambda answer: statuses.add(answer.status) if answer.url.startswith(studio.address) else None)
    tab.goto(f"{origin}:{elsewhere}/")
    found = tab.evaluate(ATTACKS, studio.address)
    for name in ("config", "credentials", "typed", "token"):
        assert found[name] == "TypeError: Failed to fetch", name
    assert found["stream"] == found["script"] == found["image"] == "refused" and uploads(studio) == []
    assert {"/gradio_api/upload", "/gradio_api/queue/join"} <= asked and statuses == {403}


def test_a_link_elsewhere_opens_the_studio_which_works(studio: Studio, tab: Any, elsewhere: int) -> None:
    tab.goto(f"http://elsewhere.example:{elsewhere}/{studio.url('pim-tuckett', 'draft')}")
    tab.locator("#link").click()
    expect(tab.locator("#side-characters label.selected")).to_contain_text("Pim")
    expect(tab.locator("#side-portraits style")).to_be_attached()


def test_a_card_is_taken_in_and_its_file_lies_in_the_data_folder(studio: Studio, page: Any, tmp_path: Path) -> None:
    card = {"name": "Vera of the Border", "description": "A guard.", "first_mes": "Papers, please."}
    (tmp_path / "vera.json").write_text(json.dumps({"spec": "chara_card_v3", "spec_version": "3.0", "data": card}))
    page.goto(studio.address)
    expect(page.locator("#side-characters label").first).to_be_visible()
    with page.expect_file_chooser() as chooser:
        page.locator("#side-import").click()
    chooser.value.set_files(str(tmp_path / "vera.json"))
    expect(page.locator("#side-characters label.selected")).to_contain_text("Vera of the Border")
    files = list(Settings(studio.home).uploads.rglob("vera.json"))
    assert len(files) == 1 and files[0].stat().st_mode & 0o077 == 0
    made_by_tests = [studio.home / "studio.txt", *(studio.home / "jobs").rglob("*")]
    open_to_others = [path for path in studio.home.rglob("*") if path.stat().st_mode & 0o077 and path not in made_by_tests]
    assert open_to_others == [] and studio.home.stat().st_mode & 0o077 == 0


def test_a_password_is_asked_for_also_by_a_studio_that_is_started_after_a_proxy(page: Any, tmp_path: Path,
                                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("HTTP_PROXY", "http://127.0.0.1:9"), ("GRADIO_LOCAL_DEV_MODE", "1"), ("GRADIO_DEBUG", "1")):
        monkeypatch.setenv(variable, value)
    file = tmp_path / "login"
    file.write_text("ann:a long one\n")
    file.chmod(0o600)
    guarded = Studio(prepare_home(tmp_path / "guarded"), program=("app.py", "--auth-file", str(file)))
    try:
        page.goto(guarded.start().address)
        expect(page.get_by_text("each answer takes longer")).to_be_visible()
        assert page.request.get(f"{guarded.address}/openapi.json").status == 401
        for password, shown in (("a wrong one", "ncorrect"), ("a long one", "Pim")):
            page.get_by_label("username").fill("ann")
            page.get_by_label("password").fill(password)
            page.get_by_role("button", name="Login").click()
            expect(page.get_by_text(shown).first).to_be_visible()
        expect(page.locator("#side-characters label.selected")).to_have_count(1)
        expect(page.locator("#side-portraits style")).to_be_attached()  # it came by the live channel
    finally:
        guarded.end()

"""Playing in a real browser: another model takes over the same conversation; the server for games starts, answers and stops."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect
from server_samples import until
from tiny import add_files, make_tiny

from browser.conftest import Studio, add_run
from browser.test_preview import longest, say
from engine.cards.card import find_bundled
from studio.store import characters, chats, runs
from studio.store.database import open_store

SLOW = 120_000  # ms for what waits for a model, on a machine that does other work too
SLUG = "zubaida-marr"


@pytest.fixture
def run(studio: Studio) -> Iterator[runs.Run]:
    """A finished "pruned" model of Zubaida: another tiny one with its GGUF files."""
    store = open_store(studio.home / "studio.db")
    found = characters.get(store, SLUG)
    assert found
    made = add_run(store, found.id, "Small one", {"model": str(studio.home / "models" / "tiny"), "sparsity": 0.5}, state="done",
                   summary={"after": {"bytes": 3_000_000}, "recipe": {"sparsity": 0.5}})
    folder = make_tiny(studio.home / "jobs" / made.id / "model", endless=True, max_position_embeddings=8192)
    (folder / "character.json").write_text(json.dumps(find_bundled(SLUG).raw))
    add_files(folder)
    yield runs.update(store, made.id, out=str(folder))
    runs.remove(store, made.id)


def speak_with(page: Any, label: str) -> None:
    """Choose which model speaks next."""
    page.click("#preview-voice input")
    page.locator("#preview-voice [role=option]", has_text=label).click()
    expect(page.locator("#preview-voice input")).to_have_value(label)


def test_another_model_takes_over_the_same_conversation(page: Any, studio: Studio, run: runs.Run) -> None:
    label = "Small one · 50\u00a0% removed · 3\u00a0MB"
    studio.open(page, SLUG, "preview")
    expect(page.locator("#preview-voices")).to_be_visible(timeout=SLOW)
    longest(page, 16)
    say(page, "Who goes there?")
    expect(page.locator("#preview-measures")).to_contain_text("llama.cpp", timeout=SLOW)
    expect(page.locator(".chat-voice")).to_have_count(0)  # one model alone needs no name
    speak_with(page, label)
    say(page, "And now?")
    expect(page.locator(".chat-said")).to_have_count(5, timeout=SLOW)
    expect(page.locator(".chat-voice")).to_have_text(["Dense model · tiny", "Small one · 50\u00a0% removed"], timeout=SLOW)
    page.reload()
    expect(page.locator("#preview-voice input")).to_have_value(label, timeout=SLOW)
    store = open_store(studio.home / "studio.db")
    chat = chats.chats(store, run.character)[0]
    speakers = lambda: [one.swipes[0].measures.get("run") for one in chats.messages(store, chat.id) if one.role == "assistant"]
    until(lambda: speakers() == [None, None, run.id], SLOW / 1000)  # each is kept once it has ended
    runs.remove(store, run.id)  # in another window
    expect(page.locator(".chat-foot")).to_contain_text("The pruned model “Small one” is no longer there", timeout=SLOW)
    say(page, "Still here?")
    expect(page.locator(".chat-voice")).to_have_count(3, timeout=SLOW)
    expect(page.locator(".chat-voice").last).to_have_text("Dense model · tiny", timeout=SLOW)
    expect(page.locator(".chat-foot")).not_to_contain_text("no longer there")


def test_the_server_for_games_is_started_asked_and_stopped(page: Any, studio: Studio, run: runs.Run) -> None:
    studio.open(page, SLUG, "export")
    page.locator("#export-view label", has_text="Serve").click()
    expect(page.locator("#serve-start")).to_be_visible(timeout=SLOW)
    expect(page.locator("#serve-sources")).to_contain_text("Small one", timeout=SLOW)
    page.fill("#serve-port input", "0")
    page.locator("#serve-port input").blur()
    page.click("#serve-start")
    expect(page.locator("#serve-address")).to_be_visible(timeout=SLOW)
    address = page.locator("#serve-address").inner_text()
    served = httpx.get(f"{address}/models").json()["data"]
    assert [one["id"] for one in served] == [SLUG]
    code = page.locator("#serve-snippet").inner_text()
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=SLOW / 1000, check=False)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"], done.stderr
    expect(page.locator("#serve-state")).to_contain_text("1 answered", timeout=SLOW)
    page.locator(".snippet-tabs button", has_text="Godot").click()
    expect(page.locator("#serve-snippet")).to_contain_text("HTTPRequest.new()")
    page.reload()
    page.locator("#export-view label", has_text="Serve").click()
    expect(page.locator("#serve-address")).to_have_text(address, timeout=SLOW)
    page.click("#serve-stop")
    expect(page.locator("#serve-start")).to_be_visible(timeout=SLOW)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/models")

"""How many clicks a newcomer needs: to talk, to prune, to talk to what was pruned, to a folder for Ollama."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect
from server_samples import until
from tiny import add_files, make_tiny

from browser.conftest import Studio, add_run
from engine.cards.card import find_bundled
from studio.store import characters, chats, runs, values
from studio.store.database import Store, open_store

SLOW = 120_000  # ms for what waits for a model, on a machine that does other work too
SLUG = "pim-tuckett"
COUNT = "window.clicks = 0; addEventListener('click', (click) => { window.clicks += click.isTrusted && click.detail > 0; }, true);"

# Chooses a run, again where the page was still being filled.
CHOOSE = """(name) => document.querySelector("#prune-progress h4")?.innerText === name
  || [...document.querySelectorAll("#prune-runs button")].find((one) => one.innerText === name)?.click()"""


@pytest.fixture
def store(own_studio: Studio) -> Store:
    """The library of a studio that nobody has used."""
    found = open_store(own_studio.home / "studio.db")
    values.set_value(found, "welcome", "")
    return found


@pytest.fixture
def newcomer(page: Any, own_studio: Studio, store: Store) -> Iterator[Any]:
    """A page whose clicks are counted."""
    page.add_init_script(COUNT)
    own_studio.open(page)
    expect(page.locator("#welcome")).to_contain_text("Welcome", timeout=SLOW)
    expect(page.locator("#side-characters label.selected")).to_have_text("Pim Tuckett")  # so that nobody else greets before him
    return page


def clicks(page: Any) -> int:
    """How often the page was clicked since it was opened."""
    return int(page.evaluate("window.clicks"))


def test_a_newcomer_talks_after_one_click_and_the_rooms_say_what_is_done(newcomer: Any, own_studio: Studio, store: Store) -> None:
    newcomer.click("#welcome-meet")
    message = newcomer.locator("#preview-message textarea")
    expect(message).to_be_visible(timeout=SLOW)
    expect(newcomer.locator(".chat-said")).to_contain_text("Pim", timeout=SLOW)
    assert clicks(newcomer) == 1
    message.fill("Who are you?")
    message.press("Enter")
    expect(newcomer.locator(".chat-said.user")).to_be_visible(timeout=SLOW)
    newcomer.click("#preview-stop")
    tab = newcomer.get_by_role("tab")
    marked = "(tab) => getComputedStyle(tab, '::before').content.split(' / ')[0]"
    for name, shown in (("Done 1 · Draft", '"✓ Write who Pim is"'), ("Done 2 · Play", '"✓ Talk to Pim"'),
                        ("3 · Prune", '"Carve Pim’s own model"')):
        expect(tab.filter(has_text=name[-5:])).to_have_accessible_name(name, timeout=SLOW)
        assert tab.filter(has_text=name[-5:]).evaluate(marked) == shown
    values.set_value(store, "welcome", "known")
    newcomer.reload()
    expect(tab.filter(has_text="2 · Play")).to_have_accessible_name("Done 2 · Play", timeout=SLOW)
    assert tab.filter(has_text="2 · Play").evaluate(marked) == '"✓ "'
    expect(newcomer.locator(".welcome")).to_have_count(0)


def test_a_newcomer_prunes_after_at_most_three_clicks(newcomer: Any, store: Store) -> None:
    newcomer.get_by_role("tab", name="3 · Prune").click()
    expect(newcomer.locator("#prune-from")).to_contain_text("Prune makes them and goes on by itself", timeout=SLOW)
    newcomer.click("#prune-start")
    expect(newcomer.locator("#prune-making")).to_contain_text("pruning follows by itself", timeout=SLOW)
    assert clicks(newcomer) <= 3
    assert [one.kind for one in runs.list_runs(store)] == ["lines"]


def test_from_a_finished_run_it_is_one_click_to_talk_and_two_to_a_folder(page: Any, own_studio: Studio, store: Store) -> None:
    values.set_value(store, "welcome", "known")
    who = characters.get(store, SLUG)
    assert who
    made = [finished(own_studio, store, who.id, name) for name in ("First", "Second")]
    chats.start(store, who.id, 1, "starter", greeting="Hm?", title="Before")
    page.add_init_script(COUNT)
    own_studio.open(page, SLUG, "prune")
    page.wait_for_function(CHOOSE, arg="First", polling=1_000, timeout=SLOW)  # not the newest
    expect(page.locator("#prune-how")).to_be_hidden()
    page.click("#prune-went")
    expect(page.locator("#prune-how")).to_be_visible(timeout=SLOW)
    before = clicks(page)
    page.click("#prune-to-talk")
    expect(page.locator("#preview-voice input")).to_have_value("First · 50\u00a0% removed", timeout=SLOW)
    expect(page.locator("#preview-message textarea")).to_be_visible(timeout=SLOW)
    assert clicks(page) - before == 1
    expect(page.locator("#preview-chats label.selected")).to_have_text("New chat")  # it does not go on with what another one said
    page.get_by_role("tab", name="3 · Prune").click()
    page.get_by_role("tab", name="2 · Play").click()
    expect(page.locator("#preview-chats label.selected")).to_have_text("New chat")
    page.get_by_role("tab", name="3 · Prune").click()
    page.click("#prune-to-compare")
    expect(page.locator("#compare-run input")).to_have_value(re.compile("^First"), timeout=SLOW)
    page.get_by_role("tab", name="3 · Prune").click()
    before = clicks(page)
    page.click("#prune-to-export")
    expect(page.locator("#export-run input")).to_have_value(re.compile("^First"), timeout=SLOW)
    page.click("#export-start")
    exports = lambda: runs.list_runs(store, kinds=["export"])
    until(lambda: bool(exports()), SLOW / 1000)
    assert clicks(page) - before == 2 and (exports()[0].spec["run"], exports()[0].spec["engines"]) == (made[0], ["ollama"])


def finished(studio: Studio, store: Store, character: str, name: str) -> str:
    """A finished "pruned" model with its GGUF files; the run's id."""
    made = add_run(store, character, name, {"model": str(studio.home / "models" / "tiny"), "sparsity": 0.5}, state="done",
                   summary={"recipe": {"sparsity": 0.5}})
    folder = make_tiny(studio.home / "jobs" / made.id / "model", endless=True, max_position_embeddings=8192)
    (folder / "character.json").write_text(json.dumps(find_bundled(SLUG).raw))
    add_files(folder)
    runs.update(store, made.id, out=str(folder))
    return made.id

"""Comparing in a real browser: blind until the vote, kept over a reload, stopped by Esc."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from tiny import make_tiny

from browser.conftest import LOSE, SLOW_MODEL, Studio, add_run
from engine.base.files import write_manifest
from studio.store import characters, rounds, runs, values
from studio.store.database import Store, open_store

SLOW = 60_000  # ms, on a machine that does other work too
# Keeps every message that the studio sends to the page.
LISTEN = """window.heard = []; const parse = JSON.parse;
JSON.parse = (text, ...more) => { window.heard.push(String(text)); return parse(text, ...more); };"""
TELLING = ("Dense model", "Pruned, ", "on disk", "tokens/s")


@pytest.fixture
def run(studio: Studio) -> runs.Run:
    """A finished "pruned" model of Pim: another tiny one, as random as the whole one."""
    store = open_store(studio.home / "studio.db")
    pim = characters.get(store, "pim-tuckett")
    assert pim
    made = add_run(store, pim.id, "tiny", {"model": str(studio.home / "models" / "tiny"), "sparsity": 0.5}, state="done", summary={
        "before": {"bytes": 200_000_000}, "after": {"bytes": 100_000_000}, "recipe": {"sparsity": 0.5}})
    folder = make_tiny(studio.home / "jobs" / made.id / "model", **{**SLOW_MODEL, "intermediate_size": 98_304})
    write_manifest(Path(folder))
    return runs.update(store, made.id, out=str(folder))


def newest(store: Store, run: runs.Run) -> rounds.Round:
    return rounds.rounds(store, run.character, "pair", run.id, 1)[0]


def test_blind_until_the_vote_and_the_vote_goes_to_the_right_model(studio: Studio, page: Any, run: runs.Run) -> None:
    store = open_store(studio.home / "studio.db")
    page.add_init_script(LISTEN)
    page.set_default_timeout(SLOW)
    studio.open(page, "pim-tuckett", "compare")
    message = page.locator("#compare-message textarea")
    expect(message).to_be_visible(timeout=SLOW)
    expect(page.locator("#compare-vote-left")).to_be_hidden()
    message.fill("Who goes there?")
    message.press("Enter")
    expect(page.locator("#compare-vote-left")).to_be_visible(timeout=SLOW)
    assert not any(word in page.locator("#compare-arena").inner_html() for word in TELLING)
    # The choice of models for a test by script names them all, whoever speaks on which side.
    heard = [re.sub(r'"choices":\[\[.*?\]\]', "", one) for one in page.evaluate("window.heard")
             if "versus" in one or "process_generating" in one]
    assert any("compare-left" in one for one in heard) and not any(word in one for one in heard for word in TELLING)
    page.reload()
    expect(page.locator("#compare-said")).to_have_text("Who goes there?", timeout=SLOW)
    found = newest(store, run)
    with page.expect_request(lambda request: f'"{found.id}"' in (request.post_data or "")):  # the round that is seen
        page.locator("#compare-vote-left").click()
    expect(page.locator("#compare-revealed")).to_be_visible(timeout=SLOW)
    found = newest(store, run)
    left = found.answers[1 if found.swapped else 0]
    expect(page.locator("#compare-left h3")).to_have_text("Pruned, 50\u00a0% removed" if left.run else "Dense model")
    assert [vote.verdict for vote in rounds.votes(store, found.id)] == ["pruned" if left.run else "dense"]
    expect(page.locator("#compare-verdict")).to_contain_text("After 1\u00a0vote you cannot tell them apart yet", timeout=SLOW)
    assert all(answer.reason in ("ended", "limit", "loop") for answer in found.answers)


def test_escape_stops_both_and_a_reload_in_the_middle_goes_on(studio: Studio, page: Any, run: runs.Run) -> None:
    values.set_value(open_store(studio.home / "studio.db"), "compare-settings",
                     {"limit": 1500, "temperature": 2.0})  # the tiny models are quick, and go round in circles when cold
    page.set_default_timeout(SLOW)
    studio.open(page, "pim-tuckett", "compare")
    page.locator("#compare-message textarea").fill("Speak at length.")
    page.locator("#compare-send").click()
    expect(page.locator("#compare-stop")).to_be_visible(timeout=SLOW)
    page.reload()
    expect(page.locator("#compare-said")).to_have_text("Speak at length.", timeout=SLOW)
    page.locator("#compare-message textarea").press("Escape")
    expect(page.locator("#compare-vote-tie")).to_be_visible(timeout=SLOW)
    page.locator("#compare-vote-tie").click()
    expect(page.locator("#compare-revealed")).to_contain_text("You called it a tie.", timeout=SLOW)


def test_without_a_pruned_model_the_room_says_what_to_do(studio: Studio, page: Any) -> None:
    page.set_default_timeout(SLOW)
    studio.open(page, "edith-crowle", "compare")
    expect(page.locator("#compare-empty")).to_contain_text("Make a pruned model first", timeout=SLOW)
    page.locator("#compare-to-prune").click()
    expect(page.get_by_role("tab", name="3 · Prune")).to_have_attribute("aria-selected", "true", timeout=SLOW)


def test_a_page_that_lost_what_it_was_sent_asks_for_it_again(studio: Studio, page: Any, run: runs.Run) -> None:
    store = open_store(studio.home / "studio.db")
    sides = [(None, str(studio.home / "models" / "tiny")), (run.id, str(run.out))]
    found = rounds.open_round(store, run.character, 1, "pair", "Still there?", [], sides, seed=1, blind=True)
    for answer in found.answers:
        rounds.set_answer(store, answer.id, "Aye.", {}, "ended")
    values.set_value(store, f"compare-run:{run.character}", run.id)
    page.set_default_timeout(SLOW)
    page.add_init_script(f"window.lost = ['data-look']; {LOSE}")
    page.goto(studio.url("pim-tuckett", "compare"))
    expect(page.get_by_role("tab", name="4 · Compare")).to_have_attribute("aria-selected", "true", timeout=SLOW)
    page.wait_for_timeout(3000)
    expect(page.locator("#compare-said")).to_be_hidden()
    assert page.evaluate("window.losses") >= 1
    page.evaluate("window.losing = false")
    expect(page.locator("#compare-said")).to_have_text("Still there?", timeout=SLOW)
    expect(page.locator("#compare-vote-tie")).to_be_visible(timeout=SLOW)


def test_a_room_where_nothing_happens_asks_for_nothing(studio: Studio, page: Any, run: runs.Run) -> None:
    store = open_store(studio.home / "studio.db")
    values.set_value(store, f"compare-run:{run.character}", run.id)
    page.set_default_timeout(SLOW)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)

    def is_quiet() -> None:
        """The room comes to rest: what was set going ends, then a while passes in which the page asks for nothing."""
        for _ in range(10):
            asked.clear()
            page.wait_for_timeout(2500)
            if not asked:
                return
        raise AssertionError(asked)

    studio.open(page, "edith-crowle", "compare")
    expect(page.locator("#compare-empty")).to_be_visible(timeout=SLOW)
    is_quiet()
    studio.open(page, "pim-tuckett", "compare")
    expect(page.locator("#compare-send")).to_be_visible(timeout=SLOW)
    is_quiet()
    expect(page.locator("#compare-stop")).to_be_hidden()
    for kind in ("pair", "grid"):
        if kind == "grid":
            page.get_by_text("Grid", exact=True).click()
        sides = [(None, str(studio.home / "models" / "tiny")), (run.id, str(run.out))]
        found = rounds.open_round(store, run.character, 1, kind, f"All quiet, {kind}?", [], sides, seed=1, blind=kind == "pair")
        for answer in found.answers:
            rounds.set_answer(store, answer.id, "Aye.", {}, "ended")
        expect(page.locator("#compare-arena")).to_contain_text(f"All quiet, {kind}?", timeout=SLOW)
        is_quiet()
        expect(page.locator("#compare-send")).to_be_visible()
        expect(page.locator("#compare-stop")).to_be_hidden()

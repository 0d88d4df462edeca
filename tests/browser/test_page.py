"""The page as a whole: it opens, remembers where one was, and lists the characters; nothing leaves the machine."""

import json
import re
from typing import Any

from playwright.sync_api import expect

from browser.conftest import LOSE, PATIENCE, Studio


def choose(page: Any, name: str) -> None:
    """Pick a character in the sidebar."""
    page.locator("#side-characters label", has_text=name).click()


def test_a_reload_comes_back_to_the_character_and_the_room(studio: Studio, page: Any) -> None:
    page.goto(studio.address)
    choose(page, "Edith Crowle")
    page.get_by_role("tab", name="4 · Compare").click()
    expect(page).to_have_url(re.compile("(?=.*character=edith-crowle)(?=.*room=compare)"))
    page.reload()
    expect(page.locator("#side-characters label.selected")).to_have_text("Edith Crowle")
    expect(page.get_by_role("tab", name="4 · Compare")).to_have_attribute("aria-selected", "true")


def test_a_page_whose_first_filling_was_lost_asks_for_it_again(studio: Studio, page: Any) -> None:
    filling = ["data-token", '"selected":"prune"']  # the sidebar, and the room of the address
    page.add_init_script(f"window.lost = {json.dumps(filling)}; {LOSE}")
    page.goto(studio.url("edith-crowle", "prune"))
    page.wait_for_function("window.losses >= 2", timeout=PATIENCE)
    expect(page.locator("#side-characters label.selected")).to_have_count(0)
    page.evaluate("window.losing = false")
    expect(page.locator("#side-characters label.selected")).to_have_text("Edith Crowle", timeout=PATIENCE)
    expect(page.get_by_role("tab", name="3 · Prune")).to_have_attribute("aria-selected", "true", timeout=PATIENCE)


def test_a_filling_that_comes_late_leaves_the_room_that_was_chosen_meanwhile(studio: Studio, page: Any) -> None:
    page.set_viewport_size({"width": 420, "height": 860})
    page.add_init_script(f"window.lost = {json.dumps(['data-token'])}; {LOSE}")
    page.goto(studio.url("edith-crowle", "prune"))
    page.wait_for_function("window.losses >= 1", timeout=PATIENCE)
    page.get_by_label("More tabs").click()
    page.locator("#rooms .overflow-dropdown button", has_text="5 · Export").click()
    expect(page).to_have_url(re.compile("room=export"))
    page.evaluate("window.losing = false")
    expect(page.locator("#side-characters label.selected")).to_have_text("Edith Crowle", timeout=PATIENCE)
    expect(page.get_by_role("tab", name="5 · Export")).to_have_attribute("aria-selected", "true")
    expect(page).to_have_url(re.compile("room=export"))


def test_search_new_delete_and_undo(studio: Studio, page: Any) -> None:
    page.goto(studio.address)
    names = page.locator("#side-characters label")
    expect(page.locator("#side-characters label.selected")).to_have_count(1)  # the page is filled
    page.locator("#side-search textarea, #side-search input").fill("pim")
    expect(names.filter(has_text="Pim Tuckett")).to_be_visible()
    expect(names.filter(has_text="Bodo Grumm")).to_have_count(0)
    page.locator("#side-search textarea, #side-search input").fill("")
    expect(names.filter(has_text="Bodo Grumm")).to_be_visible()
    choose(page, "Bodo Grumm")
    page.locator("#side-delete").click()
    page.locator("#side-delete-yes").click()
    expect(names.filter(has_text="Bodo Grumm")).to_have_count(0)
    page.locator("#side-undo").click()
    expect(page.locator("#side-characters label.selected")).to_have_text("Bodo Grumm")
    page.locator("#side-new").click()
    expect(page.locator("#side-characters label.selected")).to_have_text("New character")


def test_the_pages_answers_forbid_foreign_frames_and_pictures(studio: Studio, page: Any) -> None:
    answer = page.goto(studio.address)
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy and "img-src 'self' data: blob:" in policy

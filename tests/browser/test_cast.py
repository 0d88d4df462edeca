"""A cast at once on the page: from the sidebar's button to a character in the library, over a studio that is killed meanwhile."""

from typing import Any

from cast_writer import NAMES, cast_writer
from playwright.sync_api import expect

from browser.conftest import PATIENCE
from studio.store import characters, values
from studio.store.database import open_store


def test_a_writer_plans_a_cast_drafts_it_and_keeps_one(own_studio: Any, page: Any) -> None:
    studio = own_studio
    store = open_store(studio.home / "studio.db")
    with cast_writer(slow=0.3) as server:
        values.set_value(store, "writer-server", [f"{server.url}/v1", "m"])
        studio.open(page, "pim-tuckett", "preview")
        page.click("#side-cast")
        expect(page.locator("#cast-place textarea")).to_be_focused()
        page.fill("#cast-place textarea", "A mill.")
        page.fill("#cast-quotas textarea", "role: 1 miller, 7 thieves")
        page.click("#cast-plan-button")
        expect(page.get_by_text("asks for 8 characters, and the cast has 6")).to_be_visible()
        page.fill("#cast-quotas textarea", "role: 1 miller, 5 thieves")
        page.click("#cast-plan-button")
        expect(page.locator(".cast-plan input")).to_have_count(6)
        # The typed value goes with the click: what a field sends when it is left may come later, here never.
        page.evaluate("addEventListener('change', (event) => event.stopImmediatePropagation(), true)")
        page.locator(".cast-plan input").first.fill("owl")
        page.get_by_role("button", name="Draft these characters").click()
        expect(page.locator(".cast-card h4").first).to_contain_text(f"{NAMES[0]} owl")
        studio.kill()
        studio.start()
        studio.open(page, "pim-tuckett", "draft")
        page.click("#side-cast")
        expect(page.locator(".cast-card").first).to_contain_text(NAMES[0])
        page.get_by_role("button", name="Go on").click()
        expect(page.locator(".cast-card")).to_have_count(2, timeout=2 * PATIENCE)
        page.get_by_role("tab", name="2 · Play").click()
        page.locator("#jobs summary").click()
        page.locator("#jobs [data-do=job]").click()
        expect(page.locator(".cast-under-way")).to_be_in_viewport()
        page.locator("#jobs summary").click()
        page.get_by_role("button", name="Stop: Cast · A mill.").click()
        expect(page.locator("#jobs details")).to_have_count(0)
        page.get_by_role("button", name=f"Keep: {NAMES[0]}").click()
        expect(page.locator(f"#side-characters label:has-text('{NAMES[0]}')")).to_be_visible()
    assert [one.tags for one in characters.list_characters(store) if one.name == NAMES[0]] == [("owl",)]

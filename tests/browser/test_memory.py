"""What characters remember of players, in a real browser: seen, corrected, deleted, taken back, forgotten; and the switch."""

import re
from typing import Any

from playwright.sync_api import expect

from browser.conftest import Studio
from engine.serving.memory import Found, PlayerMemory

EVIL = '<img src=x onerror="document.title=1">'


def test_facts_are_corrected_deleted_taken_back_and_forgotten(page: Any, studio: Studio) -> None:
    memory = PlayerMemory(studio.home / "players.db")
    facts = [Found("The player likes tea.", 1, f"I like tea. {EVIL}"), Found("The player has a dog.", 1), Found(f"Is {EVIL}", 2)]
    memory.keep("kit", "edith-crowle", "one", facts, "The player bought a stamp.", name="Kit")
    memory.keep("tom", "edith-crowle", "one", [Found("The player's name is Tom.", 1)], name="Tom")
    memory.keep("tom", "edith-crowle", "one", [Found("The player's name is Thomas.", 2)])
    studio.open(page, "edith-crowle", "preview")
    page.click("#preview-memory-box > button")
    kit = page.locator(".memory-player", has_text="Kit")
    expect(kit.locator("li")).to_have_count(3)
    expect(page.locator(".memory-former")).to_contain_text("1 replaced")
    assert page.locator("#preview-memory img").count() == 0 and page.title() != "1"

    kit.locator(".memory-edit", has_text="tea").locator("summary").click()
    kit.locator("li textarea").first.fill("The player likes coffee.")
    kit.locator("li button:has-text('Save')").first.click()
    expect(kit).to_contain_text("The player likes coffee.")
    expect(kit).to_contain_text("corrected")

    kit.get_by_label("Delete: The player has a dog.").click()
    expect(kit.locator("li")).to_have_count(2)
    page.click("#preview-remember-again")
    expect(kit.locator("li")).to_have_count(3)

    kit.locator(".memory-forget summary").click()
    kit.locator("button:has-text('Forget')").click()
    expect(kit).to_have_count(0)
    expect(page.locator(".memory-player")).to_have_count(1)
    assert memory.facts("kit") == [] and len(memory.facts("tom")) == 1
    assert b"coffee" not in b"".join(file.read_bytes() for file in studio.home.glob("players.db*"))


def test_a_player_is_remembered_in_the_next_chat_once_the_switch_is_on(page: Any, studio: Studio) -> None:
    studio.open(page, "bodo-grumm", "preview")
    page.click("#preview-memory-box > button")
    expect(page.locator("#preview-memory")).to_contain_text("Nothing yet")
    expect(page.locator("#preview-memory-on input")).not_to_be_checked()
    page.check("#preview-memory-on input")
    page.fill("#preview-message textarea", "I have a goat called Hettie.")
    page.press("#preview-message textarea", "Enter")
    expect(page.locator("#preview-memory")).to_contain_text("The player has a goat called Hettie.", timeout=60_000)
    page.click("#preview-new")
    expect(page.locator(".chat-said")).to_have_count(1)
    page.fill("#preview-message textarea", "How is my goat?")
    page.press("#preview-message textarea", "Enter")
    expect(page.locator(".chat-lore summary")).to_have_text(re.compile("1 memory of the player"), timeout=60_000)
    page.reload()
    page.click("#preview-memory-box > button")
    expect(page.locator("#preview-memory-on input")).to_be_checked()
    page.uncheck("#preview-memory-on input")  # other tests share this studio
    expect(page.locator("#preview-memory")).to_contain_text("Hettie")

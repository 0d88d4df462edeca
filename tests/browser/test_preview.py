"""The Play room in a real browser: an answer outlives a reload, another window sees the same, and text stays text."""

import re
from typing import Any

from playwright.sync_api import expect

from browser.conftest import Studio
from engine.base.ids import FinishReason
from studio.labels import FINISHES

EVIL = '*nods* <img src="http://192.0.2.1/x.png" onerror="document.title=1"> ![x](http://192.0.2.1/y.png)'


def enter(page: Any, studio: Studio, character: str) -> None:
    studio.open(page, character, "preview")


def say(page: Any, text: str) -> None:
    page.fill("#preview-message textarea", text)
    page.press("#preview-message textarea", "Enter")
    expect(page.locator(".chat-said.user").last).to_be_visible()


def longest(page: Any, tokens: int) -> None:
    """Set the longest answer, and a temperature at which the random model does not repeat itself, which would end the answer."""
    page.click("#preview-settings button")
    for control, value in (("max-tokens", tokens), ("temperature", 1.5)):
        field = page.locator(f"#preview-{control} input[type=number]")
        field.fill(str(value))
        field.blur()


def test_an_answer_outlives_a_reload_and_every_window_sees_it(page: Any, studio: Studio) -> None:
    enter(page, studio, "edith-crowle")
    longest(page, 512)
    say(page, "Is the letter for me?")
    page.reload()
    other = page.context.new_page()
    enter(other, studio, "edith-crowle")
    for window in (page, other):
        expect(window.locator("#preview-measures")).to_contain_text("tokens", timeout=60_000)
        expect(window.locator(".chat-said")).to_have_count(3)
    texts = [window.locator(".chat-said.assistant .chat-words").last.inner_text() for window in (page, other)]
    assert texts[0] == texts[1] != ""
    other.locator("#preview-regenerate").click()
    expect(page.locator("#preview-swipe-count")).to_have_text("2 of 2", timeout=60_000)  # this window only watched


def test_escape_stops_and_the_keyboard_asks_again(page: Any, studio: Studio) -> None:
    enter(page, studio, "amos-redfern")
    longest(page, 512)
    say(page, "Water?")
    for key in ("Control+Enter", ""):
        page.wait_for_function("document.querySelector('#preview-live')?.innerText.trim().length > 1")  # it speaks
        page.keyboard.press("Escape")
        expect(page.locator("#preview-stop")).to_be_hidden()
        expect(page.locator("#preview-reason")).to_have_text(FINISHES[FinishReason.STOPPED])
        if key:
            page.keyboard.press(key)
    expect(page.locator("#preview-swipe-count")).to_have_text("2 of 2")


def test_text_stays_text_and_edits_and_deletions_are_kept(page: Any, studio: Studio) -> None:
    enter(page, studio, "bodo-grumm")
    longest(page, 16)
    say(page, EVIL)
    expect(page.locator("#preview-measures")).to_be_visible(timeout=60_000)
    words = page.locator(".chat-said.user .chat-words")
    assert "<img" in words.inner_text() and page.locator(".chat img").count() == 0 and words.locator("em").inner_text() == "nods"
    page.hover(".chat-said.user")
    page.locator(".chat-said.user [data-do=edit]").click()
    page.fill("#preview-edit-text", "You have hat?")
    page.keyboard.press("Control+Enter")
    expect(words).to_have_text("You have hat?")
    page.hover(".chat-said.user")
    page.locator(".chat-said.user [data-do=cut]").click()
    expect(page.locator("#preview-cut")).to_contain_text("2 messages were deleted.")
    page.locator("#preview-undo").click()
    expect(page.locator(".chat-said")).to_have_count(3)
    page.reload()
    expect(page.locator(".chat-said.user .chat-words")).to_have_text("You have hat?")


def test_another_chat_has_its_own_settings(page: Any, studio: Studio) -> None:
    enter(page, studio, "pim-tuckett")
    longest(page, 24)
    say(page, "First chat")
    expect(page.locator("#preview-measures")).to_be_visible(timeout=60_000)
    page.click("#preview-new")
    expect(page.locator(".chat-said")).to_have_count(1)
    expect(page.locator("#preview-max-tokens input[type=number]")).to_have_value("160")
    page.locator("#preview-chats label", has_text=re.compile("First chat")).click()
    expect(page.locator(".chat-said")).to_have_count(3)
    expect(page.locator("#preview-max-tokens input[type=number]")).to_have_value("24")


def test_what_was_typed_last_stays_with_its_chat_however_fast_another_is_opened(page: Any, studio: Studio) -> None:
    enter(page, studio, "vessaline-korr")
    longest(page, 24)
    limit = page.locator("#preview-max-tokens input[type=number]")
    chats = page.locator("#preview-chats label")
    for words in ("First chat", "Second chat"):
        say(page, words)
        expect(page.locator("#preview-measures")).to_be_visible(timeout=60_000)
        page.click("#preview-new")
        expect(page.locator(".chat-said")).to_have_count(1)
        limit.fill("32")
    for name, value in (("First", "48"), ("Second", "64"), ("First", "56")):
        chats.filter(has_text=re.compile(name)).click()
        expect(page.locator(".chat-said.user .chat-words")).to_have_text(f"{name} chat")
        page.evaluate("""([field, other, value]) => {
            field.value = value; field.dispatchEvent(new Event("input", {bubbles: true})); field.blur(); other.click();
        }""", [limit.element_handle(), chats.filter(has_text=re.compile("Second" if name == "First" else "First")).element_handle(),
               value])
    for name, value in (("First", "56"), ("Second", "64")):
        chats.filter(has_text=re.compile(name)).click()
        expect(page.locator(".chat-said.user .chat-words")).to_have_text(f"{name} chat")
        expect(limit).to_have_value(value)
    both = [chats.filter(has_text=re.compile(name)).element_handle() for name in ("First", "Second")]
    page.evaluate("(chats) => { for (const chat of [...chats, ...chats, chats[0]]) chat.click(); }", both)  # the last click counts
    page.wait_for_load_state("networkidle")
    expect(page.locator(".chat-said.user .chat-words")).to_have_text("First chat")
    expect(limit).to_have_value("56")

"""The page as a whole: it opens, remembers where one was, and lists the characters; nothing leaves the machine."""

import itertools
import json
import re
from typing import Any

import pytest
from playwright.sync_api import expect
from server_samples import until

from browser.conftest import LOSE, PATIENCE, Studio
from engine.base.job import PRESET_LABELS
from studio.store import values
from studio.store.database import open_store
from studio.ui import ROOMS


def choose(page: Any, name: str) -> None:
    """Pick a character in the sidebar."""
    page.locator("#side-characters label", has_text=name).click()


def test_a_reload_comes_back_to_the_character_and_the_room(studio: Studio, page: Any) -> None:
    studio.open(page)
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
    page.get_by_role("tab", name="5 · Export").click()  # all rooms are in sight on a phone
    expect(page).to_have_url(re.compile("room=export"))
    page.evaluate("window.losing = false")
    expect(page.locator("#side-characters label.selected")).to_have_text("Edith Crowle", timeout=PATIENCE)
    expect(page.get_by_role("tab", name="5 · Export")).to_have_attribute("aria-selected", "true")
    expect(page).to_have_url(re.compile("room=export"))


def test_the_live_channel_follows_the_room_that_was_chosen_last(studio: Studio, page: Any) -> None:
    studio.open(page, "edith-crowle")
    with page.expect_request(re.compile("/studio/live.*room=compare&character=edith-crowle")):
        page.get_by_role("tab", name="3 · Prune").click()
        page.get_by_role("tab", name="4 · Compare").click()
    expect(page).to_have_url(re.compile("room=compare"))


def test_search_new_delete_and_undo(studio: Studio, page: Any) -> None:
    studio.open(page)
    names = page.locator("#side-characters label")
    page.locator("#side-search textarea, #side-search input").fill("pim")
    expect(names.filter(has_text="Pim Tuckett")).to_be_visible()
    expect(names.filter(has_text="Bodo Grumm")).to_have_count(0)
    page.locator("#side-search textarea, #side-search input").fill("")
    expect(names.filter(has_text="Bodo Grumm")).to_be_visible()
    choose(page, "Bodo Grumm")
    page.locator("#side-delete").click()  # at once: it is the one that was chosen last
    expect(page.locator("#side-undo-box")).to_contain_text("Bodo Grumm was deleted, with")
    expect(names.filter(has_text="Bodo Grumm")).to_have_count(0)
    page.locator("#side-undo").click()
    expect(page.locator("#side-characters label.selected")).to_have_text("Bodo Grumm")
    page.get_by_role("tab", name="3 · Prune").click()
    page.locator("#side-new").click()
    expect(page.locator("#side-characters label.selected")).to_have_text("New character")
    name = page.locator("#draft-name input, #draft-name textarea")
    expect(name).to_be_focused()
    page.wait_for_function("String(document.activeElement.value).length === document.activeElement.selectionEnd")
    page.keyboard.type("Ada of the Mill")  # in place of the name that was selected
    expect(page.locator("#side-characters label.selected")).to_have_text("Ada of the Mill")


def test_settings_are_remembered_and_show_where_everything_is(studio: Studio, page: Any) -> None:
    studio.open(page, "edith-crowle", "prune")
    expect(page.locator("#prune-engineer input")).to_be_checked()
    page.get_by_role("button", name="Settings").click()
    expect(page.locator("#side-folders code").first).to_have_text(str(studio.home))
    expect(page.locator("#side-engineer input")).to_be_checked()
    page.locator("#side-engineer input").uncheck()
    expect(page.locator("#prune-engineer input")).not_to_be_checked()
    expect(page.locator("#prune-ladder")).to_be_hidden()
    page.locator("#prune-engineer input").check()  # the same one
    expect(page.locator("#side-engineer input")).to_be_checked()
    page.locator("#prune-thorough label", has_text="First try").click()
    assert page.evaluate("document.body.classList.contains('dark')") is False
    page.locator("#side-theme label", has_text="Dark").click()
    page.wait_for_function("getComputedStyle(document.documentElement).colorScheme === 'dark'")
    page.reload()
    page.wait_for_function("getComputedStyle(document.documentElement).colorScheme === 'dark'")
    expect(page.locator("#prune-thorough label.selected")).to_have_text("First try")
    page.get_by_role("button", name="Settings").click()
    expect(page.locator("#side-theme label.selected")).to_have_text("Dark")
    page.locator("#side-theme label", has_text="Light").click()
    page.emulate_media(color_scheme="dark")  # the system's, which no longer counts
    page.wait_for_timeout(300)
    assert page.evaluate("document.body.classList.contains('dark')") is False


def test_what_is_kept_does_not_paint_over_what_was_chosen_on_this_page(studio: Studio, page: Any) -> None:
    store = open_store(studio.home / "studio.db")
    values.set_value(store, "lines-preset", "standard")
    studio.open(page, "edith-crowle", "prune")
    selected = page.locator("#prune-thorough label.selected")
    expect(selected).to_have_text(PRESET_LABELS["standard"])
    page.locator("#prune-thorough label", has_text="First try").click()
    until(lambda: values.get_value(store, "lines-preset", "") == "try")
    values.set_value(store, "lines-preset", "quick")  # an answer that was on its way
    choose(page, "Bodo Grumm")
    page.wait_for_timeout(1_000)
    expect(selected).to_have_text("First try")
    values.set_value(store, "lines-preset", "")
    values.set_value(store, "prune-preset", "")


SEARCH = "#side-search textarea, #side-search input"
CHOSEN = "#side-characters label.selected"


def test_a_search_without_a_hit_shows_nobody_and_the_open_character_stays_open(studio: Studio, page: Any) -> None:
    studio.open(page, "edith-crowle")
    page.locator(SEARCH).fill("no such <b>word</b>")
    expect(page.locator("#side-nothing")).to_have_text("Nothing matches “no such <b>word</b>”.")
    expect(page.locator("#side-characters label")).to_have_count(0)
    expect(page.locator("#draft-name input, #draft-name textarea")).to_have_value("Edith Crowle")
    page.locator(SEARCH).fill("pim")
    expect(page.locator("#side-characters label")).to_have_text("Pim Tuckett")
    page.locator(SEARCH).fill("")
    expect(page.locator(CHOSEN)).to_have_text("Edith Crowle")
    expect(page.locator("#side-nothing")).to_be_hidden()
    page.locator(SEARCH).fill("no such word")
    page.locator("#side-new").click()  # a search that would hide what was made is cleared
    expect(page.locator(CHOSEN)).to_have_text("New character")
    expect(page.locator(SEARCH)).to_have_value("")


@pytest.mark.parametrize("room", ROOMS)
def test_an_unknown_address_opens_nobody_and_says_so(studio: Studio, page: Any, room: str) -> None:
    page.goto(studio.url("nobody", room))
    expect(page.locator(".toast-body")).to_contain_text("There is no character at this address (“nobody”)")
    expect(page.locator("#side-characters label").first).to_be_visible()
    expect(page.locator(CHOSEN)).to_have_count(0)
    expect(page.locator(f"#room-{room}")).to_contain_text("hoose a character in the sidebar")
    choose(page, "Edith Crowle")
    expect(page).to_have_url(re.compile(f"(?=.*character=edith-crowle)(?=.*room={room})"))


def test_an_unknown_room_is_said_to_be_none(studio: Studio, page: Any) -> None:
    page.goto(studio.url("edith-crowle", "kitchen"))
    expect(page.locator(".toast-body")).to_contain_text("There is no room “kitchen”. This is Draft.")
    expect(page).to_have_url(re.compile("(?=.*character=edith-crowle)(?=.*room=draft)"))


def test_the_address_follows_a_new_name_and_that_of_a_deleted_character_brings_it_back(studio: Studio, page: Any) -> None:
    studio.open(page, "edith-crowle")
    page.locator("#side-new").click()
    expect(page).to_have_url(re.compile("character=new-character"))
    before = page.url
    name = page.locator("#draft-name input, #draft-name textarea")
    expect(name).to_have_value("New character")
    name.fill("Odalys Finch")
    expect(page).to_have_url(re.compile("character=odalys-finch"))
    expect(page.locator(CHOSEN)).to_have_text("Odalys Finch")
    page.goto(before)
    expect(page.locator(CHOSEN)).to_have_text("Odalys Finch")
    expect(page).to_have_url(re.compile("character=odalys-finch"))
    page.locator("#side-delete").click()
    expect(page.locator("#side-characters label", has_text="Odalys Finch")).to_have_count(0)
    page.goto(before)
    expect(page.locator(".toast-body")).to_contain_text("Odalys Finch was deleted")
    expect(page.locator(CHOSEN)).to_have_count(0)
    page.locator("#side-undo").click()
    expect(page.locator(CHOSEN)).to_have_text("Odalys Finch")


def test_undo_is_in_sight_in_a_low_window_after_deleting(studio: Studio, page: Any) -> None:
    page.set_viewport_size({"width": 1280, "height": 480})
    studio.open(page, "edith-crowle")
    page.locator("#side-delete").click()
    expect(page.locator("#side-undo")).to_be_in_viewport(ratio=1)
    page.locator("#side-undo").click()
    expect(page.locator(CHOSEN)).to_have_text("Edith Crowle")


def tab_stops(page: Any) -> list[str]:
    """What the Tab key comes to, from the beginning of the page to its end: the id of it or of what holds it."""
    found: list[str] = []
    page.evaluate("document.activeElement.blur()")
    while len(found) < 100:
        page.keyboard.press("Tab")
        stop = page.evaluate("document.activeElement === document.body ? '' : document.activeElement.closest('[id]').id")
        if not stop or (found and stop == found[0]):
            break
        found.append(stop)
    return found


def test_the_list_and_the_rooms_are_one_stop_each_and_arrow_keys_go_on_from_there(studio: Studio, page: Any) -> None:
    studio.open(page, "edith-crowle", "prune")
    stops = tab_stops(page)
    for group in ("side-characters", "prune-who", "prune-thorough"):
        assert stops.count(group) == 1, stops
    assert [stop for stop in stops if stop.startswith("room-")] == ["room-prune-button"]
    page.locator("#room-prune-button").focus()
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile("room=compare"))
    for key, room in (("Home", "draft"), ("ArrowLeft", "export"), ("ArrowRight", "draft"), ("End", "export")):
        page.keyboard.press(key)
        expect(page.locator(f"#room-{room}-button")).to_be_focused()
        expect(page.locator(f"#room-{room}-button")).to_have_attribute("aria-selected", "true")
    names = page.locator("#side-characters label").all_inner_texts()
    page.locator("#side-characters input:checked").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(CHOSEN)).to_have_text(names[names.index("Edith Crowle") + 1])
    page.keyboard.press("ArrowUp")
    expect(page).to_have_url(re.compile("(?=.*character=edith-crowle)(?=.*room=export)"))


def test_the_palette_opens_rooms_and_characters_by_a_few_letters(studio: Studio, page: Any) -> None:
    page.set_viewport_size({"width": 400, "height": 860})  # where not all rooms are in sight
    studio.open(page, "edith-crowle")
    for letters, found in (("expo", "room=export"), ("bodo", "character=bodo-grumm")):
        page.keyboard.press("Control+k")
        page.keyboard.type(letters)
        expect(page.locator("#palette [aria-selected=true]")).to_be_visible()
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile(found))
    expect(page).to_have_url(re.compile("room=export"))


def test_a_closed_sidebar_is_no_stop(studio: Studio, page: Any) -> None:
    page.set_viewport_size({"width": 400, "height": 860})
    studio.open(page, "edith-crowle", "prune")
    expect(page.locator(".sidebar.open")).to_have_count(0)
    expect(page.locator("#prune-lines")).to_be_visible()
    expect(page.locator("#side-search")).to_be_hidden()
    assert [stop for stop in tab_stops(page) if stop.startswith("side-")] == []


@pytest.mark.parametrize("room", ["draft", "prune", "compare", "export"])
def test_headings_are_an_outline_without_gaps(studio: Studio, page: Any, room: str) -> None:
    studio.open(page, "edith-crowle", room)
    expect(page.locator(f"#room-{room} h3:visible").first).to_be_visible()
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].filter((one) => one.getClientRects().length)"
                           ".map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    expect(page.locator(f"#room-{room} h2")).to_have_text(room.capitalize())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_scrollbars_have_the_pages_theme(studio: Studio, page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    studio.open(page)
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == scheme


def test_the_pages_answers_forbid_foreign_frames_and_pictures(studio: Studio, page: Any) -> None:
    answer = page.goto(studio.address)
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy and "img-src 'self' data: blob:" in policy

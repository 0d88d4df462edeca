"""Sets of lines in a real browser: another name, deleted and brought back; and a table that a narrow page holds whole."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect
from test_workers_jobs import eventually

from browser.conftest import PATIENCE, Studio
from studio.store import characters, lines
from studio.store.database import Store, open_store
from studio.store.lines import LineSet

NARROW = 400  # pixels


@pytest.fixture
def store(studio: Studio) -> Store:
    return open_store(studio.home / "studio.db")


@pytest.fixture
def sets(store: Store) -> Iterator[tuple[LineSet, LineSet]]:
    """Two sets of Bodo's, the newer one last."""
    bodo = characters.get(store, "bodo-grumm")
    assert bodo
    rest = "You will want a lamp for the last of the stairs, and mind the cat: it sleeps where it likes."
    records = [{"question": f"Where is door number {number}?", "answer": f"Behind barrel {number}, as it ever was. {rest}"}
               for number in range(40)]
    first, second = (lines.add_set(store, bodo.id, 1, records, {}, name=name) for name in ("First", "Second"))
    yield first, second
    for made in lines.sets(store, bodo.id):  # the next tests find the room as it was
        lines.delete_set(store, made.id)


def test_a_set_gets_another_name_is_deleted_and_comes_back(studio: Studio, page: Any, store: Store,
                                                           sets: tuple[LineSet, LineSet]) -> None:
    studio.open(page, "bodo-grumm", "prune")
    source = page.locator("#prune-from")
    expect(source).to_contain_text("Second")
    page.locator("#prune-rename-set").click()
    title = page.locator("#prune-set-title textarea, #prune-set-title input")
    expect(title).to_have_value("Second")
    title.fill("The <b>best</b> ones")
    page.locator("#prune-set-title-save").click()
    expect(source).to_contain_text("The <b>best</b> ones")
    expect(title).to_be_hidden()
    page.locator("#prune-delete-set").click()
    expect(source).to_contain_text("First")
    assert [one.id for one in lines.sets(store, sets[0].character)] == [sets[0].id]
    page.locator("#prune-delete-set").click()
    expect(page.locator("#prune-no-lines")).to_be_visible()
    page.locator("#prune-undo-set").click()
    expect(source).to_contain_text("First")
    page.locator("#prune-all > summary").click()
    expect(page.locator("#prune-table tbody tr").first).to_contain_text("Where is door number 0?")


def type_into(page: Any, cell: Any, text: str) -> None:
    cell.scroll_into_view_if_needed()
    cell.click()
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def test_an_edit_of_approved_lines_makes_one_copy_and_the_next_edit_none(studio: Studio, page: Any, store: Store,
                                                                         sets: tuple[LineSet, LineSet]) -> None:
    before = len(lines.sets(store, sets[1].character))
    lines.approve(store, sets[1].id)
    studio.open(page, "bodo-grumm", "prune")
    expect(page.locator("#prune-from")).to_contain_text("Second")
    page.locator("#prune-all > summary").click()
    answers = page.locator("#prune-table td.answer")
    type_into(page, answers.nth(1), "In the cellar.")
    expect(page.locator("#prune-from")).to_contain_text("Second, edited")
    expect(answers.nth(1)).to_contain_text("In the cellar.")
    copy = lines.sets(store, sets[1].character)[0]
    type_into(page, answers.nth(2), "In the attic.")
    eventually(lambda: lines.lines(store, copy.id)[2].answer == "In the attic.", PATIENCE / 1000)
    assert lines.lines(store, copy.id)[1].answer == "In the cellar."
    assert lines.lines(store, sets[1].id)[1].answer != "In the cellar."
    assert len(lines.sets(store, sets[1].character)) == before + 1


def test_lines_are_kept_rewritten_and_dropped_by_key_the_doubtful_one_first(studio: Studio, page: Any, store: Store,
                                                                            sets: tuple[LineSet, LineSet]) -> None:
    def read(removed: bool = False) -> dict[int, Any]:
        return {line.position: line for line in lines.lines(store, sets[1].id, removed)}

    lines.change(store, read()[8].id, answer="Hm.")
    studio.open(page, "bodo-grumm", "prune")
    card, head = page.locator(".review-card:visible"), page.locator(".review-head")
    expect(card).to_have_count(1)
    expect(card).to_contain_text("said next to nothing")
    card.scroll_into_view_if_needed()
    page.keyboard.press("d")
    page.keyboard.press("k")
    expect(head).to_contain_text("1 kept · 1 dropped")
    assert 8 in read(removed=True)
    page.keyboard.press("r")
    position = int(card.get_attribute("data-position"))
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("I do not keep doors, I brew.")  # its letters are no keys
    page.keyboard.press("Enter")
    expect(head).to_contain_text("1 kept · 1 rewritten · 1 dropped")
    assert read()[position].answer == "I do not keep doors, I brew."
    for _ in range(3):
        page.keyboard.press("b")
    expect(head).to_contain_text("Looked at 0 of 40")
    assert read()[8].answer == "Hm." and read()[position].answer.startswith("Behind barrel")


def test_a_narrow_page_shows_questions_with_their_whole_answers(studio: Studio, page: Any, store: Store,
                                                                sets: tuple[LineSet, LineSet]) -> None:
    page.set_viewport_size({"width": NARROW, "height": 900})
    studio.open(page, "bodo-grumm", "prune")
    page.locator("#prune-all > summary").click()
    answer = page.locator("#prune-table td.answer").nth(1)
    expect(answer).to_contain_text("Behind barrel 1, as it ever was.")
    answer.scroll_into_view_if_needed()
    box = answer.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= NARROW
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW
    type_into(page, answer, "In the cellar.")
    expect(answer).to_contain_text("In the cellar.")
    eventually(lambda: lines.lines(store, sets[1].id)[1].answer == "In the cellar.", PATIENCE / 1000)

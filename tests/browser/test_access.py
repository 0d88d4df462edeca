"""The page for everybody: axe-core finds nothing serious in any room, light and dark, and the whole walk goes by keyboard alone.

axe-core (Deque, MPL-2.0) is fetched by npm, pinned by the hash that npm gives, and runs in these tests alone.
"""

import base64
import hashlib
import re
import tarfile
from typing import Any

import pytest
from npm import npm_package
from playwright.sync_api import expect
from server_samples import until
from small_job import told_run, work_of
from tiny import make_tiny

from browser.conftest import Studio
from studio.settings import Settings
from studio.store import characters, lines, runs, values
from studio.store.database import open_store
from studio.ui import ROOMS
from studio.workers import adopting

VERSION = "4.14.1"
INTEGRITY = "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
SLOW = 120_000  # ms for what waits for a model
# What is folded away is opened, so that it is looked at too.
UNFOLD = """() => {
  for (const one of document.querySelectorAll("button.label-wrap:not(.open)")) if (one.getClientRects().length) one.click();
  for (const one of document.querySelectorAll("details:not([open])")) if (one.getClientRects().length) one.open = true;
}"""
LOOK = """async () => {
  const {violations} = await axe.run(document, {preload: false, resultTypes: ["violations"]});
  return violations.filter(({impact}) => ["serious", "critical"].includes(impact)).flatMap(({id, impact, nodes}) => nodes.map(
    ({target, html, any}) => `${impact} ${id}: ${target.join(" ")} ${html.slice(0, 160)} ${any[0]?.message ?? ""}`));
}"""


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core."""
    package = npm_package(f"axe-core@{VERSION}", f"axe-core-{VERSION}.tgz", "PERSONA_STUDIO_AXE")
    digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    assert f"sha512-{digest}" == INTEGRITY
    with tarfile.open(package) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script
        return script.read().decode()


@pytest.fixture(scope="module")
def furnished(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The slug of a character with a finished run, its lines and its history: one of the command line, that was added."""
    folder = tmp_path_factory.mktemp("made")
    out = told_run(make_tiny(folder / "dense", intermediate_size=128), folder / "half", sparsity=0.5, multiple=32)
    settings, store = Settings(studio.home), open_store(studio.home / "studio.db")
    who = characters.get(store, adopting.adopt(settings, store, adopting.find(settings, str(work_of(out)))).character)
    assert who
    return who.slug


def unfold(page: Any) -> None:
    """Open all that is folded away, also what is within."""
    for _ in range(2):
        page.evaluate(UNFOLD)
        page.wait_for_timeout(400)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_room(studio: Studio, page: Any, axe: str, furnished: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    studio.open(page, furnished)
    page.evaluate(axe)
    faults = []
    for room in ROOMS:
        page.locator(f"#room-{room}-button").click()
        expect(page.locator(f"#room-{room}")).to_be_visible()
        if room == "prune":
            page.locator("#prune-went").click()
        unfold(page)
        faults += [f"{room}: {one}" for one in page.evaluate(LOOK)]
    page.keyboard.press("Control+k")
    expect(page.locator("#palette")).to_be_visible()
    faults += [f"palette: {one}" for one in page.evaluate(LOOK)]
    assert faults == [], "\n".join(sorted(set(faults)))


# What the keyboard is on: its id, or that of what holds it; and whether it is marked, itself or by what is drawn for it.
FOCUSED = """() => {
  const at = document.activeElement;
  if (!at || at === document.body) return null;
  const marked = [at, at.closest("label"), at.parentElement].some((one) => {
    const {outlineStyle, outlineWidth} = one ? getComputedStyle(one) : {};
    return one && outlineStyle !== "none" && parseFloat(outlineWidth) > 0;
  });
  return {id: at.closest("[id]")?.id ?? "", marked, name: `${at.tagName} ${at.ariaLabel ?? at.innerText?.slice(0, 40) ?? ""}`};
}"""
STOPS = 150  # of the Tab key on one page, at most


def tab_to(page: Any, wanted: str, key: str = "Tab") -> list[str]:
    """Press Tab until the keyboard is on what `wanted` says, an id; every stop on the way is marked. The ids of all stops."""
    stops: list[str] = []
    for _ in range(STOPS):
        page.keyboard.press(key)
        stop = page.evaluate(FOCUSED)
        if stop is None:
            continue  # the end of the page
        assert stop["marked"], f"no mark on {stop}"
        stops.append(stop["id"])
        if stop["id"] == wanted:
            return stops
    raise AssertionError(f"{wanted} is not reached: {stops}")


def test_the_whole_walk_goes_by_keyboard_alone(own_studio: Studio, page: Any) -> None:
    store = open_store(own_studio.home / "studio.db")
    values.set_value(store, "welcome", "")
    own_studio.open(page)
    expect(page.locator("#welcome")).to_contain_text("Welcome", timeout=SLOW)
    tab_to(page, "welcome-meet")
    page.keyboard.press("Enter")
    expect(page.locator("#preview-message textarea")).to_be_visible(timeout=SLOW)
    tab_to(page, "preview-message")
    page.keyboard.type("Who are you?")
    page.keyboard.press("Enter")
    expect(page.locator(".chat-said.user")).to_be_visible(timeout=SLOW)
    expect(page.locator("#preview-stop")).to_be_visible(timeout=SLOW)
    page.keyboard.press("Escape")  # ends the answer
    expect(page.locator("#preview-stop")).to_be_hidden(timeout=SLOW)
    tab_to(page, "room-preview-button", "Shift+Tab")
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile("room=prune"))
    expect(page.locator("#prune-start")).to_be_visible(timeout=SLOW)
    tab_to(page, "prune-start")
    page.keyboard.press("Enter")
    until(lambda: [one.kind for one in runs.list_runs(store)] == ["lines"], SLOW / 1000)
    tab_to(page, "room-prune-button", "Shift+Tab")
    for room in ("compare", "export"):
        page.keyboard.press("ArrowRight")
        expect(page).to_have_url(re.compile(f"room={room}"))
    tab_to(page, "export-to-prune")


def test_the_table_of_lines_is_one_stop_and_its_cells_are_reached_by_arrow_keys(studio: Studio, page: Any) -> None:
    store = open_store(studio.home / "studio.db")
    who = characters.get(store, "edith-crowle")
    assert who
    records = [{"question": f"Where is door number {number}?", "answer": f"Behind barrel {number}, as it ever was."}
               for number in range(40)]
    made = lines.add_set(store, who.id, 1, records, {}, name="Doors")
    read = lambda: {line.position: line.answer for line in lines.lines(store, made.id)}
    try:
        studio.open(page, who.slug, "prune")
        page.locator("#prune-all > summary").click()
        page.locator("#prune-search").focus()
        assert tab_to(page, "prune-delete-lines") == ["prune-category", "prune-table", "prune-delete-lines"]
        tab_to(page, "prune-table", "Shift+Tab")
        cell = page.locator("#prune-table :focus")
        expect(cell).to_have_text("Where is door number 0?")
        for key in ("ArrowDown", "ArrowRight"):
            page.keyboard.press(key)
        expect(cell).to_contain_text("Behind barrel 1,")
        page.keyboard.press("Enter")
        page.keyboard.type(" Mind the cat.")
        page.keyboard.press("Enter")
        until(lambda: read()[2].endswith("as it ever was. Mind the cat."), SLOW / 1000)
        expect(cell).to_contain_text("Mind the cat.")  # the keyboard is on the cell again
        page.keyboard.press("Control+End")
        page.keyboard.press("Home")
        page.keyboard.press("Space")
        expect(page.locator("#prune-table input:checked")).to_have_attribute("data-tick", "40")
        page.keyboard.press("d")  # as in the review: the line goes, and the keyboard stays in the table
        until(lambda: 40 not in read(), SLOW / 1000)
        expect(page.locator("#prune-table tr[data-position='40']")).to_have_count(0)
        expect(cell).to_have_attribute("data-tick", "39")
        page.keyboard.press("b")
        until(lambda: 40 in read(), SLOW / 1000)
        page.keyboard.press("Control+Home")
        page.keyboard.press("ArrowRight")
        expect(cell).to_have_text("No.")
    finally:
        lines.delete_set(store, made.id)

"""What changes by itself on an open page comes by its one stream, which a page that nobody sees closes."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from browser.conftest import Studio, add_run
from engine.base.event_file import append
from engine.base.events import Stage, Started, Step
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, runs
from studio.store.runs import Run

HIDE = """hidden => {
    Object.defineProperty(document, "hidden", {get: () => hidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture
def run(studio: Studio) -> Iterator[Run]:
    """A run that the library calls running; no process of it is there, so that the test writes its events."""
    store = Services.open(Settings(studio.home)).store
    person = characters.get(store, "bodo-grumm")
    assert person
    made = add_run(store, person.id, "A run", {"model": "tiny", "preset": "quick", "sparsity": 0.25}, state="running")
    path = Settings(studio.home).run_events(made.id)
    path.parent.mkdir(parents=True)
    for event in (Started("Bodo", "tiny", 0.25, [("learn_mask", "")]), Stage("learn_mask", 50),
                  Step("learn_mask", 1, 50, {})):
        append(path, event)
    yield made
    runs.update(store, made.id, state="stopped")
    runs.remove(store, made.id)


def test_progress_comes_by_the_stream_and_rests_while_nobody_looks(studio: Studio, page: Any, run: Run) -> None:
    studio.open(page, "bodo-grumm", "prune")
    progress, jobs = page.locator("#prune-progress"), page.locator("#jobs")
    expect(progress).to_contain_text("1 of 50")
    page.locator("#prune-percent").scroll_into_view_if_needed()  # a figure is drawn when it comes into view
    expect(page.locator("#prune-remains ~ .figure .js-plotly-plot, #prune-remains .js-plotly-plot")).to_be_attached()
    path = Settings(studio.home).run_events(run.id)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(re.sub(r"\?.*", "", request.url).rsplit("/", 1)[-1]))
    for step in range(10, 20):  # on a slow machine Gradio is still filling the page while the first of them come
        del asked[:]
        append(path, Step("learn_mask", step, 50, {}))
        expect(progress).to_contain_text(f"{step} of 50")
        expect(jobs).to_contain_text(f"{2 * step}\u00a0%")
        if not asked:
            break
    assert asked == []  # the stream is open already
    page.evaluate(HIDE, True)
    page.wait_for_timeout(500)
    append(path, Step("learn_mask", 40, 50, {}))
    page.wait_for_timeout(2_500)
    assert asked == []
    expect(progress).to_contain_text(f"{step} of 50")
    page.evaluate(HIDE, False)
    expect(progress).to_contain_text("40 of 50")
    assert "live" in asked
    page.get_by_role("tab", name="1 · Draft").click()
    chip = page.locator("#jobs summary")
    expect(chip).to_contain_text("Prune · Bodo")
    chip.click()
    expect(page.get_by_role("button", name="Stop: Prune · Bodo")).to_be_visible()
    page.locator("#jobs [data-do=job]").click()
    expect(page.locator("#jobs ul")).to_be_hidden()
    expect(page).to_have_url(re.compile("room=prune"))
    expect(progress).to_be_visible()


def test_many_windows_of_one_browser_are_all_served(studio: Studio, page: Any, run: Run) -> None:
    path = Settings(studio.home).run_events(run.id)
    windows = [page, *(page.context.new_page() for _ in range(7))]  # more than a browser has connections
    for window in windows[1:]:
        window.add_init_script("document.hasFocus = () => false")
    for window in windows:
        window.goto(studio.url("bodo-grumm", "prune"))
        expect(window.locator("#prune-progress")).to_contain_text("1 of 50")
    append(path, Step("learn_mask", 20, 50, {}))
    for window in windows:
        expect(window.locator("#prune-progress")).to_contain_text("20 of 50")


def test_a_page_whose_stream_breaks_off_comes_back_to_the_newest(studio: Studio, page: Any, run: Run) -> None:
    page.route("**/studio/live*", lambda route: route.abort(), times=2)
    page.goto(studio.url("bodo-grumm", "prune"))
    expect(page.locator("#prune-progress")).to_contain_text("1 of 50")


def test_what_is_open_chosen_and_typed_stays_while_the_page_changes(studio: Studio, page: Any, run: Run) -> None:
    studio.open(page, "bodo-grumm", "prune")
    path = Settings(studio.home).run_events(run.id)
    page.locator("#prune-rename").click()
    title = page.locator("#prune-title input")
    title.fill("Half a na")
    append(path, Step("learn_mask", 30, 50, {}))
    expect(page.locator("#prune-progress")).to_contain_text("30 of 50")
    expect(title).to_be_focused()
    page.keyboard.type("me")
    expect(title).to_have_value("Half a name")
    page.keyboard.press("Enter")
    expect(page.locator("#prune-progress h4")).to_have_text("Half a name")
    expect(title).to_be_hidden()


def test_a_figure_that_is_drawn_again_is_the_newest_and_keeps_its_height(studio: Studio, page: Any) -> None:
    studio.open(page, "bodo-grumm")
    page.evaluate("""() => {
      const target = document.createElement("div");
      target.id = "drawn-here";
      document.querySelector("#room-draft").prepend(target);
      window.drawBar = (last) => personaStudioLive.figure(target, {
        data: [{type: "bar", x: [last], y: [""], orientation: "h"}],
        layout: {template: {layout: {height: 120}}}, config: {staticPlot: last === 1}});
    }""")
    newest = "document.querySelector('#drawn-here .js-plotly-plot')?.data?.[0].x[0] === {}"
    page.evaluate("drawBar(1)")
    page.wait_for_function(newest.format(1))
    page.evaluate("drawBar(2); drawBar(3)")
    page.wait_for_function(newest.format(3))
    expect(page.locator("#drawn-here .js-plotly-plot")).to_be_visible()
    assert page.locator("#drawn-here .js-plotly-plot").bounding_box()["height"] == 120

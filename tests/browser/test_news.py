"""What moves by itself on an open page: it comes by a light question once a second, and a page that nobody sees asks for none."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from browser.conftest import Studio, add_run
from engine.base.events import Stage, Started, Step, append
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
    """A run that the library calls running; no process of it is there, so that the test tells its events."""
    store = Services.open(Settings(studio.home)).store
    person = characters.get(store, "bodo-grumm")
    assert person
    made = add_run(store, person.id, "Told", {"model": "tiny", "preset": "quick", "sparsity": 0.25}, state="running")
    path = Settings(studio.home).run_events(made.id)
    path.parent.mkdir(parents=True)
    for event in (Started("Bodo", "tiny", 0.25, ["learn the mask"]), Stage("learn the mask", 50),
                  Step("learn the mask", 1, 50, {})):
        append(path, event)
    yield made
    runs.update(store, made.id, state="stopped")
    runs.remove(store, made.id)


def test_progress_moves_without_gradio_and_rests_while_nobody_looks(studio: Studio, page: Any, run: Run) -> None:
    page.goto(studio.url("bodo-grumm", "prune"))
    progress, jobs = page.locator("#prune-progress"), page.locator("#side-jobs")
    expect(progress).to_contain_text("1 of 50")
    expect(page.locator("#prune-remains .js-plotly-plot")).to_be_visible()  # the last that Gradio paints at the beginning
    path = Settings(studio.home).run_events(run.id)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(re.sub(r"\?.*", "", request.url).rsplit("/", 1)[-1]))
    for step in range(10, 20):  # on a slow machine Gradio still paints the beginning while the first of them come
        del asked[:]
        append(path, Step("learn the mask", step, 50, {}))
        expect(progress).to_contain_text(f"{step} of 50")
        expect(jobs).to_contain_text(f"{2 * step}\u00a0%")
        if set(asked) == {"news"}:
            break
    assert set(asked) == {"news"}  # none of Gradio's own events
    page.evaluate(HIDE, True)
    page.wait_for_timeout(500)  # a question may be under way
    del asked[:]
    append(path, Step("learn the mask", 40, 50, {}))
    page.wait_for_timeout(2_500)
    assert asked == []
    expect(progress).to_contain_text(f"{step} of 50")
    page.evaluate(HIDE, False)
    expect(progress).to_contain_text("40 of 50")


def test_a_page_whose_token_is_no_longer_good_asks_for_another(studio: Studio, page: Any) -> None:
    page.goto(studio.url("bodo-grumm", "draft"))
    expect(page.locator("#side-news [data-token]")).to_have_attribute("data-token", re.compile(".{32}"))
    with page.expect_response(lambda answer: answer.url.partition("?")[0].endswith("/run/predict")) as told:
        page.route("**/studio/news*", lambda route: route.fulfill(status=403), times=1)  # as a studio that was started anew
    assert "data-token" in told.value.text()
    with page.expect_response(lambda answer: "/studio/news" in answer.url) as news:
        pass
    assert news.value.status in (200, 304)

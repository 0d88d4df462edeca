"""The jobs at the top of the page: all kinds of them, with a way there and a Stop."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_samples import card, services_of

from engine.base.errors import UserError
from engine.base.events import Stage, Step
from studio import under_way
from studio.services import Services
from studio.store import casts, characters, runs
from studio.workers.speech import Reply


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Services]:
    """Services whose processes only wait until they are stopped."""
    with services_of(tmp_path / "home", "-c", "import time; time.sleep(60)") as found:
        yield found


def begin_all(services: Services, person: str) -> None:
    """One process of each kind."""
    services.evaluating.begin(person, {}, "dense", Path("run"))
    services.shipping.begin(person, {})
    services.scenes.begin(person, [{}], "model", "", 4)
    services.scripts.begin(person, [(None, "model")], {}, 0)
    cast = casts.begin(services.store, "A <harbour> town.", "", 0, [{}, {}])
    services.casting.begin(cast, [0, 1], "model", None, 0)


def test_every_process_is_a_job_with_a_way_there_and_a_stop(idle: Services) -> None:
    who = characters.create(idle.store, card("Zoë"))
    assert under_way.jobs_html(idle) == ""
    begin_all(idle, who.id)
    found = {job.id: job for job in under_way.jobs(idle)}
    assert len(found) == len(idle.singles()) == 5
    assert {(job.room, job.part, job.character) for job in found.values() if not job.cast} == {
        ("prune", "", who.id), ("export", "#export-view input[value=ship]", who.id),
        ("preview", "#preview-view input[value=scene]", who.id), ("compare", "#compare-view input[value=script]", who.id)}
    cast = found["cast"]
    assert (cast.room, cast.part, cast.character, cast.cast) == ("draft", "#draft-cast", "", idle.casting.character())
    assert cast.what == "Cast · A &lt;harbour&gt; town."
    page = under_way.jobs_html(idle)
    assert "4 more" in page and page.count('data-do="job"') == page.count('data-do="stop"') == 5 and "<harbour>" not in page
    idle.casting._take(Stage("draft_cast", 8, subject="m"))
    idle.casting._take(Step("draft_cast", 2, 8, {}, subject="Mira"))
    assert "Draft Mira · 25" in under_way.jobs_html(idle)
    for one in idle.singles():
        under_way.stop(idle, one.what)
        assert one.wait(30)
        with pytest.raises(UserError, match="has ended"):
            under_way.stop(idle, one.what)
    assert under_way.jobs_html(idle) == ""


def test_runs_come_in_their_order_and_one_that_waits_can_be_stopped(services: Services, person: str) -> None:
    for name, state in (("First <b>", "running"), ("Next", "queued"), ("Last", "stopping")):
        runs.add(services.store, person, 1, "export" if name == "Next" else "prune", name, {}, state=state)
    jobs = under_way.jobs(services)
    assert [(job.name, job.room, job.stop is None) for job in jobs] == [
        ("First &lt;b&gt;", "prune", False), ("Last", "prune", True), ("Next", "export", False)]
    assert [job.doing for job in jobs] == ["starting", "stopping", "waiting for its turn"]  # the first has begun nothing yet
    under_way.stop(services, jobs[2].id)
    assert "Next" not in under_way.jobs_html(services)


def test_a_model_that_is_fetched_is_a_job(services: Services, monkeypatch: Any) -> None:
    reply = Reply({"id": "r", "do": "warm", "model": "org/a-model"})
    monkeypatch.setattr(services.speech, "under_way", lambda: [reply])
    assert under_way.jobs(services) == []
    reply.take({"event": "Loading", "stage": "fetch_model", "done": 500, "total": 2_000})
    [job] = under_way.jobs(services)
    assert (job.what, job.doing, job.share, job.room) == ("Download · a-model", "500 of 2,000 MB", 0.25, "")
    reply.take({"event": "Loading", "stage": "convert_starter", "done": 1, "total": 2})
    assert under_way.jobs(services) == []

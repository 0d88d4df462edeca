"""Runs that nobody looks after: in a restored backup, or begun while the library could not be told."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_samples import card
from test_workers_jobs import STUB, eventually, get, under_way, wait_for

from engine.base.errors import UserError
from studio import library
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, database, runs
from studio.workers.ending import CLOSED


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    settings = Settings(tmp_path / "home", grace_seconds=0.5, poll_seconds=0.05, command=(sys.executable, "-S", str(STUB)))
    settings.home.mkdir()
    services = Services.open(settings).start()
    yield services
    for run in runs.list_runs(services.store, states=("queued", *runs.ACTIVE)):
        services.jobs.kill(run.id)
    services.close()


@pytest.fixture
def person(services: Services) -> str:
    return characters.create(services.store, card("Zoë")).id


def test_a_backup_made_while_a_run_was_under_way_holds_up_no_queue(services: Services, person: str) -> None:
    store, jobs = services.store, services.jobs
    run = jobs.submit_lines(person, {"model": "slow"})
    under_way(services.settings, store, run)
    backup = database.backup(store)
    with pytest.raises(UserError, match="A job is running"):
        library.restore(services, backup)
    jobs.stop(run.id)
    wait_for(store, run, "stopped")
    library.restore(services, backup)  # in which it still runs
    assert wait_for(store, run, "stopped").sentence == CLOSED
    assert wait_for(store, jobs.submit_lines(person, {"model": "quick"}), "done", "failed").state == "done"
    jobs.resume(run.id)
    assert wait_for(store, run, "done", "failed").state == "done"


def test_a_worker_that_the_library_could_not_record_is_followed_all_the_same(
        services: Services, person: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tried = runs.update, []

    def fail_once(store: Any, id: str, **fields: Any) -> runs.Run:
        if fields.get("state") == "running" and not tried:
            tried.append(id)
            raise UserError("The library is busy; nothing was lost.", "Try again.")
        return real(store, id, **fields)

    monkeypatch.setattr(runs, "update", fail_once)
    first = services.jobs.submit_lines(person, {"model": "slow"})
    second = services.jobs.submit_lines(person, {"model": "quick"})
    step = services.settings.run_folder(first.id) / "work" / "step"
    eventually(step.exists)
    assert tried == [first.id]
    assert (get(services.store, first).state, get(services.store, second).state) == ("starting", "queued")  # one at a time
    services.jobs.stop(first.id)
    assert wait_for(services.store, first, "stopped", "failed").state == "stopped"
    assert wait_for(services.store, second, "done", "failed").state == "done"

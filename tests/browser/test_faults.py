"""What goes wrong around a studio: killed processes, second windows, a second studio, a folder in the way, hostile cards.

The jobs are those of stub_engine.py, which last as long as a test needs.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import expect
from small_job import write_card, write_lines
from test_workers_jobs import eventually

from browser.conftest import PATIENCE, ROOT, Studio, add_run, chromium
from engine.base.event_file import read
from engine.base.events import Step
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, lines, runs, values
from studio.store.database import Store, open_store
from studio.store.runs import Run
from studio.workers.ending import BY_SYSTEM, CLOSED, KILLED

STUB = ROOT / "tests" / "stub_engine.py"
SILENCE = 4  # seconds until a run is called not responding
# app.py whose workers are those of stub_engine.py
WITH_STUB = f"""
import dataclasses, sys
from studio import launch
from studio.settings import Settings
real = Settings.of_environment
command = (sys.executable, "-S", {str(STUB)!r})
Settings.of_environment = classmethod(lambda cls: dataclasses.replace(
    real(), command=command, poll_seconds=0.2, silence_seconds={SILENCE}))
sys.exit(launch.main(sys.argv[1:]))
"""
SECONDS = 60  # on a busy machine
# A figure is drawn when it comes into view.
CURVE = ("(document.querySelector('#prune-figure-course')?.scrollIntoView(), "
         "document.querySelector('#prune-figure-course .js-plotly-plot'))?.data?.[0]?.customdata")


def zoe(store: Store, folder: Path, name: str) -> characters.Character:
    """A character with a short card and an approved set of 40 lines."""
    folder.mkdir()
    card = {**json.loads(write_card(folder).read_text(encoding="utf-8")), "name": name}
    made = characters.create(store, {"spec": "chara_card_v3", "spec_version": "3.0", "data": card})
    records = [json.loads(line) for line in write_lines(folder, 40).read_text(encoding="utf-8").splitlines()]
    lines.approve(store, lines.add_set(store, made.id, 1, records, {}).id)
    return made


@pytest.fixture(autouse=True)
def patience(page: Any) -> Iterator[None]:
    """Waits as long as a busy machine needs."""
    page.context.set_default_timeout(SECONDS * 1000)
    expect.set_options(timeout=SECONDS * 1000)
    yield
    expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio whose jobs go on until they are ended."""
    chromium()
    home = tmp_path_factory.mktemp("stub") / "home"
    home.mkdir()
    values.set_value(Services.open(Settings(home)).store, "model", "some/slow")
    running = Studio(home, program=("-c", WITH_STUB)).start()
    yield running
    running.end()


@pytest.fixture
def store(stub: Studio) -> Iterator[Store]:
    """Its library; no job is left when the test ends."""
    store = open_store(stub.home / "studio.db")
    yield store
    for run in runs.list_runs(store, states=("queued",)):
        runs.update(store, run.id, state="stopped")
    for run in runs.list_runs(store, states=runs.ACTIVE):
        end_worker(store, run)
    eventually(lambda: not runs.list_runs(store, states=runs.ACTIVE))


def get(store: Store, run: Run) -> Run:
    found = runs.get(store, run.id)
    assert found
    return found


def end_worker(store: Store, run: Run) -> None:
    """As the system does when memory runs out."""
    pid = get(store, run).pid
    if pid and psutil.pid_exists(pid):
        psutil.Process(pid).kill()


def steps(studio: Studio, run: Run) -> list[int]:
    """The learning steps in the run's file of events."""
    return [event.done for event in read(Settings(studio.home).run_events(run.id))
            if isinstance(event, Step) and event.stage == "learn_mask"]


def went_on(found: list[int], seen: int) -> bool:
    """Whether a run that was ended after `seen` steps went on where it was, for three; a step that was saved in the moment of
    its end may not have been reported."""
    three = [[seen + gap + step for step in (1, 2, 3)] for gap in (0, 1)]
    return found[:seen] == list(range(1, seen + 1)) and found[seen:] in three


def open_prune(page: Any, studio: Studio, who: characters.Character) -> None:
    studio.open(page, who.slug, "prune")
    expect(page.locator("#prune-from")).to_contain_text("Learns from")


def press_prune(page: Any, studio: Studio, store: Store, who: characters.Character) -> Run:
    """Queue a run by the button, and wait until it has learned a little."""
    open_prune(page, studio, who)
    page.locator("#prune-start").click()
    eventually(lambda: runs.list_runs(store, who.id, kinds=["prune"]), SECONDS)
    run = runs.list_runs(store, who.id, kinds=["prune"])[0]
    eventually(lambda: len(steps(studio, run)) > 3, SECONDS)
    return run


def pill(page: Any) -> Any:
    """The state of the run that is looked at."""
    return page.locator("#prune-progress .prune-head .pill")


def start_another(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "app.py", "--home", str(home)], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_second_studio_on_the_same_folder_is_refused(stub: Studio, tmp_path: Path) -> None:
    second = start_another(stub.home)
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr == (f"Error: A studio is already open on {stub.home}. "
                             "Use its window, or start this one with another --home.\n")
    assert stub.process.poll() is None
    (tmp_path / "file").write_text("in the way")
    blocked = start_another(tmp_path / "file" / "home")
    assert blocked.returncode == 2 and blocked.stderr.count("\n") == 1 and "Traceback" not in blocked.stderr
    assert blocked.stderr.startswith("Error: The data folder") and "Set PERSONA_STUDIO_HOME" in blocked.stderr


def test_two_tabs_pressing_prune_make_two_runs_one_after_the_other(stub: Studio, store: Store, page: Any, tmp_path: Path) -> None:
    who = zoe(store, tmp_path / "zoe", "Two Tabs")
    other = page.context.new_page()
    for tab, percent in ((page, "25"), (other, "50")):
        open_prune(tab, stub, who)
        tab.locator("#prune-percent input[type=number]").fill(percent)
        tab.locator("#prune-percent input[type=number]").press("Tab")
    for tab in (page, other):
        tab.locator("#prune-start").click(no_wait_after=True)
    for tab in (page, other):
        expect(tab.locator("#prune-runs tbody tr")).to_have_count(2)
        expect(tab.locator("#prune-runs .pill", has_text="waiting for its turn")).to_have_count(1)
        expect(tab.locator("#prune-runs .pill", has_text="running")).to_have_count(1)
    made = runs.list_runs(store, who.id, kinds=["prune"])
    assert sorted(run.spec["sparsity"] for run in made) == [0.25, 0.5]
    page.locator("#prune-start").click()  # the same once more
    expect(page.get_by_text("The same prune is waiting or running already.")).to_be_visible()
    assert len(runs.list_runs(store, who.id, kinds=["prune"])) == 2
    first = next(run for run in made if run.state != "queued")
    end_worker(store, first)
    eventually(lambda: sorted(run.state for run in runs.list_runs(store, who.id)) == ["failed", "running"])
    began = {run.id: run.begun for run in runs.list_runs(store, who.id)}
    assert max(began.values()) >= (get(store, first).ended or 0)


def test_a_tab_that_is_closed_and_opened_again_shows_the_whole_history(stub: Studio, store: Store, page: Any, browser: Any,
                                                                       tmp_path: Path) -> None:
    who = zoe(store, tmp_path / "zoe", "Closed Tab")
    run = press_prune(page, stub, store, who)
    expect(pill(page)).to_have_text("running")
    page.goto("about:blank")
    seen = len(steps(stub, run))
    eventually(lambda: len(steps(stub, run)) > seen + 20, SECONDS)  # nobody looks
    page.goto(stub.url(who.slug, "prune"))
    expect(pill(page)).to_have_text("running")
    page.wait_for_function(f"{CURVE}?.length > {seen + 20}")
    curve = page.evaluate(CURVE)
    assert list(curve)[:seen + 20] == list(range(1, seen + 21))
    page.wait_for_function(f"{CURVE}?.length > {len(curve)}")  # and it goes on


def test_a_worker_that_is_killed_is_reported_and_resumed(stub: Studio, store: Store, page: Any, tmp_path: Path) -> None:
    who = zoe(store, tmp_path / "zoe", "Killed Worker")
    run = press_prune(page, stub, store, who)
    end_worker(store, run)
    expect(pill(page)).to_have_text("failed")
    expect(page.locator("#prune-progress")).to_contain_text(BY_SYSTEM)
    seen = len(steps(stub, run))
    page.locator("#prune-resume").click()
    expect(pill(page)).to_have_text("done")
    assert went_on(steps(stub, run), seen)


def test_a_worker_that_hangs_is_said_not_to_respond_and_may_be_ended_at_once(stub: Studio, store: Store, page: Any,
                                                                             tmp_path: Path) -> None:
    who = zoe(store, tmp_path / "zoe", "Hung Worker")
    run = press_prune(page, stub, store, who)
    worker = psutil.Process(get(store, run).pid)
    expect(page.locator("#prune-kill")).to_be_hidden()
    worker.send_signal(signal.SIGSTOP)
    expect(pill(page)).to_have_text("not responding")
    expect(page.locator("#jobs")).to_contain_text("not responding")
    expect(page.locator("#prune-progress")).to_contain_text("This run has not reported anything")
    assert worker.status() == psutil.STATUS_STOPPED and get(store, run).state == "running"  # nothing is ended by itself
    seen = len(steps(stub, run))
    page.locator("#prune-kill").click()
    expect(pill(page)).to_have_text("stopped")
    expect(page.locator("#prune-progress")).to_contain_text(KILLED)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    page.locator("#prune-resume").click()
    expect(pill(page)).to_have_text("done")
    assert went_on(steps(stub, run), seen)


EVIL = ("<img src=http://evil.invalid/x onerror=alert(1)> [x](javascript:alert(1)) ![p](http://evil.invalid/p.png) {{7*7}} "
        "{% raw %}")


def hostile_card(folder: Path) -> Path:
    """A hostile card as a file."""
    card = {"name": f"Mallory {EVIL}", "description": f"A spy. {EVIL}", "first_mes": f"Greetings. {EVIL}", "tags": [EVIL],
            "alternate_greetings": [f"Again. {EVIL}"], "creator": EVIL, "creator_notes": EVIL, "scenario": EVIL,
            "mes_example": EVIL}
    (folder / "mallory.json").write_text(json.dumps({"spec": "chara_card_v3", "spec_version": "3.0", "data": card}))
    return folder / "mallory.json"


def hostile_results(store: Store, home: Path, who: characters.Character) -> None:
    """Lines, a run and its words, as hostile as the card."""
    records = [{"question": f"{number}? {EVIL}", "answer": EVIL, "category": EVIL} for number in range(40)]
    made = lines.add_set(store, who.id, 1, records, {EVIL: 3}, name=EVIL)
    summary = {"base": {"name": EVIL, "licence": EVIL}, "proof": {"reply": EVIL}, "character": EVIL}
    run = add_run(store, who.id, f"Run {EVIL}", {"model": EVIL, "preset": "quick", "sparsity": 0.25}, made.id, state="done",
                  summary=summary, sentence=EVIL)
    model = Settings(home).run_folder(run.id) / "model"
    model.mkdir(parents=True)
    (model / "manifest.json").write_text('{"files": {}}')
    runs.update(store, run.id, out=str(model))


def test_a_hostile_card_is_plain_text_everywhere(stub: Studio, store: Store, page: Any, tmp_path: Path) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(stub.address)
    expect(page.locator("#side-characters label").first).to_be_visible()
    with page.expect_file_chooser() as chooser:
        page.locator("#side-import").click()
    chooser.value.set_files(str(hostile_card(tmp_path)))
    chosen = page.locator("#side-characters label.selected")
    expect(chosen).to_contain_text("Mallory <img src=http://evil.invalid/x onerror=alert(1)> [x](javascript:alert(1))")
    who = next(one for one in characters.list_characters(store) if one.name.startswith("Mallory"))
    assert characters.head(store, who.id).card["data"]["first_mes"] == f"Greetings. {EVIL}"
    hostile_results(store, stub.home, who)
    shown = {"draft": "#draft-name textarea, #draft-name input", "preview": "#preview-log .chat-words",
             "prune": "#prune-runs tbody", "compare": "#compare-arena", "export": "#export-report"}
    for number, (room, element) in enumerate(shown.items(), start=1):
        page.get_by_role("tab", name=f"{number} · {'Play' if room == 'preview' else room.capitalize()}").click()
        place = page.locator(element).first
        expect(place).to_be_visible()
        page.wait_for_function("([element, room]) => { const found = document.querySelector(element); "
                               "return (found.value ?? found.innerText).includes('onerror=alert(1)'); }", arg=[element, room])
        page.wait_for_timeout(300)
        assert page.locator("[src*='evil.invalid'], [href*='evil.invalid'], [href^='javascript'], [onerror]").count() == 0, room
        text = place.input_value() if room == "draft" else place.inner_text()
        assert "{{7*7}}" in text and "{% raw %}" in text and "](javascript:alert(1))" in text, room
    page.locator("#side-delete").click()
    expect(page.locator("#side-undo-box")).to_contain_text("<img src=http://evil.invalid/x onerror=alert(1)>")
    assert dialogs == []


def test_a_studio_that_is_killed_comes_back_with_everything(stub: Studio, store: Store, page: Any, tmp_path: Path) -> None:
    who = zoe(store, tmp_path / "zoe", "Power Cut")
    run = press_prune(page, stub, store, who)
    worker = psutil.Process(get(store, run).pid)
    expect(page.locator("#lost")).to_have_count(0)
    stub.kill()
    expect(page.locator("#lost")).to_contain_text("The studio does not answer")
    page.goto("about:blank")  # an open page reloads itself as soon as the studio is back, and would break off the visit below
    eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, SECONDS)  # its leash is loose
    assert get(store, run).state == "running"  # nobody was there to write it down
    seen = steps(stub, run)
    left = [stub.home / "exports" / ".zoe.partial-a1b2c3d4", Settings(stub.home).run_folder(run.id) / ".model.partial-a1b2c3d4"]
    for folder in left:
        folder.mkdir()
    stub.start()
    assert not any(folder.exists() for folder in left)
    open_prune(page, stub, who)
    expect(pill(page)).to_have_text("stopped")
    expect(page.locator("#prune-progress")).to_contain_text(CLOSED)
    page.wait_for_function(f"{CURVE}?.length === {len(seen)}")
    assert list(page.evaluate(CURVE)) == seen == list(range(1, len(seen) + 1))
    page.locator("#prune-resume").click()
    expect(pill(page)).to_have_text("done")
    assert went_on(steps(stub, run), len(seen)) and get(store, run).sentence == ""

"""Half-written results of killed processes go when the studio starts; nothing else does."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from store_samples import card

from engine.base.files import PACKAGES
from studio.settings import Settings
from studio.store import characters, runs
from studio.store.database import open_store
from studio.workers import sweeping
from studio.workers.commands import job_file
from studio.workers.jobs import Jobs
from studio.workers.sweeping import OLD, sweep


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(tmp_path)
    for folder in (settings.exports, settings.run_folder("a1")):
        folder.mkdir(parents=True)
    return settings


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"half")
    return path


def test_only_half_written_results_are_removed(settings: Settings, tmp_path: Path) -> None:
    gone = [folder(settings.exports / ".zoe-25.partial-a1b2c3d4"), folder(settings.run_folder("a1") / ".model.partial-x_y_z_12"),
            settings.exports / ".zoe-25.zip.partial"]
    gone[-1].write_bytes(b"PK")
    kept = [folder(settings.exports / "zoe-25"), folder(settings.exports / ".hidden"),
            folder(settings.exports / ".partial-12345678"), folder(settings.exports / "a.partial-12345678"),
            folder(settings.run_folder("a1") / "work" / ".deep.partial-12345678"),
            folder(tmp_path / "elsewhere"), folder(tmp_path / "models" / ".starter.partial-12345678")]
    files = [settings.exports / "zoe-25.zip", settings.exports / ".zip.partial", settings.exports / ".note.partial-12345678"]
    for file in files:
        file.write_bytes(b"PK")
    link = settings.exports / ".link.partial-12345678"
    link.symlink_to(tmp_path / "elsewhere")
    assert sorted(sweep(settings)) == sorted(gone)
    assert not any(path.exists() for path in gone) and all((path / "model.safetensors").exists() for path in kept)
    assert all(file.exists() for file in files) and link.is_symlink()
    assert sweep(settings) == []


def test_what_a_living_process_still_makes_is_left_alone(settings: Settings) -> None:
    store = open_store(settings.database)
    person = characters.create(store, card("Zoë")).id
    run = runs.add(store, person, 1, "prune", "first", {"model": "tiny"})
    assert runs.claim_next(store)
    making, dead = folder(settings.run_folder(run.id) / ".model.partial-a1b2c3d4"), folder(settings.exports / ".x.partial-a1b2c3d4")
    job_file(settings, run.id).write_text("{}")
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(job_file(settings, run.id))])
    try:
        runs.update(store, run.id, state="running")
        jobs = Jobs(settings, store)
        jobs.start()
        jobs.close(0)
        assert making.exists() and not dead.exists()
    finally:
        worker.kill()
        worker.wait()
    jobs = Jobs(settings, store)
    jobs.start()
    jobs.close()
    assert not making.exists()


def test_what_a_starter_was_made_in_goes_when_it_is_old_and_nobody_can_still_be_making_it(
        settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "MAKER", f"engine-of-{os.getpid()}")  # not those of other people on this machine
    models = settings.home / "models"
    old = [folder(models / ".starter-smollm2-135m-instruct.partial-a1b2c3d4"), folder(models / ".starter-download-x1y2")]
    kept = [folder(models / "starter-smollm2-135m-instruct"), folder(models / ".mine.partial-a1b2c3d4"),
            folder(settings.home / "elsewhere"), folder(models / ".starter-download-fresh")]
    link = models / ".starter-download-link"
    link.symlink_to(settings.home / "elsewhere")
    maker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", sweeping.MAKER])
    try:
        for path in (*old, *kept[:3]):
            os.utime(path, (time.time() - OLD - 10,) * 2)
        started = psutil.Process(maker.pid).create_time()
        sleeper = folder(models / ".starter-download-sleeper")
        for path in (sleeper, kept[3]):  # not before the maker, however long its start took
            os.utime(path, (started + 1,) * 2)
        later = started + OLD + 100  # the machine slept for a day; the maker goes on
        assert sorted(sweep(settings, now=later)) == sorted(old)
    finally:
        maker.kill()
        maker.wait()
    assert sorted(sweep(settings, now=later)) == sorted([sleeper, kept.pop()])
    assert all((path / "model.safetensors").exists() for path in kept) and link.is_symlink()


def test_a_copy_of_the_library_goes_with_the_process_that_was_killed_over_it(settings: Settings) -> None:
    """By a real process, killed while SQLite has written the copy and it has not got its name yet."""
    open_store(settings.database)
    program = ("import os, sys, time; from pathlib import Path; from studio.store import database; "
               "database.os.fsync = lambda _: (print(flush=True), time.sleep(60)); "
               "database._copy_to_backups(Path(sys.argv[1]), 5.0, 'backup')")
    maker = subprocess.Popen([sys.executable, "-c", program, str(settings.database)], stdout=subprocess.PIPE, cwd=PACKAGES)
    try:
        assert maker.stdout and maker.stdout.readline()
        half = [file for file in settings.backups.iterdir() if file.name.endswith(f".{maker.pid}.partial")]
        assert len(half) == 1 and sweep(settings) == [] and half[0].exists(), "its maker lives"
    finally:
        maker.kill()
        maker.communicate()
    restored = settings.home / f".studio.db.{maker.pid}.restored"
    left = [*half, restored, restored.with_name(f"{restored.name}-wal")]
    kept = [settings.backups / "studio-1-backup.db", settings.home / ".notes.12.txt",
            settings.backups / f".mine.{os.getpid()}.partial"]
    for file in (*left[1:], *kept):
        file.write_bytes(b"SQLite")
    other = settings.backups / f".its-number-was-given-out-again.{os.getpid()}.partial"
    other.write_bytes(b"SQLite")
    os.utime(other, (psutil.Process().create_time() - 60,) * 2)
    assert sorted(sweep(settings)) == sorted([*left, other])
    assert all(file.exists() for file in (*kept, settings.database))

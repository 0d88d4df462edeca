"""What open pages cost a job: one of fixed work, alone and watched in turn."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.studio.job import products_of
from benchmarks.studio.pages import Audience
from engine.base.event_file import read
from engine.base.events import Step
from engine.base.files import PACKAGES
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, runs

JOB = (sys.executable, str(Path(__file__).with_name("job.py")))
# The studio as app.py starts it, but its workers are those of job.py.
WITH_BENCH_JOB = f"""
import dataclasses, sys
from studio import launch
from studio.settings import Settings
real = Settings.of_environment
Settings.of_environment = classmethod(lambda cls: dataclasses.replace(real(), command={JOB!r}))
sys.exit(launch.main(sys.argv[1:]))
"""
Figures = dict[str, Any]


@contextmanager
def running_studio(home: Path, code: str = "", **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], str, float]]:
    """A studio on `home`: its process, its address, and the seconds until its first page was there."""
    command = [sys.executable, *(["-c", code] if code else ["app.py"]), "--home", str(home)]
    output = home / "output.txt"
    begin = time.perf_counter()
    with output.open("wb") as file:
        process = subprocess.Popen(command, cwd=PACKAGES, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    try:
        while not (found := re.search(r"open at (http://[\d.:]+)", output.read_text())):
            if process.poll() is not None:
                raise RuntimeError(output.read_text())
            time.sleep(0.02)
        with urllib.request.urlopen(found[1]) as answer:
            answer.read()
        yield process, found[1], time.perf_counter() - begin
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def measure_tabs(tabs: int = 20, pairs: int = 12, window: float = 6.0, step_seconds: float = 0.5, room: str = "prune") -> Figures:
    """How much longer the steps of a job take while `tabs` pages follow it: windows of `window` seconds, alone and watched.

    The windows come in pairs, each second pair in the other order, all in one job of equal steps. Besides the wall time:
    processor seconds of the studio a second, which other programs hardly move, those of the tabs' own side, which slows the
    job here but runs elsewhere in truth, and the messages and bytes a second that the tabs got.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        store = Services.open(Settings(home)).store
        person = characters.list_characters(store)[0]
        found: Figures = {"tabs": tabs, "pairs": [], "window": window, "room": room, "cores": psutil.cpu_count()}
        with running_studio(home, WITH_BENCH_JOB, BENCH_PRODUCTS=str(products_of(step_seconds))) as (process, address, _):
            audience = Audience(address, tabs, person.id, room)
            run = runs.add(store, person.id, 1, "prune", "bench", {"model": "bench", "preset": "quick", "sparsity": 0.25})
            path = Settings(home).run_events(run.id)
            try:
                while len(_steps(path)) < 3:
                    if (known := runs.get(store, run.id)) and known.state == "failed":
                        raise RuntimeError(known.sentence)
                    time.sleep(0.1)
                studio = psutil.Process(process.pid)
                for number in range(pairs):
                    order = (False, True) if number % 2 == 0 else (True, False)
                    pair: Figures = {"watched" if watched else "alone": _look(path, window, studio, audience, watched)
                                     for watched in order}
                    pair["slower_percent"] = 100 * (pair["watched"]["seconds"] / pair["alone"]["seconds"] - 1)
                    found["pairs"].append(pair)
            finally:
                worker = runs.get(store, run.id)
                if worker and worker.pid:
                    psutil.Process(worker.pid).kill()
    if audience.faults:
        raise audience.faults[0]
    return found


def _look(path: Path, window: float, studio: psutil.Process, audience: Audience, watched: bool) -> Figures:
    """One window: seconds a step, and what the studio did meanwhile."""
    if watched:
        audience.watch()
    begin, before = time.time(), _counts(studio, audience)
    time.sleep(window)
    took = time.time() - begin
    gone = {name: (value - before[name]) / took for name, value in _counts(studio, audience).items()}
    while len(times := [one for one in _steps(path) if one >= begin]) < 3:  # a busy machine
        time.sleep(0.1)
    if watched:
        audience.look_away()
    return {"seconds": (times[-1] - times[0]) / (len(times) - 1), "steps": len(times) - 1, **gone}


def _counts(studio: psutil.Process, audience: Audience) -> dict[str, float]:
    """Processor seconds of the studio and of the tabs' side, which is this process, and what the tabs have got."""
    return {"studio_cpu": sum(studio.cpu_times()[:2]), "tabs_cpu": time.process_time(), "messages": audience.messages,
            "bytes": audience.bytes}


def _steps(path: Path) -> list[float]:
    """When the job's steps ended, in Unix seconds."""
    return [event.time for event in read(path) if isinstance(event, Step)]

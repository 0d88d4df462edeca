"""Watches a download that runs in a process of its own. It knows neither what is fetched nor from where."""

import os
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

from engine.base.events import Step

_POLL_SECONDS = 0.5


def watch(process: subprocess.Popen, folder: Path, total: int, stage: str) -> Generator[Step, None, None]:
    """Yield steps in MB while `folder` grows, at most to `total`, until the process has ended; a closed generator kills it."""
    before, last = growing_size(folder), 0
    try:
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            done = min(total, round((growing_size(folder) - before) / 1e6))
            if done > last:
                last = done
                yield Step(stage, done, total)
    finally:
        if process.poll() is None:
            process.kill()


def growing_size(folder: Path) -> int:
    """Bytes of the plain files below a folder (links not followed) that another process is writing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += 0 if (file := Path(place, name)).is_symlink() else file.stat().st_size
            except OSError:
                continue
    return total

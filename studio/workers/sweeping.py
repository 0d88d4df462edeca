"""What processes that were killed left half-written beside their results, removed when the studio starts.

A result is made under a hidden name and gets its own when it is whole, so what still has a hidden name is worth nothing
once nobody writes to it. It works with names only; the caller says which results are still being made. What makes a known model
has no run that could be asked, so its leftovers go by their age; a copy of the library has its maker's number in its name.
"""

import logging
import re
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from engine.base.known_models import KNOWN
from studio.settings import Settings
from studio.workers import process

log = logging.getLogger(__name__)
FOLDER, ARCHIVE = ".partial-", ".zip.partial"  # .<name>.partial-<random> and .<name>.zip.partial, as the engine names them
# .<name>.<process>.partial in backups/ and .<name>.<process>.restored beside the library, as store/database.py names them, and
# the files that SQLite keeps beside either
COPY = re.compile(r"\..+\.(\d+)\.(?:partial|restored)(?:-wal|-shm|-journal)?")
OLD = 86_400.0  # seconds; the engine takes minutes for it
MAKER = "engine"  # in the command line of each process that may make one


def sweep(settings: Settings, under_way: Collection[Path] = (), now: float | None = None) -> list[Path]:
    """Remove half-written folders and archives in exports/ and in the runs' folders, copies of the library, and known models.

    Returns what was removed. `under_way`: results that a living process still makes; theirs are left alone. `now`: Unix
    seconds. What cannot be removed is logged.
    """
    removed = []
    for parent in (settings.exports, *settings.jobs.glob("*/")):
        for leftover in parent.glob(".?*.*"):
            target = _target_of(leftover)
            if target is not None and target not in under_way and _remove(leftover):
                removed.append(leftover)
    old = [*_dead_copies(settings), *_old_models(settings, time.time() if now is None else now)]
    return removed + [leftover for leftover in old if _remove(leftover)]


def _dead_copies(settings: Settings) -> Iterator[Path]:
    """Copies of the library whose maker is gone."""
    for folder in (settings.backups, settings.home):
        for file in folder.glob(".*"):
            named = COPY.fullmatch(file.name)
            try:
                if named and file.is_file() and not file.is_symlink() and not process.may_have_written(
                        int(named[1]), file.stat().st_mtime):
                    yield file
            except OSError:  # its owner has just removed it
                continue


def _old_models(settings: Settings, now: float) -> list[Path]:
    """Folders that a known model was made in long ago, and not by a process that still lives (on a machine that slept, say)."""
    old: dict[Path, float] = {}
    for folder in (found for name in KNOWN for found in (settings.home / "models").glob(f".{name}-*")):
        try:
            changed = folder.stat(follow_symlinks=False).st_mtime
        except OSError:  # its owner has just removed it
            continue
        if folder.is_dir() and not folder.is_symlink() and now - changed > OLD:
            old[folder] = changed
    makers = [one.started for one in process.running_with(lambda word: word == MAKER)] if old else []
    return [folder for folder, changed in old.items() if all(started > changed for started in makers)]


def _target_of(leftover: Path) -> Path | None:
    """The result whose hidden name this is; None for any other file or folder."""
    if leftover.is_symlink():
        return None
    name = leftover.name.removeprefix(".")
    if leftover.is_dir() and FOLDER in name:
        return leftover.with_name(name[:name.rindex(FOLDER)]) if name.rindex(FOLDER) else None
    if leftover.is_file() and name.endswith(ARCHIVE) and name != ARCHIVE:
        return leftover.with_name(name.removesuffix(ARCHIVE))
    return None


def _remove(leftover: Path) -> bool:
    try:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    except OSError:
        log.exception("%s is left from a process that was killed, and cannot be removed", leftover)
        return False
    log.info("%s was left half-written by a process that was killed; it was removed", leftover)
    return True

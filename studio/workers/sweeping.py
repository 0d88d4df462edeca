"""What processes that were killed left half-written beside their results, removed when the studio starts.

A result is made under a hidden name and gets its own when it is whole, so what still has a hidden name is worth nothing
once nobody writes to it. Knows names only; the caller says which results are still being made.
"""

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from studio.settings import Settings

log = logging.getLogger(__name__)
FOLDER, ARCHIVE = ".partial-", ".zip.partial"  # .<name>.partial-<random> and .<name>.zip.partial, as the engine names them


def sweep(settings: Settings, under_way: Collection[Path] = ()) -> list[Path]:
    """Remove half-written folders and archives in exports/ and in the runs' folders; what was removed.

    `under_way`: results that a living process still makes; theirs are left alone. What cannot be removed is logged.
    """
    removed = []
    for parent in (settings.exports, *settings.jobs.glob("*/")):
        for leftover in parent.glob(".?*.*"):
            target = _target_of(leftover)
            if target is not None and target not in under_way and _remove(leftover):
                removed.append(leftover)
    return removed


def _target_of(leftover: Path) -> Path | None:
    """The result that a hidden name stands for; None for any other file or folder."""
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

"""A zip among the files that Gradio serves, without a second copy of gigabytes."""

import contextlib
import functools
import os
import shutil
import tempfile
from pathlib import Path

from gradio.utils import get_upload_folder


def servable(zip_file: Path) -> str:
    """A second name for a file of ours among the files that Gradio serves, so that it copies no gigabytes to serve it.

    Whoever knows the page may fetch it from then on, so the caller decides which file that is: never a path from the page.
    """
    changed = zip_file.stat().st_mtime
    name = _second_name(zip_file, changed)
    if not Path(name).exists():  # Gradio removes what is old
        _second_name.cache_clear()
        name = _second_name(zip_file, changed)
    return name


@functools.lru_cache(maxsize=64)
def _second_name(zip_file: Path, changed: float) -> str:
    del changed  # part of the cache's key only: a zip that was written anew is served anew
    served = Path(get_upload_folder())
    served.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix="persona-studio-", dir=served)) / zip_file.name
    with contextlib.suppress(OSError):
        os.link(zip_file, target)
        return str(target)
    shutil.copyfile(zip_file, target)  # another disk
    return str(target)

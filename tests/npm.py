"""Packages of npm that tests need: fetched once into the data folder's cache, never into the repository."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from engine.base.files import data_folder


def npm_package(package: str, file: str, variable: str) -> Path:
    """A package of npm, NAME@VERSION, as the `file` that npm writes: the one that `variable` names, else fetched once into the
    data folder's cache. Fails where CI is set and it cannot be had."""
    if given := os.environ.get(variable):
        return Path(given)
    target = data_folder() / "cache" / file
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        if shutil.which("npm") is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs npm, or {variable} set to the package {package}")
        with tempfile.TemporaryDirectory(dir=target.parent) as name:
            subprocess.run(["npm", "pack", package, "--ignore-scripts", "--silent"], cwd=name, check=True,
                           stdout=subprocess.DEVNULL)
            os.replace(Path(name, file), target)
    return target

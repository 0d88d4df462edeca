"""Files that are whole or absent: atomic writes, safe names, sha256 manifests, the data folder.

Knows nothing of what the files mean.
"""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from engine.base.errors import UserError

MANIFEST = "manifest.json"
RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}


def data_folder() -> Path:
    """The studio's data folder: PERSONA_STUDIO_HOME, else the user data folder of the platform. Made on demand."""
    folder = Path(os.environ.get("PERSONA_STUDIO_HOME") or platformdirs.user_data_dir("persona-studio", False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The data folder {folder} cannot be made ({error.strerror}).",
                        "Set PERSONA_STUDIO_HOME to a folder that you may write to.") from error
    return folder


def slug(name: str) -> str:
    """A file name from any text: lower-case ASCII letters, digits and single dashes, 1 to 60 characters."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")[:60].strip("-")
    if not text:
        text = "character-" + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{text}-1" if text in RESERVED else text


@contextmanager
def explain_write_errors(target: Path, then: str = "run the same command with --resume") -> Iterator[None]:
    """Turn a failed write (disk full, no permission, a vanished folder) into one sentence about `target`.

    `then`: what to do once there is space.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"The disk that holds {target} is full; nothing half-written was kept.",
                            f"Free some space and {then}.") from error
        raise UserError(f"Cannot write {target}: {error.strerror or error}.") from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one and never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, in UTF-8."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that we wrote ourselves. Raises UserError when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error


def is_file(name: Path | str) -> bool:
    """Whether a name that a user gave is a file's (also when it is too long or odd for a path)."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in pieces of 1 MiB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def megabytes(size: int) -> int:
    """Bytes as whole MB, at least one: what a step of a long job counts."""
    return max(1, round(size / 1e6))


def write_manifest(folder: Path) -> None:
    """Write manifest.json: size and sha256 of every other file below `folder`."""
    files = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    write_json(folder / MANIFEST, {"files": files})


def update_manifest(folder: Path, name: str) -> None:
    """Put one file of `folder`, as it is now, into its manifest; the others are not read again."""
    files = read_json(folder / MANIFEST)["files"]
    files[name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    write_json(folder / MANIFEST, {"files": files})


def check_manifest(folder: Path) -> list[str]:
    """What is wrong with a folder that has a manifest: one sentence a file; empty when it is whole."""
    faults = []
    try:
        entries = [(name, int(entry["bytes"]), entry["sha256"])
                   for name, entry in read_json(folder / MANIFEST)["files"].items()]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{folder / MANIFEST} is damaged: it is no list of files.") from error
    for name, size, digest in entries:
        file = folder / name
        if not file.is_file():
            faults.append(f"{name} is missing")
        elif file.stat().st_size != size:
            faults.append(f"{name} has {file.stat().st_size:,} bytes instead of {size:,}")
        elif sha256(file) != digest:
            faults.append(f"{name} was changed (its sha256 differs)")
    return faults


def require_space(folder: Path, needed: int) -> None:
    """Raise UserError when the disk of `folder` (or of its nearest existing parent) has less than `needed` bytes free."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(f"The disk that holds {folder} is too full: {free / 1e6:,.0f} MB free, "
                        f"about {needed / 1e6:,.0f} MB needed.", "Free some space or choose another folder.")


def remove_leftovers(target: Path) -> None:
    """Remove the hidden folders that killed processes left beside `target`; for when no other process makes it."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` that becomes `target` when the block ends well, and vanishes otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.partial-"))
    staging.chmod(0o755)
    try:
        yield staging
        for file in staging.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)  # temporary files are made for their owner alone
        os.rename(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise

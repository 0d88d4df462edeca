"""Files that are whole or absent: atomic writes, safe names, sha256 manifests, the data folder; and files of others, read
with limits."""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from engine.base.errors import UserError
from engine.base.ids import ErrorCode

PACKAGES = Path(__file__).resolve().parents[2]  # where `python -m engine` finds the engine
PROGRAM = "persona" if Path(sys.argv[0]).stem in ("persona", "persona-studio") else "python -m engine"  # as the user calls it
MANIFEST = "manifest.json"
RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}


def data_folder() -> Path:
    """The studio's data folder: PERSONA_STUDIO_HOME, else the user data folder of the platform. Made on demand, private."""
    folder = Path(os.environ.get("PERSONA_STUDIO_HOME") or platformdirs.user_data_dir("persona-studio", False))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The data folder {folder} cannot be created ({error.strerror}).",
                        "Set PERSONA_STUDIO_HOME to a folder that you may write to.") from error
    return folder


def resource(name: str) -> Path:
    """A file or folder that comes with Persona Studio, e.g. "characters" or "assets/icon.png".

    They lie at the top of the source tree; in an installed package in `engine/resources` (`force-include` in pyproject.toml).
    """
    installed = PACKAGES / "engine" / "resources" / name
    return installed if installed.exists() else PACKAGES / name


def slug(name: str) -> str:
    """A file name from any text: lower-case ASCII letters, digits and single dashes, 1 to 60 characters."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")[:60].strip("-")
    if not text:
        text = "character-" + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{text}-1" if text in RESERVED else text


@contextmanager
def explain_write_errors(target: Path, then: str = "") -> Iterator[None]:
    """Turn a failed write (disk full, no permission, a vanished folder) into a UserError about `target`.

    `then`: what to do once there is space; "": to resume the job.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"The disk that holds {target} is full; nothing half-written was kept.",
                            f"Free some space and {then or 'run the same command with --resume'}.",
                            ErrorCode.OTHER if then else ErrorCode.DISK_FULL) from error
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
        if path.exists() and not path.is_file():  # reading a pipe would never end
            raise OSError("it is not a file")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error


def named_path(name: str) -> Path:
    """The path that a user named. A ~ at its beginning is their home; what cannot be one, as ~nobody, stays as it is."""
    return Path(os.path.expanduser(name))  # Path.expanduser raises


def is_folder(name: Path | str) -> bool:
    """Whether a name that a user gave is a folder's."""
    return os.path.isdir(name)  # false for what cannot be a path, where Path raises


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


def check_manifest(folder: Path, contents: bool = True) -> list[str]:
    """What is wrong with a folder that has a manifest: one sentence a file; empty when it is whole.

    `contents`: read every file and compare its hash, not only its size.
    """
    faults = []
    try:
        entries = [(name, int(entry["bytes"]), entry["sha256"])
                   for name, entry in read_json(folder / MANIFEST)["files"].items()]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{folder / MANIFEST} is damaged: it is not a list of files.") from error
    for name, size, digest in entries:
        file = folder / name
        if not file.is_file():
            faults.append(f"{name} is missing")
        elif file.stat().st_size != size:
            faults.append(f"{name} has {file.stat().st_size:,} bytes instead of {size:,}")
        elif contents and sha256(file) != digest:
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
    try:
        yield staging
        _open_to_others(staging)
        os.rename(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def move_folder(folder: Path, target: Path) -> None:
    """Give a whole folder another name, on another disk if need be; `target` is never there in part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _open_to_others(folder)
    try:
        os.rename(folder, target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    with staged_folder(target) as staging:
        for file in sorted(folder.rglob("*")):
            copied = staging / file.relative_to(folder)
            copied.mkdir() if file.is_dir() else shutil.copyfile(file, copied)
    shutil.rmtree(folder)


def _open_to_others(folder: Path) -> None:
    """Temporary files are made for their owner alone; give a folder's files the permissions that the user wants."""
    hidden = os.umask(0o077)
    os.umask(hidden)
    for file in (folder, *folder.rglob("*")):
        file.chmod((0o777 if file.is_dir() else 0o666) & ~hidden)


LONGEST = 200  # bytes of a name: file systems take 255, and hidden names beside it are longer than it


def check_target(out: Path) -> None:
    """Raise UserError when `out` cannot become a new folder: a bad name, something is there, or its parent is unfit.

    A parent that is a link to a folder is followed.
    """
    if ".." in out.parts:
        raise UserError(f'The output folder {out} has ".." in its name.', "Choose a name without it.")
    if "\0" in str(out) or len(os.fsencode(out.name)) > LONGEST or not out.name:
        raise UserError(f"The output folder's name is empty, longer than {LONGEST} bytes or holds a NUL character.")
    if out.name.partition(".")[0].strip().casefold() in RESERVED or re.search(r'[\x00-\x1f<>:"|?*\\]|[. ]$', out.name):
        raise UserError(f"{out.name!r} cannot be a folder's name on every system.", "Use letters, digits and dashes.")
    with explain_write_errors(out):
        _check_place(out)


def _check_place(out: Path) -> None:
    if out.is_symlink() or out.exists():
        kind = "folder" if out.is_dir() else "file"
        raise UserError(f"The output {kind} {out} exists already.", "Choose another one, or remove it first.")
    parent = out.parent
    while not parent.exists():
        if parent.is_symlink():
            raise UserError(f"The output folder {out} cannot be created: {parent} is a broken link.",
                            "Choose another folder.")
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"The output folder {out} cannot be created: {parent} is a file.", "Choose another folder.")
    if not os.access(parent, os.W_OK):
        raise UserError(f"The output folder {out} cannot be created: {parent} is not writable.", "Choose another folder.")


def require_plain(path: Path, limit: int) -> None:
    """Raise UserError unless `path` (or what it links to) is a plain file of at most `limit` bytes."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', '') or error}).") from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is not a regular file, so it is not read.", "Download or copy it again.")
    if found.st_size > limit:
        raise UserError(f"{path} is larger than {limit:,} bytes, so it is not read.")


def read_untrusted_json(path: Path, limit: int) -> dict[str, Any]:
    """A JSON object from a plain file of at most `limit` bytes. Raises UserError for anything else."""
    require_plain(path, limit)
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: it is not valid JSON ({str(error)[:100]}).") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} cannot be read: it is not a JSON object.")
    return value

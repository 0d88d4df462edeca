"""Making the GGUF file of a model: the verb `gguf`. It imports torch, so `files.make_gguf` runs it in a process of its own."""

import time
from collections.abc import Callable, Generator
from pathlib import Path

from filelock import Timeout

from engine.base.errors import UserError
from engine.base.events import Event, Finished, Saved, Stage
from engine.base.files import check_target, explain_write_errors, require_space, write_json
from engine.base.ids import ArtifactId, ErrorCode, StageId
from engine.base.job import GgufJob
from engine.base.sizes import expected_bytes, odd_rows
from engine.base.weights import known_shapes
from engine.export.gguf_tensors import parse_types
from engine.export.gguf_writer import write_gguf
from engine.models.loading import locate
from engine.serving.files import REFUSED, SOURCE, cache_folder, gguf_file, lock_of, sweep
from engine.serving.gguf_header import read_header

_BESIDES = 20_000_000  # bytes of a file that are no weights: the tokenizer


def make(job: GgufJob) -> Generator[Event, None, None]:
    """Make the file that is asked for. Without a name for it, it is made once, where `gguf_file` finds it.

    Closing the generator leaves no file. Raises UserError.
    """
    start = time.perf_counter()
    types = parse_types([job.type]) if job.type else []
    out = Path(job.out) if job.out else None
    if job.imatrix and not out:
        raise UserError("With an importance matrix of your own, the file needs a name.", "Add --out FILE.")
    if out:
        check_target(out)
    folder = (yield from locate(job.model)).folder
    at_hand = None if types or out else gguf_file(str(folder))  # a known model comes with its own
    types = types or default_types(folder)
    if out:
        made, type = yield from _write(folder, types, lambda type: out, Path(job.imatrix) if job.imatrix else None)
    elif at_hand:
        made, type = at_hand, read_header(at_hand).type
    else:
        made, type = yield from _make_once(folder, types)
        sweep()
    yield Saved(ArtifactId.GGUF, str(made), made.stat().st_size, type)
    yield Finished(str(made), time.perf_counter() - start)


def default_types(folder: Path) -> list[str]:
    """The types to try where none is asked for, the best one first: F16 cannot hold the largest values of BF16."""
    return ["F16", "BF16"] if odd_rows(known_shapes(folder), "Q8_0") else ["Q8_0"]


def _make_once(folder: Path, types: list[str]) -> Generator[Event, None, tuple[Path, str]]:
    """The file of a model in the data folder and its type, made unless it is there or another process makes it."""
    cache = cache_folder(folder)
    assert cache  # the folder was checked, so it has weights
    with explain_write_errors(cache, "try again"):
        cache.mkdir(parents=True, exist_ok=True)
        lock = lock_of(cache)
        while not lock.is_locked:
            try:
                lock.acquire(timeout=1)
            except Timeout:
                yield Stage(StageId.GGUF_WRITE, subject=types[0])  # by another process
        try:
            for type in types:
                if file := gguf_file(str(folder), type):
                    return file, type
            write_json(cache / SOURCE, {"folder": str(folder)})
            return (yield from _write(folder, types, lambda type: cache / f"model-{type}.gguf"))
        except UserError as error:
            if error.code == ErrorCode.NO_GGUF:
                write_json(cache / REFUSED, {"sentence": error.sentence, "hint": error.hint})
            raise
        finally:
            lock.release()


def _write(folder: Path, types: list[str], file_of: Callable[[str], Path],
           matrix: Path | None = None) -> Generator[Event, None, tuple[Path, str]]:
    """Write the file of the first type that can hold the model; the file and the type."""
    for number, type in enumerate(types, 1):
        file = file_of(type)
        with explain_write_errors(file, "try again"):
            require_space(file.parent, expected_bytes(known_shapes(folder), type) + _BESIDES)
            try:
                yield from write_gguf(folder, file, type, matrix=matrix)
                return file, type
            except UserError as error:
                if error.code != ErrorCode.NO_GGUF or number == len(types):
                    raise
    raise AssertionError("no type")

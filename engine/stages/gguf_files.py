"""The last stage of a run: its model as GGUF files, with which llama.cpp speaks in the studio, and which an export takes over."""

import dataclasses
from collections.abc import Generator
from pathlib import Path

from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step, Stream, Warned
from engine.base.files import MANIFEST, megabytes, read_json, slug, update_manifest
from engine.base.ids import ErrorCode, StageId
from engine.base.sizes import expected_bytes, odd_rows
from engine.base.weights import known_shapes
from engine.export.folder import GGUF
from engine.export.gguf_writer import write_gguf

_SIXTEEN_BIT = ("F16", "BF16")  # F16 cannot hold the largest values of BF16


def write_files(folder: Path) -> Stream[None]:
    """Write gguf/NAME-TYPE.gguf into a run's folder, in 16 bit and, where its rows allow it, as Q8_0; counted in MB.

    Where llama.cpp cannot take the model, there is a warning instead.
    """
    shapes = known_shapes(folder)
    wanted = [_SIXTEEN_BIT] if odd_rows(shapes, "Q8_0") else [_SIXTEEN_BIT, ("Q8_0",)]
    total = sum(megabytes(expected_bytes(shapes, types[0])) for types in wanted)
    yield Stage(StageId.GGUF_FILES, total)
    done = 0
    for types in wanted:
        try:
            yield from _write(folder, types, done, total)
        except UserError as error:
            if error.code != ErrorCode.NO_GGUF:
                raise
            yield Warned(f"No GGUF files were written, so transformers speaks for this model: {error.sentence}")
            return
        done += megabytes(expected_bytes(shapes, types[0]))
        yield Step(StageId.GGUF_FILES, done, total)


def _write(folder: Path, types: tuple[str, ...], before: int, total: int) -> Generator[Event, None, None]:
    """Write the file of the first type that can hold the model, and put it into the manifest; unless it is there already."""
    stem = slug(read_json(folder / "report.json")["character"])
    names = {type: f"{GGUF}/{stem}-{type}.gguf" for type in types}
    if set(names.values()) & read_json(folder / MANIFEST)["files"].keys():
        return  # the process that wrote it was killed later
    for number, (type, name) in enumerate(names.items(), 1):
        try:
            for event in write_gguf(folder, folder / name, type):
                if isinstance(event, Step):
                    yield dataclasses.replace(event, stage=StageId.GGUF_FILES, done=min(before + event.done, total), total=total,
                                              subject="")
            update_manifest(folder, name)
            return
        except UserError as error:
            if error.code != ErrorCode.NO_GGUF or number == len(names):
                raise

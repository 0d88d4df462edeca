"""A model folder as one GGUF file, the format of llama.cpp and of what is built on it.

The file is written tensor by tensor under a hidden name, and renamed when it is
whole. What goes into it stands in gguf_tensors.py, gguf_metadata.py and
gguf_tokenizer.py; whether llama.cpp agrees with transformers, in gguf_proof.py.
"""

import time
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy

from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step, Warned
from engine.base.files import megabytes, read_json
from engine.export.gguf_metadata import add_origin, add_sizes
from engine.export.gguf_tensors import ARCHITECTURES, Weight, blocks, plan_weights
from engine.export.gguf_tokenizer import add_tokenizer
from engine.export.gguf_types import parse_types
from engine.models.loading import load_config, load_tokenizer, locate


@dataclass(frozen=True)
class GgufReport:
    """What was written: bytes of the file, how many tensors it has of each type, and what the user should know."""

    type: str
    bytes: int
    seconds: float
    tensors: dict[str, int]
    notes: list[str] = field(default_factory=list)


def write_gguf(folder: Path, out_file: Path, type: str) -> Generator[Event, None, GgufReport]:
    """Write the model in `folder` (any checked model folder) to `out_file`; the generator's value is the report.

    Yields a stage "write TYPE" and steps in MB. Needs the memory of one block of rows (64 MiB in fp32) and of the
    largest query projection beside the tokenizer. Raises UserError for a family, a tokenizer or a type that GGUF has no
    place for, and OSError when writing fails; then, or closed, it leaves no file behind.
    """
    start = time.perf_counter()
    [type] = parse_types([type])
    source = yield from locate(str(folder))
    if source.config["model_type"] not in ARCHITECTURES:
        raise UserError(f"Models of the kind {source.config['model_type']!r} cannot be written as GGUF.",
                        f"These can: {', '.join(sorted(ARCHITECTURES))}.")
    config, tokenizer = load_config(source), load_tokenizer(source)
    weights = plan_weights(source.folder, config, type)
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.model_type].kind])
    add_origin(writer, source.folder)
    notes = add_sizes(writer, config, type) + _fallbacks(weights, type)
    add_tokenizer(writer, tokenizer, _rows(weights), ends_of(source.folder, config))
    for note in notes:
        yield Warned(note)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    partial = out_file.with_name(f".{out_file.name}.partial")
    try:
        yield from _write(writer, partial, weights, f"write {type}")
        partial.replace(out_file)
    finally:
        partial.unlink(missing_ok=True)
    counts = Counter(weight.type.name for weight in weights)
    return GgufReport(type, out_file.stat().st_size, time.perf_counter() - start, dict(counts), notes)


def ends_of(folder: Path, config: Any) -> list[int]:
    """The tokens that end an answer, as generation_config.json, else config.json, has them."""
    told = config.eos_token_id
    with suppress(UserError, AttributeError):
        told = read_json(folder / "generation_config.json").get("eos_token_id", told)
    return [] if told is None else [int(one) for one in (told if isinstance(told, list) else [told])]


def _rows(weights: list[Weight]) -> int:
    return next(weight.shape[0] for weight in weights if weight.name == "token_embd.weight")


def _fallbacks(weights: list[Weight], type: str) -> list[str]:
    """A sentence for each type that stands in for another."""
    notes = []
    for kind in dict.fromkeys(weight.type for weight in weights if weight.fallback):
        kept = [weight for weight in weights if weight.fallback and weight.type == kind]
        sizes = ", ".join(f"{size:,}" for size in sorted({weight.shape[-1] for weight in kept}))
        multiple = 32 if kind.name == "F16" else 256
        notes.append(f"{len(kept)} of {len(weights)} tensors of the {type} file are in {kind.name}: the length of their rows "
                     f"({sizes}) is no multiple of {multiple}.")
    return notes


def _write(writer: gguf.GGUFWriter, file: Path, weights: list[Weight], stage: str) -> Generator[Event, None, None]:
    """Header, metadata and the table of tensors by the library, then the tensors in blocks, each on its boundary."""
    total = megabytes(sum(weight.bytes for weight in weights))
    yield Stage(stage, total)
    for weight in weights:
        writer.add_tensor_info(weight.name, weight.shape, numpy.dtype(numpy.float32), weight.bytes, weight.type)
    try:
        writer.write_header_to_file(file)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    done = 0
    with file.open("ab") as writing:
        for weight in weights:
            _pad(writing)
            for block in blocks(weight):
                writing.write(block.tobytes())
                done += block.nbytes
                yield Step(stage, min(megabytes(done), total), total)
        _pad(writing)


def _pad(file: Any) -> None:
    """Fill up with zeros to where a tensor may begin."""
    file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))


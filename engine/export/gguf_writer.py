"""GGUF files of a model folder, the format of llama.cpp and of what is built on it: gguf/NAME-TYPE.gguf, each verified.

A file is written tensor by tensor under a hidden name, and renamed when it is complete; an export writes into a folder that
is not visible yet, so that a file without its proof is never seen.
"""

import dataclasses
import hashlib
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy

from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step, Warned
from engine.base.files import is_file, megabytes, read_json, slug, write_json, write_manifest
from engine.base.ids import ErrorCode, StageId
from engine.base.sizes import FILE_TYPES
from engine.export.folder import GGUF
from engine.export.gguf_metadata import add_origin, add_sizes, add_tokenizer, ends_of
from engine.export.gguf_proof import prove_files
from engine.export.gguf_tensors import Weight, architecture_of, blocks, has_quantizer, parse_types, plan_weights
from engine.export.importance_matrix import MATRIX, Columns, read_matrix
from engine.models.loading import ModelSource, load_config, load_tokenizer, locate

_PIECE = 8 << 20  # bytes copied between two steps


@dataclass(frozen=True)
class GgufReport:
    """What was written: bytes of the file, how many tensors it has of each type, whether an importance matrix was used, and notes
    for the user."""

    type: str
    bytes: int
    seconds: float
    tensors: dict[str, int]
    importance_matrix: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Former:
    """A file of the same weights that was written earlier, as its manifest knows it."""

    file: Path
    sha256: str


def add_gguf(folder: Path, types: Sequence[str], former: Mapping[str, Former]) -> Generator[Event, None, None]:
    """Write and verify the files of an exported folder, most precise first, and record them in report and manifest.

    The weights of types in `former` are copied from there.
    """
    report = read_json(folder / "report.json")
    stem = slug(str(report.get("name") or report["character"]))
    files = {type: folder / GGUF / f"{stem}-{type}.gguf" for type in types}
    written = {}
    for type, file in files.items():
        written[type] = yield from write_gguf(folder, file, type, former.get(type))
    proofs = yield from prove_files(folder, files)
    report["gguf"] = {**report.get("gguf", {}), **{type: {"file": f"{GGUF}/{file.name}", **dataclasses.asdict(written[type]),
                             "proof": dataclasses.asdict(proofs[type])} for type, file in files.items()}}
    write_json(folder / "report.json", report)
    write_manifest(folder)


def write_gguf(folder: Path, out_file: Path, type: str, former: Former | None = None,
               matrix: Path | None = None) -> Generator[Event, None, GgufReport]:
    """Write the model in `folder` (any checked model folder) to `out_file`; the generator's value is the report.

    `matrix`: an importance matrix, for types below 8 bit; without it the folder's own, where it has one. Yields a stage and steps
    in MB. Needs memory for one block of rows (64 MiB in fp32), the largest query projection, and the tokenizer. Raises UserError
    (ErrorCode.NO_GGUF for a family or a tokenizer that llama.cpp does not support; also for a matrix of another model), and OSError
    when writing fails; then, or when closed, it leaves no file.
    """
    start = time.perf_counter()
    [type] = parse_types([type])
    source = yield from locate(str(folder))
    try:
        writer, weights, notes = _plan(source, type)
    except UserError as error:
        raise UserError(error.sentence, error.hint, ErrorCode.NO_GGUF) from error
    columns = _columns(folder, weights, type, matrix)
    if not columns and FILE_TYPES[type].takes_matrix and is_file(folder / "report.json"):
        why = "an earlier version wrote the folder" if has_quantizer() else "this system's xllamacpp does not offer the quantizer"
        notes.append(f"The {type} file was made without an importance matrix, since {why}: with one it would come closer at the "
                     "same size.")
    for note in notes:
        yield Warned(note)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    partial = out_file.with_name(f".{out_file.name}.partial")
    try:
        yield from _write(writer, partial, weights, type, columns, former)
        partial.replace(out_file)
    finally:
        partial.unlink(missing_ok=True)
    counts = Counter(weight.type.name for weight in weights)
    return GgufReport(type, out_file.stat().st_size, time.perf_counter() - start, dict(counts), bool(columns), notes)


def _columns(folder: Path, weights: list[Weight], type: str, matrix: Path | None) -> Columns:
    """The importance of each weight's columns; nothing where the type takes no matrix, or there is none."""
    own = folder / MATRIX
    if not FILE_TYPES[type].takes_matrix or not has_quantizer():
        return {}
    if matrix is None and not is_file(own):
        if FILE_TYPES[type].needs_matrix:
            raise UserError(f"The type {type} needs an importance matrix, and {folder} has none.",
                            "Prune the character again, or choose another type.")
        return {}
    return read_matrix(matrix or own, weights)


def _plan(source: ModelSource, type: str) -> tuple[gguf.GGUFWriter, list[Weight], list[str]]:
    """A writer with all metadata, the tensors to write, and notes. Raises UserError for what GGUF or llama.cpp does not support."""
    rules = architecture_of(source.config["model_type"])
    config, tokenizer = load_config(source), load_tokenizer(source)
    if not is_file(source.folder / "report.json"):  # an export's template has the day of its job, any other must not keep today's
        tokenizer.chat_template = tokenizer.own_template
    weights = plan_weights(source.folder, config, type)
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[rules.architecture]])
    add_origin(writer, source.folder)
    notes = add_sizes(writer, config, type) + _fallbacks(weights, type)
    rows = next(weight.shape[0] for weight in weights if weight.name == "token_embd.weight")
    add_tokenizer(writer, tokenizer, rows, ends_of(source.folder, config))
    return writer, weights, notes


def _fallbacks(weights: list[Weight], type: str) -> list[str]:
    """A sentence for each format that is used instead of another."""
    notes = []
    for used in dict.fromkeys(weight.type for weight in weights if weight.fallback):
        kept = [weight for weight in weights if weight.fallback and weight.type == used]
        sizes = ", ".join(f"{size:,}" for size in sorted({weight.shape[-1] for weight in kept}))
        multiple = 32 if used.name == "F16" else 256
        notes.append(f"{len(kept)} of {len(weights)} tensors of the {type} file are in {used.name}: the length of their rows "
                     f"({sizes}) is not a multiple of {multiple}.")
    return notes


def _write(writer: gguf.GGUFWriter, file: Path, weights: list[Weight], type: str, columns: Columns,
           former: Former | None) -> Generator[Event, None, None]:
    """Header, metadata and the table of tensors by the library, then the tensors, each aligned."""
    total = megabytes(sum(weight.bytes for weight in weights))
    yield Stage(StageId.GGUF_WRITE, total, subject=type)
    for weight in weights:
        writer.add_tensor_info(weight.name, weight.shape, numpy.dtype(numpy.float32), weight.bytes, weight.type)
    done = 0
    try:
        writer.write_header_to_file(file)
        writer.write_kv_data_to_file()
        assert writer.fout
        [out] = writer.fout
        start = out.tell()
        writer.write_ti_data_to_file()
        writer.write_padding(out, out.tell())
        out.flush()
        with file.open("rb") as written:
            written.seek(start)
            table = written.read()
        for piece in _taken_over(former, table, weights) if former else _converted(weights, columns):
            out.write(piece)
            done += len(piece)
            yield Step(StageId.GGUF_WRITE, min(megabytes(done), total), total, subject=type)
    finally:
        writer.close()


def _converted(weights: list[Weight], columns: Columns) -> Iterator[bytes]:
    """The data of all tensors, in blocks, each tensor aligned."""
    for weight in weights:
        for block in blocks(weight, columns.get(weight.name)):
            yield block.tobytes()
        yield bytes(_padded(weight.bytes) - weight.bytes)


def _padded(size: int) -> int:
    return gguf.GGUFWriter.ggml_pad(size, gguf.GGUF_DEFAULT_ALIGNMENT)


def _taken_over(former: Former, table: bytes, weights: list[Weight]) -> Iterator[bytes]:
    """The data of all tensors, copied from a file that has the same ones, else converted. Raises UserError for a damaged file."""
    begin = former.file.stat().st_size - sum(_padded(weight.bytes) for weight in weights)
    digest = hashlib.sha256()
    with former.file.open("rb") as file:
        head = file.read(max(begin, 0))
        # Zeros at the end are padding, and their number depends on what the header says before.
        if begin <= 0 or not head.rstrip(b"\0").endswith(table.rstrip(b"\0")):
            yield from _converted(weights, {})  # only files of 16 and 8 bit are taken over
            return
        digest.update(head)
        while piece := file.read(_PIECE):
            digest.update(piece)
            yield piece
    if digest.hexdigest() != former.sha256:
        raise UserError(f"{former.file} was changed since it was made.", "Prune the character again.")

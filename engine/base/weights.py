"""The safetensors files of a model folder, and what their headers say. Reads no weight."""

import json
import math
import struct
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import require_plain
from engine.base.sizes import count

WEIGHTS = "model.safetensors"
Shape = tuple[int, ...]
_HEADER_LIMIT = 50_000_000  # bytes; the header of a very large model's shard has under one MB
_LARGEST = 1 << 46  # bytes of a file, 64 TiB
_DIMENSIONS = 8
_ITEM_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
               "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1}
AGAIN = "Download or copy the model again."


def read_shapes(file: Path) -> dict[str, Shape]:
    """The shapes of a safetensors file's tensors. Raises UserError unless its header is sound and its length as it says."""
    require_plain(file, _LARGEST)
    length, tensors = _read_header(file)
    try:
        expected = 8 + length + max((_end_of(entry) for entry in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{file} is damaged: its header is inconsistent.", AGAIN) from error
    if (size := file.stat().st_size) != expected:
        raise UserError(f"{file} is incomplete: it has {size:,} bytes instead of {expected:,}.", AGAIN)
    return {name: tuple(entry["shape"]) for name, entry in tensors.items()}


def weight_files(folder: Path) -> list[Path]:
    """The one file of a model's weights, or its shards in order; empty where there are none."""
    return [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else sorted(folder.glob("model-*.safetensors"))


def shapes_of(folder: Path) -> dict[str, Shape]:
    """The shapes of all tensors of a model folder; empty where it has no weights. Raises UserError."""
    return {name: shape for file in weight_files(folder) for name, shape in read_shapes(file).items()}


def known_shapes(folder: Path) -> dict[str, Shape]:
    """As `shapes_of`; {} where the files cannot be read."""
    try:
        return shapes_of(folder)
    except UserError:
        return {}


def count_parameters(folder: Path) -> int:
    """Parameters of a folder's safetensors files, by their headers; 0 where there are none. Raises UserError."""
    return count(shapes_of(folder).values())


def _read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """A safetensors file's header: its length in bytes, and the entries of its tensors. Raises UserError."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, _HEADER_LIMIT):
            raise UserError(f"{file} is truncated or not a safetensors file.", AGAIN)
        header = stream.read(length)
    try:
        tensors = json.loads(header)
        return length, {name: tensors[name] for name in tensors if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: its header cannot be read.", AGAIN) from error


def _end_of(entry: dict[str, Any]) -> int:
    """Where a tensor's data end, from its header entry. Raises ValueError when the entry contradicts itself."""
    begin, end = entry["data_offsets"]
    item, shape = _ITEM_BYTES.get(entry["dtype"]), entry["shape"]
    if not (type(begin) is int and type(end) is int and 0 <= begin <= end <= _LARGEST):
        raise ValueError("offsets")
    if not (isinstance(shape, list) and len(shape) <= _DIMENSIONS
            and all(type(side) is int and 0 <= side <= _LARGEST for side in shape)):
        raise ValueError("shape")
    if item is not None and math.prod(shape) * item != end - begin:
        raise ValueError("shape")
    return end

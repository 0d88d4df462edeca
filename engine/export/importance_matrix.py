"""llama.cpp's importance matrix: for each linear weight the mean square of every input column, over a character's own lines.

Quantising to fewer than 8 bit, llama.cpp weighs the errors of a column by it: what the character's lines hardly use may be
rounded more. It is kept in llama.cpp's own format (GGUF with `general.type` imatrix; tensors NAME.in_sum2, the sum of squares,
and NAME.counts, how many tokens it is of), which llama-quantize reads:
https://github.com/ggml-org/llama.cpp/tree/master/tools/imatrix. As there, the matrix that makes the logits has no entry.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from gguf import MODEL_ARCH
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.base.errors import UserError
from engine.base.files import is_file
from engine.export.gguf_tensors import Weight, architecture_of
from engine.models.ffn import decoder
from engine.models.packing import Row, run_row

MATRIX = "persona/imatrix.gguf"  # in an exported folder
LARGEST = 256_000_000  # bytes of a file that is read
_SUM, _COUNT = ".in_sum2", ".counts"
ROWS = 8  # packed rows that a matrix is made from, at most
_FLOOR = 1e-6  # of a weight's mean: a column that no token used still holds weights

Columns = Mapping[str, NDArray[numpy.float32]]  # by the names of GGUF's tensors: (columns,), mean squares of the input


class ColumnSums:
    """The sums of squares of a model's linear layers while tokens go through it."""

    def __init__(self, config: Any) -> None:
        """`config`: transformers' own, of the model. Raises UserError for a family that llama.cpp does not support."""
        self._kind = MODEL_ARCH[architecture_of(config.model_type).architecture]
        self._names = gguf.get_tensor_name_map(self._kind, config.num_hidden_layers)
        self.squares: dict[str, Tensor] = {}
        self.tokens = 0

    def read(self, model: nn.Module, rows: Sequence[Row]) -> Iterator[int]:
        """Let the model read packed rows, all tokens; yields the number of each row that was read, from 1."""
        handles = [layer.register_forward_pre_hook(self._adder(found, layer.in_features))
                   for name, layer in decoder(model).layers.named_modules() if isinstance(layer, nn.Linear)
                   if (found := self._names.get_name(f"model.layers.{name}.weight", try_suffixes=(".weight",)))]
        try:
            for number, row in enumerate(rows, 1):
                with torch.inference_mode():
                    run_row(model, row)
                self.tokens += row.size
                yield number
        finally:
            for handle in handles:
                handle.remove()

    def columns(self) -> Columns:
        """The means so far."""
        return {name: _floored((sums / self.tokens).float().numpy()) for name, sums in self.squares.items()}

    def write(self, file: Path, origin: str) -> None:
        """Write llama.cpp's file. `origin`: what was read."""
        writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[self._kind])
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", [origin])
        writer.add_uint32("imatrix.chunk_count", 1)
        writer.add_uint32("imatrix.chunk_size", self.tokens)
        for name, sums in self.squares.items():
            writer.add_tensor(name + _SUM, sums.float().numpy()[None])
            writer.add_tensor(name + _COUNT, numpy.full((1, 1), self.tokens, numpy.float32))
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            writer.write_header_to_file(file)
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    def _adder(self, name: str, columns: int) -> Any:
        self.squares.setdefault(name, torch.zeros(columns, dtype=torch.float64))

        def add(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.squares[name] += inputs[0].flatten(0, -2).float().square().sum(0).double().cpu()

        return add


def some_of(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows that a matrix is made from, evenly from all."""
    return rows[::-(-len(rows) // ROWS)]


def read_matrix(file: Path, weights: Sequence[Weight]) -> Columns:
    """A matrix of llama.cpp's format, for the weights of a file to write.

    Raises UserError for a file that is none, and for the matrix of another model.
    """
    if not is_file(file):
        raise UserError(f"There is no file {file}.")
    if file.stat().st_size > LARGEST:
        raise UserError(f"{file} is larger than any importance matrix.", "Give one in llama.cpp's GGUF format.")
    try:
        found = _parsed(file)
    except (AttributeError, IndexError, KeyError, MemoryError, OSError, OverflowError, TypeError, UnicodeDecodeError, ValueError,
            struct.error) as error:
        raise UserError(f"{file} is not an importance matrix in llama.cpp's GGUF format, or it is damaged.",
                        "Prune the character again, or write it with llama-imatrix.") from error
    wanted = {weight.name: weight.shape[-1] for weight in weights if len(weight.shape) > 1 and weight.name.startswith("blk.")}
    for name, columns in wanted.items():
        if name not in found or len(found[name]) != columns:
            has = f"{len(found[name]):,}" if name in found else "none"
            raise UserError(f"{file} is the importance matrix of another model: {name} has {columns:,} columns here, and {has} "
                            "there.")
    return found


def _parsed(file: Path) -> dict[str, NDArray[numpy.float32]]:
    reader = gguf.GGUFReader(file)
    if reader.fields["general.type"].contents() != "imatrix":
        raise ValueError("no matrix")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    found = {}
    for name, sums in tensors.items():
        if not name.endswith(_SUM):
            continue
        means = numpy.array(sums, numpy.float32).reshape(-1) / float(tensors[name.removesuffix(_SUM) + _COUNT].reshape(-1)[0])
        if not numpy.isfinite(means).all() or (means < 0).any():
            raise ValueError("no squares")
        found[name.removesuffix(_SUM)] = _floored(means)
    return found


def _floored(means: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
    """With no column at zero."""
    return numpy.ascontiguousarray(numpy.maximum(means, float(means.mean()) * _FLOOR or 1.0), numpy.float32)

"""What each weight of a model becomes in a GGUF file: its name, the order of its rows, its number format, its bytes.

Reads safetensors a tensor at a time, and large ones in blocks of rows. engine/base/sizes.py says which format a tensor
gets. The gguf package converts to the plain formats; K and IQ formats, and all that an importance matrix helps, are made by
llama.cpp's own quantizer, a plain C function in the package xllamacpp (ggml_quantize_chunk of ggml.h). Builds that hide it write
no K and IQ formats, and use no matrix.
"""

import ctypes
import functools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from gguf import GGML_QUANT_SIZES, MODEL_ARCH, GGMLQuantizationType
from gguf.quants import quant_shape_to_byte_shape, quantize
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from engine.base.errors import UserError
from engine.base.families import FAMILIES, Gguf
from engine.base.ids import ErrorCode
from engine.base.sizes import FILE_TYPES, WRITTEN, FileType, format_of
from engine.base.weights import weight_files

_BLOCK = 1 << 24  # elements that are converted at once: 64 MiB in fp32
_SHARE = 1 << 18  # elements that a thread quantises at once


def architecture_of(model_type: str) -> Gguf:
    """How llama.cpp implements a family, by its model_type. Raises UserError for one that GGUF export does not support."""
    if (found := FAMILIES[model_type].gguf) is None:
        supported = sorted(name for name, family in FAMILIES.items() if family.gguf)
        raise UserError(f"Models of the family {model_type!r} cannot be written as GGUF.", f"These can: {', '.join(supported)}.")
    return found


def parse_types(names: Sequence[str]) -> list[str]:
    """The file types by their own names, each once, most precise first. Raises UserError for one that cannot be written here."""
    found = sorted({name.strip().upper() for name in names}, key=lambda name: WRITTEN.index(name) if name in WRITTEN else -1)
    for name in found:
        if name not in WRITTEN:
            raise UserError(f"There is no GGUF type {name[:40]!r}.", f"Choose one of: {', '.join(WRITTEN)}.")
        if _needs_quantizer(name) and _quantizer() is None:
            raise UserError(f"The type {name} needs llama.cpp's quantizer, which this system's xllamacpp does not offer.",
                            f"Choose one of: {', '.join(one for one in WRITTEN if not _needs_quantizer(one))}.")
    return found


def _needs_quantizer(name: str) -> bool:
    """Whether the gguf package cannot make a format."""
    return "K" in name or name.startswith("IQ")


def gguf_type(format: FileType) -> GGMLQuantizationType:
    """A format as the gguf package names it."""
    return GGMLQuantizationType[format.name.removesuffix("_M")]


@dataclass(frozen=True)
class Weight:
    """One tensor of the file to write. `source` is its name in safetensors ("" for one that is computed)."""

    name: str
    source: str
    file: Path
    shape: tuple[int, ...]  # rows first, as in torch
    format: FileType
    heads: int = 0  # of a projection whose rows must be interleaved
    shift: float = 0.0
    computed: Tensor | None = None
    fallback: bool = False  # its rows do not fill whole blocks of the format it should have

    @property
    def type(self) -> GGMLQuantizationType:
        """The format as the gguf package names it."""
        return gguf_type(self.format)

    @property
    def bytes(self) -> int:
        """Bytes in the file, without padding."""
        return math.prod(self.shape) // self.format.block * self.format.block_bytes


def plan_weights(folder: Path, config: Any, type: str) -> list[Weight]:
    """All tensors of the file, in order. `config`: transformers' own. Raises UserError for a tensor GGUF has no name for."""
    architecture = architecture_of(config.model_type)
    names = gguf.get_tensor_name_map(MODEL_ARCH[architecture.architecture], config.num_hidden_layers)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    weights = []
    for source, file, shape in _sources(folder):
        if source == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UserError(f"GGUF has no name for the weights {source} of a {config.model_type} model.")
        heads = 0
        if architecture.interleaved and ".q_proj." in source:
            heads = config.num_attention_heads
        elif architecture.interleaved and ".k_proj." in source:
            heads = config.num_key_value_heads
        shift = 1.0 if architecture.shifted and source.endswith("norm.weight") else 0.0
        wanted, used = format_of(source, shape, type, head, config.num_hidden_layers)
        weights.append(Weight(name, source, file, shape, used, heads, shift, fallback=used != wanted))
    weights.sort(key=lambda weight: (int(weight.name.split(".")[1]) if weight.name.startswith("blk.") else -1, weight.name))
    if (factors := rope_factors(config)) is not None:
        weights.insert(0, Weight("rope_freqs.weight", "", folder, tuple(factors.shape), FILE_TYPES["F32"], computed=factors))
    return weights


def _sources(folder: Path) -> Iterator[tuple[str, Path, tuple[int, ...]]]:
    for file in weight_files(folder):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dictionary
                yield name, file, tuple(tensors.get_slice(name).get_shape())


def head_size(config: Any) -> int:
    """Channels of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def rope_factors(config: Any) -> Tensor | None:
    """Llama 3's divisors of the rotary frequencies (head_dim / 2), as transformers computes them; None for other models."""
    rope = config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    size = head_size(config)
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size)
    return plain / scaled


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows (heads * size, ...) of a query or key projection for llama.cpp's rotary embedding.

    Within a head transformers rotates channel i with i + size / 2, llama.cpp (and the first Llama) 2 i with 2 i + 1.
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def deinterleave(rows: Tensor, heads: int) -> Tensor:
    """What `interleave` was given."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def blocks(weight: Weight, columns: NDArray[Any] | None = None) -> Iterator[NDArray[Any]]:
    """The tensor's data in its format, in blocks of rows. Raises UserError where a value is too large for F16.

    `columns`: the importance of each column, in fp32; None for a tensor that no importance matrix has.
    """
    if weight.computed is not None:
        yield weight.computed.float().numpy()
        return
    with safe_open(weight.file, "pt") as tensors:
        if weight.heads or len(weight.shape) < 2:
            whole = tensors.get_tensor(weight.source).float()
            yield _converted(interleave(whole, weight.heads) if weight.heads else whole + weight.shift, weight, columns)
            return
        part = tensors.get_slice(weight.source)
        step = max(1, _BLOCK // weight.shape[-1])
        for start in range(0, weight.shape[0], step):
            yield _converted(part[start:start + step].float(), weight, columns)


def _converted(rows: Tensor, weight: Weight, columns: NDArray[Any] | None) -> NDArray[Any]:
    values: NDArray[numpy.float32] = rows.contiguous().numpy()
    data = quantized(values, weight.type, columns)
    if weight.type == GGMLQuantizationType.F16 and not numpy.isfinite(data).all():
        raise UserError(f"Some values of {weight.source} are too large for F16.", "Write BF16 or F32.", ErrorCode.NO_GGUF)
    return data


def quantized(values: NDArray[numpy.float32], type: GGMLQuantizationType, columns: NDArray[Any] | None = None) -> NDArray[Any]:
    """Rows of weights (rows, columns) in a format; with the importance of each column (fp32), errors in these count for more."""
    uses_matrix = columns is not None and takes_matrix(type)
    if not uses_matrix and not _needs_quantizer(type.name):
        with numpy.errstate(over="ignore"):
            return quantize(values, type)
    out = numpy.empty(quant_shape_to_byte_shape(values.shape, type), numpy.uint8)
    importance = columns.ctypes.data if columns is not None and uses_matrix else None

    def work(start: int) -> None:  # ctypes lets other threads run meanwhile
        part = slice(start, start + step)
        _quantizer()(int(type), values[part].ctypes.data, out[part].ctypes.data, 0, len(values[part]), values.shape[1], importance)

    step = max(1, _SHARE // values.shape[1])
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(work, range(0, len(values), step)))
    return out


def takes_matrix(type: GGMLQuantizationType) -> bool:
    """Whether an importance matrix changes what is made of weights in a format, here."""
    block, size = GGML_QUANT_SIZES[type]
    return size < block and has_quantizer()


def has_quantizer() -> bool:
    """Whether llama.cpp's own quantizer can be used here."""
    return _quantizer() is not None


@functools.cache
def _quantizer() -> Any:
    """size_t ggml_quantize_chunk(type, src, dst, start, nrows, n_per_row, imatrix), or None."""
    from xllamacpp import xllamacpp

    try:
        function = ctypes.CDLL(xllamacpp.__file__).ggml_quantize_chunk
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
                         ctypes.c_void_p]
    return function

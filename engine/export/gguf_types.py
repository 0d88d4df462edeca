"""The number formats of GGUF files: which tensor gets which, and how values become bytes.

The plain types are made by the gguf package. The K types are made by llama.cpp's own quantizer, a plain C function within
the package xllamacpp (ggml_quantize_chunk of ggml.h); systems on which that library hides it write no K types.
"""

import ctypes
import functools
import importlib.util
import math
from typing import Any

import gguf
import numpy
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quant_shape_to_byte_shape, quantize
from numpy.typing import NDArray

from engine.base.errors import UserError

# Types of files, most precise first: about how many bits a weight takes, scales included.
BITS = {"F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q4_1": 5.2, "Q4_K_M": 4.9, "Q4_0": 4.8}
TYPES = tuple(BITS)
_BASE = {"Q6_K": Kind.Q6_K, "Q5_K_M": Kind.Q5_K, "Q4_K_M": Kind.Q4_K}
# What llama.cpp itself takes instead where rows do not fill whole blocks of 256.
_INSTEAD = {Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0}


def parse_types(names: list[str]) -> list[str]:
    """The types as they are written, each once, most precise first. Raises UserError for one that cannot be written here."""
    found = sorted({name.strip().upper() for name in names}, key=lambda name: TYPES.index(name) if name in TYPES else -1)
    for name in found:
        if name not in TYPES:
            raise UserError(f"There is no GGUF type {name[:40]!r}.", f"Choose of: {', '.join(TYPES)}.")
        if name in _BASE and _quantizer() is None:
            raise UserError(f"The type {name} is made by llama.cpp's quantizer, which this system's xllamacpp does not offer.",
                            f"Choose of: {', '.join(one for one in TYPES if one not in _BASE)}.")
    return found


def type_of(name: str, shape: tuple[int, ...], wanted: str, makes_logits: bool, layers: int) -> tuple[Kind, bool]:
    """The type of one tensor of a file of type `wanted`, and whether its rows forced another than it should have.

    Vectors stay in F32. What makes the logits errs most in few bits, so that it gets 8 (6 in K types) where the rest has 4.
    In Q4_K_M and Q5_K_M, as llama.cpp mixes them, attn_v and ffn_down have 6 bits in half of the `layers`.
    """
    if len(shape) < 2:
        return Kind.F32, False
    kind = _BASE.get(wanted) or Kind[wanted]
    if wanted.endswith("_M") and (makes_logits or (_is_delicate(name) and _has_more_bits(int(name.split(".")[1]), layers))):
        kind = Kind.Q6_K
    elif wanted.startswith("Q4") and makes_logits:
        kind = Kind.Q8_0
    fitting = kind
    if shape[-1] % gguf.GGML_QUANT_SIZES[fitting][0]:
        fitting = _INSTEAD.get(kind, Kind.F16)
    if shape[-1] % gguf.GGML_QUANT_SIZES[fitting][0]:
        fitting = Kind.F16
    return fitting, fitting != kind


def _is_delicate(name: str) -> bool:
    return name.endswith((".attn_v.weight", ".ffn_down.weight"))


def _has_more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between: the rule of llama.cpp's llama-quant.cpp."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def size_of(shape: tuple[int, ...], kind: Kind) -> int:
    """Bytes of a tensor in a file, without padding."""
    if kind in (Kind.F32, Kind.F16):
        return math.prod(shape) * (4 if kind == Kind.F32 else 2)
    return math.prod(quant_shape_to_byte_shape(shape, kind))


def convert(values: NDArray[numpy.float32], kind: Kind) -> NDArray[Any]:
    """Rows of fp32 values as the bytes of a type. Raises ValueError where a value is too large for F16."""
    if kind in _INSTEAD:
        quantizer = _quantizer()
        assert quantizer
        out = numpy.empty(quant_shape_to_byte_shape(values.shape, kind), numpy.uint8)
        quantizer(int(kind), values.ctypes.data, out.ctypes.data, 0, values.shape[0], values.shape[1], None)
        return out
    with numpy.errstate(over="ignore"):
        data = quantize(values, kind)
    if kind == Kind.F16 and not numpy.isfinite(data).all():
        raise ValueError("too large for F16")
    return data


@functools.cache
def _quantizer() -> Any:
    """size_t ggml_quantize_chunk(type, src, dst, start, nrows, n_per_row, imatrix), or None."""
    if importlib.util.find_spec("xllamacpp") is None:
        return None
    from xllamacpp import xllamacpp

    try:
        function = ctypes.CDLL(xllamacpp.__file__).ggml_quantize_chunk
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
                         ctypes.c_void_p]
    return function

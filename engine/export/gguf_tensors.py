"""What each weight of a model becomes in a GGUF file: its name, the order of its rows, its number format.

Reads safetensors one tensor at a time, and large ones in blocks of rows. Knows
no file format but those two, and no tokenizer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType
from safetensors import safe_open
from torch import Tensor

from engine.base.errors import UserError
from engine.export.gguf_types import convert, size_of, type_of

_BLOCK = 1 << 24  # elements that are converted at once: 64 MiB in fp32


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp knows a family. `interleaved`: its rotary embedding turns neighbouring channels, not halves of a head.

    `shifted`: the norms of transformers multiply by 1 + weight, those of llama.cpp by the weight.
    """

    kind: MODEL_ARCH
    interleaved: bool = False
    shifted: bool = False
    activation: str = "silu"


_GELU = "gelu_pytorch_tanh"
ARCHITECTURES = {
    "llama": Architecture(MODEL_ARCH.LLAMA, interleaved=True),
    "mistral": Architecture(MODEL_ARCH.LLAMA, interleaved=True),
    "qwen2": Architecture(MODEL_ARCH.QWEN2),
    "qwen3": Architecture(MODEL_ARCH.QWEN3),
    "smollm3": Architecture(MODEL_ARCH.SMOLLM3, interleaved=True),
    "gemma2": Architecture(MODEL_ARCH.GEMMA2, shifted=True, activation=_GELU),
    "gemma3_text": Architecture(MODEL_ARCH.GEMMA3, shifted=True, activation=_GELU),
}


@dataclass(frozen=True)
class Weight:
    """One tensor of the file to write. `source` is its name in safetensors ("" for one that is computed)."""

    name: str
    source: str
    file: Path
    shape: tuple[int, ...]  # rows first, as in torch
    type: GGMLQuantizationType
    heads: int = 0  # of a projection whose rows are put in llama.cpp's order
    shift: float = 0.0
    computed: Tensor | None = None
    fallback: bool = False  # its rows do not fill whole blocks of the type that was asked for

    @property
    def bytes(self) -> int:
        """Bytes in the file, without padding."""
        return size_of(self.shape, self.type)


def plan_weights(folder: Path, config: Any, type: str) -> list[Weight]:
    """All tensors of the file, in order. `config`: transformers' own. Raises UserError for a tensor without a place."""
    architecture = ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(architecture.kind, config.num_hidden_layers)
    weights = []
    for source, file, shape in _sources(folder):
        if source == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UserError(f"The weights {source} have no place in a GGUF file of a {config.model_type} model.")
        heads = 0
        if architecture.interleaved and ".q_proj." in source:
            heads = config.num_attention_heads
        elif architecture.interleaved and ".k_proj." in source:
            heads = config.num_key_value_heads
        shift = 1.0 if architecture.shifted and source.endswith("norm.weight") else 0.0
        makes_logits = name == ("token_embd.weight" if config.tie_word_embeddings else "output.weight")
        kept, fallback = type_of(name, shape, type, makes_logits, config.num_hidden_layers)
        weights.append(Weight(name, source, file, shape, kept, heads, shift, fallback=fallback))
    weights.sort(key=lambda weight: (_layer(weight.name), weight.name))
    if (factors := rope_factors(config)) is not None:
        weights.insert(0, Weight("rope_freqs.weight", "", folder, tuple(factors.shape), GGMLQuantizationType.F32, computed=factors))
    return weights


def _sources(folder: Path) -> Iterator[tuple[str, Path, tuple[int, ...]]]:
    """Name, file and shape of every tensor in a model folder."""
    whole = folder / "model.safetensors"
    for file in [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dictionary
                yield name, file, tuple(tensors.get_slice(name).get_shape())


def _layer(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1


def head_size(config: Any) -> int:
    """Channels of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def rope_factors(config: Any) -> Tensor | None:
    """Llama 3's divisors of the rotary frequencies (head_dim / 2), as transformers computes them; None for others."""
    told = config.rope_parameters
    if told.get("rope_type") != "llama3":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    size = head_size(config)
    plain = 1.0 / told["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size)
    return plain / scaled


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Put the rows (heads * size, ...) of a query or key projection in the order of llama.cpp's rotary embedding.

    Within a head transformers turns channel i with i + size / 2, llama.cpp (and the first Llama) 2 i with 2 i + 1.
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def blocks(weight: Weight) -> Iterator[numpy.ndarray]:
    """The tensor's data in its type, in blocks of rows. Raises UserError where a value is too large for F16."""
    if weight.computed is not None:
        yield weight.computed.float().numpy()
        return
    with safe_open(weight.file, "pt") as tensors:
        if weight.heads or len(weight.shape) < 2:
            whole = tensors.get_tensor(weight.source).float()
            whole = interleave(whole, weight.heads) if weight.heads else whole + weight.shift
            yield _converted(whole, weight)
            return
        part = tensors.get_slice(weight.source)
        step = max(1, _BLOCK // weight.shape[-1])
        for start in range(0, weight.shape[0], step):
            yield _converted(part[start:start + step].float(), weight)


def _converted(values: Tensor, weight: Weight) -> numpy.ndarray:
    try:
        return convert(values.contiguous().numpy(), weight.type)
    except ValueError as error:
        raise UserError(f"Some values of {weight.source} are too large for 16-bit floats of the kind F16.",
                        "Write BF16 or F32.") from error

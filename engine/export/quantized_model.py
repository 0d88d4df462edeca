"""A torch model whose weights are what a GGUF file holds of them: its loss is measured as every other reading.

Each tensor is quantised with the code that writes the files, and dequantised by the gguf package, or read from a file that is
there; llama.cpp's own arithmetic (which also rounds activations, to 8 bit) is not in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import MODEL_ARCH
from torch import Tensor

from engine.base.errors import UserError
from engine.base.sizes import format_of
from engine.export.gguf_tensors import architecture_of, deinterleave, gguf_type, quantized
from engine.export.importance_matrix import Columns


@contextmanager
def as_quantized(model: Any, type: str, columns: Columns) -> Iterator[None]:
    """While the block runs, the weights are those of a file of a type, made with the importance of `columns` (may be empty).

    The former weights are kept beside them. Raises UserError for a family that GGUF export does not support.
    """
    with _replaced(model, lambda name, weights: _rounded(model.config, name, weights, type, columns)):
        yield


@contextmanager
def as_in_file(model: Any, file: Path) -> Iterator[None]:
    """While the block runs, the weights are those of a GGUF file of the model. Raises UserError for one of another model."""
    held = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    rules = architecture_of(model.config.model_type)

    def read(name: str, weights: Tensor) -> Tensor:
        tensor = held.get(_name_of(model.config, name))
        if tensor is None:
            raise UserError(f"{file} is the file of another model.")
        values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).reshape(weights.shape)
        heads = {".q_proj.": model.config.num_attention_heads, ".k_proj.": model.config.num_key_value_heads}
        found = next((count for part, count in heads.items() if part in name), 0)
        if rules.interleaved and found:
            values = deinterleave(values, found)
        if rules.shifted and name.endswith("norm.weight"):
            values = values - 1.0
        return values.to(weights.device, weights.dtype)

    with _replaced(model, read):
        yield


@contextmanager
def _replaced(model: Any, new: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    former = {name: parameter.data for name, parameter in model.named_parameters()}
    try:
        for name, parameter in model.named_parameters():
            parameter.data = new(name, former[name])
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.data = former[name]


def _rounded(config: Any, name: str, weights: Tensor, type: str, columns: Columns) -> Tensor:
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    _, used = format_of(name, tuple(weights.shape), type, head, config.num_hidden_layers)
    if used.name == "F32":
        return weights
    kind = gguf_type(used)
    packed = quantized(weights.float().cpu().contiguous().numpy(), kind, columns.get(_name_of(config, name)))
    return torch.from_numpy(gguf.dequantize(packed, kind)).to(weights.device, weights.dtype)


def _name_of(config: Any, name: str) -> str:
    """GGUF's name of a tensor; "" for none."""
    names = gguf.get_tensor_name_map(MODEL_ARCH[architecture_of(config.model_type).architecture], config.num_hidden_layers)
    return names.get_name(name, try_suffixes=(".weight", ".bias")) or ""

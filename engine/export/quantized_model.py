"""A torch model whose weights are what a GGUF file holds of them: its loss is measured as every other reading, without a file.

Each tensor is quantised with the code that writes the files, and dequantised by the gguf package; llama.cpp's own arithmetic
(which also rounds activations, to 8 bit) is not in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gguf
import torch
from gguf import MODEL_ARCH
from torch import Tensor

from engine.base.sizes import format_of
from engine.export.gguf_tensors import architecture_of, gguf_type, quantized
from engine.export.importance_matrix import Columns


@contextmanager
def as_quantized(model: Any, type: str, columns: Columns) -> Iterator[None]:
    """While the block runs, the weights are those of a file of a type, made with the importance of `columns` (may be empty).

    The former weights are kept beside them. Raises UserError for a family that GGUF export does not support.
    """
    former = {name: parameter.data for name, parameter in model.named_parameters()}
    try:
        for name, parameter in model.named_parameters():
            parameter.data = _rounded(model.config, name, former[name], type, columns)
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.data = former[name]


def _rounded(config: Any, name: str, weights: Tensor, type: str, columns: Columns) -> Tensor:
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    _, used = format_of(name, tuple(weights.shape), type, head, config.num_hidden_layers)
    if used.name == "F32":
        return weights
    names = gguf.get_tensor_name_map(MODEL_ARCH[architecture_of(config.model_type).architecture], config.num_hidden_layers)
    own = names.get_name(name, try_suffixes=(".weight", ".bias"))
    kind = gguf_type(used)
    packed = quantized(weights.float().cpu().contiguous().numpy(), kind, columns.get(own or ""))
    return torch.from_numpy(gguf.dequantize(packed, kind)).to(weights.device, weights.dtype)

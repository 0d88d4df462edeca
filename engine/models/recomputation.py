"""What a backward pass needs of the layers: kept while there is room for it, else computed once more.

A row's activations are most of what learning holds in memory. Where layers keep
only their input and compute again, that is a tenth, and a step takes a third
more time; the gradients are the same. It does not know what else is about to
take memory: a quarter of what is free is left to one row.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psutil
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from engine.base.process import return_freed_memory
from engine.models.ffn import compute_dtype, decoder, feed_forwards, put_back
from engine.models.packed_attention import again

TIDY = 8  # layers between two returns of freed memory; each costs a few milliseconds
ROOM = 0.25  # share of the free memory that a row's activations may take
PER_CHANNEL, PER_DIMENSION = 6, 12  # numbers a token that a layer keeps, about: of the FFN; of norms and attention


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """While the block runs, layers keep only their input and compute again in the backward pass (less memory).

    On the way, forward and backward, freed memory goes back to the system: glibc before 2.38 seldom fills the gap that
    an aligned block of the same size left, so 12 MB a layer would pile up.
    """
    layers = list(decoder(model).layers)
    own = [vars(layer).get("forward") for layer in layers]
    for number, layer in enumerate(layers):
        inner = layer.forward

        def compute(*args: Any, _inner: Any = inner, _tidy: bool = number % TIDY == 0, **kwargs: Any) -> Any:
            if _tidy:
                return_freed_memory()
            return _inner(*args, **kwargs)

        def forward(*args: Any, _compute: Any = compute, **kwargs: Any) -> Any:
            return checkpoint(_compute, *args, use_reentrant=False, preserve_rng_state=False,
                              context_fn=lambda: (nullcontext(), again(model)), **kwargs)

        layer.forward = forward
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            put_back(layer, forward)


@contextmanager
def recomputed_where_tight(model: nn.Module, tokens: int) -> Iterator[None]:
    """`recomputed`, where the activations of a row of `tokens` tokens would take too much of the free memory."""
    with recomputed(model) if activation_bytes(model, tokens) > ROOM * free_bytes(model) else nullcontext():
        yield


def activation_bytes(model: nn.Module, tokens: int) -> int:
    """About how many bytes the layers keep of a row for its backward pass, without the T * T numbers of an
    attention that is computed whole."""
    ffns = feed_forwards(model)
    hidden = int(model.get_input_embeddings().weight.shape[-1])  # type: ignore[operator]
    numbers = sum(PER_CHANNEL * ffn.size + PER_DIMENSION * hidden for ffn in ffns)
    return tokens * numbers * torch.finfo(compute_dtype(model)).bits // 8


def free_bytes(model: nn.Module) -> int:
    """Bytes of memory free on the model's device now."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available

"""Less memory while a mask is learned: layers computed again in the backward pass, and weights kept in 16 bit.

A row's activations are most of what learning holds in memory. Where layers keep only their input and compute again, that is
a tenth, and a step takes a third more time. On a CPU without bf16 arithmetic, frozen weights that came in 16 bit stay in 16
bit, and each linear layer widens its weight for the length of one product. Neither changes a bit of the results.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import psutil
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.base.process import return_freed_memory
from engine.models.attention import same_layout
from engine.models.ffn import compute_dtype, decoder, feed_forwards, put_back

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
                              context_fn=lambda: (nullcontext(), same_layout(model)), **kwargs)

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


class _WidenedLinear(torch.autograd.Function):
    """x W^T + b with W kept in 16 bit; the gradient reaches x alone."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(weight)
        return functional.linear(inputs, weight.to(inputs.dtype), None if bias is None else bias.to(inputs.dtype))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = context.saved_tensors
        return gradient @ weight.to(gradient.dtype), None, None


def _widened(module: nn.Linear, inputs: Tensor) -> Tensor:
    return _WidenedLinear.apply(inputs, module.weight, module.bias)


@contextmanager
def narrowed(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """While the block runs, keep the frozen weights in `dtype` and compute in fp32; where that is not exact, do nothing."""
    # Not the head: widening it for every chunk of logits would cost more than it saves.
    patched = [module for module in decoder(model).modules() if isinstance(module, nn.Linear)]
    if not all(weights.dtype == torch.float32 and weights.device.type == "cpu" and torch.equal(weights, weights.to(dtype).float())
               for module in patched for weights in module.parameters()):
        yield
        return
    _cast(patched, dtype)
    return_freed_memory()
    for module in patched:
        module.forward = partial(_widened, module)  # type: ignore[method-assign]
    model.compute_dtype = torch.float32  # type: ignore[assignment]
    try:
        yield
    finally:
        del model.compute_dtype
        for module in patched:
            del module.forward
        _cast(patched, torch.float32)


def _cast(modules: list[nn.Linear], dtype: torch.dtype) -> None:
    for number, module in enumerate(modules):
        if number % 16 == 0:
            return_freed_memory()  # or the old copies would stay beside the new ones
        for parameter in module.parameters():
            parameter.data = parameter.data.to(dtype)



"""Weights kept in 16 bit, arithmetic in fp32: half the memory of a frozen model while a mask is learned on a CPU.

Processors without bf16 arithmetic compute in fp32, yet the weights came in 16
bit. Each linear layer turns its weight to fp32 for the length of one product,
forward and backward; casting costs a few percent of a long row's time, and the
results are the same to the bit, since widening a 16-bit number is exact.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from engine.base.process import return_freed_memory
from engine.models.ffn import decoder


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


def exact_in(model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether the weights of all the decoder's linear layers are fp32, on the CPU, and equal to their copy in `dtype`."""
    return all(parameter.dtype == torch.float32 and parameter.device.type == "cpu"
               and torch.equal(parameter, parameter.to(dtype).float())
               for module in _linear_layers(model) for parameter in module.parameters())


def _linear_layers(model: nn.Module) -> list[nn.Linear]:
    # Not the head: widening it for every chunk of logits would cost more than it saves.
    return [module for module in decoder(model).modules() if isinstance(module, nn.Linear)]


@contextmanager
def narrowed(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """While the block runs, keep the frozen weights in `dtype` and compute in fp32; where that is not exact, do nothing."""
    if not exact_in(model, dtype):
        yield
        return
    patched = _linear_layers(model)
    _cast(patched, dtype)
    return_freed_memory()
    for module in patched:
        module.forward = _widened(module)  # type: ignore[method-assign]
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


def _widened(module: nn.Linear) -> Any:
    return lambda inputs: _WidenedLinear.apply(inputs, module.weight, module.bias)

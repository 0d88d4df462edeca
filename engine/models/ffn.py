"""One view of the feed-forward networks of all supported families: FFN(x) = W_down (act(W_gate x) * (W_up x)).

A channel j is row j of W_gate and W_up and column j of W_down; its activation is entry j of the input of W_down, where masks
and measurements hook in.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.base.families import FAMILIES

Hook = Callable[[int, Tensor], Tensor | None]


@dataclass(frozen=True)
class FeedForward:
    """The FFN of one decoder layer."""

    index: int
    module: nn.Module
    names: tuple[str, ...]  # of the layers of gate and up, see base/families.py

    @property
    def down(self) -> nn.Linear:
        """The projection back to the hidden size; its input is the channels' activations."""
        return self.module.down_proj  # type: ignore[return-value]

    def down_weight(self) -> Tensor:
        """W_down (d, d_ff) in fp32; of a quantised layer, dequantised."""
        weight: Any = self.down.weight
        if hasattr(self.down, "quant_state") or hasattr(self.down, "state"):  # bitsandbytes' 4-bit and 8-bit layers
            from transformers.integrations.bitsandbytes import dequantize_bnb_weight

            weight = dequantize_bnb_weight(weight, getattr(self.down, "state", None))
        return weight.detach().float()

    @property
    def fused(self) -> bool:
        """Whether gate and up are one matrix, gate's rows first (phi3)."""
        return len(self.names) == 1

    @property
    def size(self) -> int:
        """d_ff, the number of channels."""
        return self.down.in_features

    def gate_and_up(self) -> tuple[Tensor, Tensor]:
        """W_gate and W_up, each (d_ff, d), as views."""
        first, *second = (layer.weight for layer in self.row_projections())
        gate, up = (first, *second) if second else first.chunk(2, dim=0)
        return gate, up

    def row_projections(self) -> list[nn.Linear]:
        """The linear layers whose output rows are channels: gate and up, or the fused one."""
        return [getattr(self.module, name) for name in self.names]


def decoder(model: nn.Module) -> Any:
    """The stack of layers below the language-model head."""
    return model.model


def compute_dtype(model: Any) -> torch.dtype:
    """The dtype of the model's activations: that of its weights, unless memory_saving.py keeps these narrower."""
    return getattr(model, "compute_dtype", None) or model.dtype


def feed_forwards(model: nn.Module) -> list[FeedForward]:
    """The FFNs of all layers, in order."""
    names = FAMILIES[model.config.model_type].gate_and_up  # type: ignore[union-attr, index]
    return [FeedForward(index, layer.mlp, names) for index, layer in enumerate(decoder(model).layers)]


@contextmanager
def hooked(model: nn.Module, hook: Hook) -> Iterator[None]:
    """While the block runs, call hook(layer index, activation (..., d_ff)) before each W_down.

    What the hook returns, if not None, takes the activation's place.
    """

    def register(ffn: FeedForward) -> Any:
        def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
            changed = hook(ffn.index, inputs[0])
            return None if changed is None else (changed,)

        return ffn.down.register_forward_pre_hook(before)

    handles = [register(ffn) for ffn in feed_forwards(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def masked(model: nn.Module, masks: Tensor) -> Iterator[None]:
    """While the block runs, multiply channel activations by `masks` (L, d_ff); gradients flow into it."""
    rows = list(masks.unbind(0))
    with hooked(model, lambda index, activation: activation * rows[index].to(activation.device, activation.dtype)):
        yield


def count_tokens(model: nn.Module, add: Callable[[int], None]) -> None:
    """From now on, call `add` with the number of tokens whenever some enter the model's embedding, or that of a deep copy."""

    def count(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # a function: deep copies share those
        add(inputs[0].numel())

    decoder(model).get_input_embeddings().register_forward_pre_hook(count)


def put_back(layer: Any, forward: Any) -> None:
    """Give a layer back the forward that it had as its own (accelerate's hooks are there), or, for None, its class's."""
    del layer.forward
    if forward is not None:
        layer.forward = forward


def project_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Logits (N, vocabulary), in fp32, of final hidden states (N, d): head, scaling (granite), softcap (gemma2)."""
    head: Any = model.lm_head
    if len(hidden) == 1 and type(head) is nn.Linear and head.bias is None and not head._forward_hooks:
        logits = torch.mv(head.weight, hidden[0])[None].float()  # twice as fast on a CPU as the product of matrices
    else:
        logits = head(hidden).float()
    config: Any = model.config
    if getattr(config, "logits_scaling", None):
        logits = logits / config.logits_scaling
    cap = getattr(config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits

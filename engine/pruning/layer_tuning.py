"""Layer tuning: every layer's kept channels trained, one layer after the other, towards what the dense layer puts out.

Least squares (propagation.py) can only mix what the kept channels compute; here what they compute changes as well. From
the least-squares W_down and the dense rows of W_gate and W_up, a few rounds of Adam minimise the same squared error of
the stream behind the layer, on the same two streams of hidden states. No gradient leaves the layer, so a round costs
what three passes through one FFN cost and needs no memory beyond it. Training each block of a pruned model by itself
is EBFT's (arXiv 2402.12419), there on the block's own output and with all its matrices; ours trains the FFN alone, on
the stream that the pruned layers below really leave.

It does not know how many rounds are too many: what it learns by heart shows on validation lines only.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.ffn import FeedForward, decoder, feed_forwards
from engine.models.packing import Row
from engine.pruning.compensation import Gates
from engine.pruning.propagation import Regression, activations, advance, begin

BATCH = 256  # tokens a step of Adam: the smaller, the more steps a pass; see docs/readings.md
BETWEEN = 2048  # tokens between two places to stop
BETAS = (0.9, 0.98)  # few steps: the second moment must warm up in them


@dataclass(frozen=True)
class Tuning:
    """How to tune: passes over the tokens, Adam's rate at the start (it falls to 0), and the seed of the tokens' order.

    ridge, share: of the least squares that each layer begins with, as in refit_propagated. rounding: what the weights are
    rounded to before the layers above see them: the precision in which they will be written.
    """

    epochs: float
    rate: float
    seed: int
    ridge: float
    share: float
    rounding: torch.dtype = torch.bfloat16


@dataclass(frozen=True)
class TunedLayer:
    """One layer's weights of the kept channels: gate, up (k, d) and down (d, k)."""

    gate: Tensor
    up: Tensor
    down: Tensor


@torch.no_grad()
def tune_layers(model: nn.Module, rows: Sequence[Row], kept: Sequence[Tensor], tuning: Tuning,
                known: Sequence[TunedLayer] = (), starts: Sequence[TunedLayer] | None = None) -> Iterator[TunedLayer | None]:
    """Yields each layer's weights, lowest layer first, in the weights' dtype; before them None, after a row or BETWEEN tokens.

    `kept`: ascending channel indices (k,) a layer; `known`: the lowest layers, tuned by an earlier run; `starts`: the weights
    that each layer begins with, instead of its own rows and their least squares. The model itself stays as it is. For
    models that `can_propagate`.
    """
    streams = begin(model, rows)
    factor = float(getattr(model.config, "residual_multiplier", 1.0))  # granite
    for ffn, layer, index in zip(feed_forwards(model), decoder(model).layers, kept, strict=True):
        given = known if ffn.index < len(known) else starts
        regression = Regression(ffn, index) if given is None else None
        before, inputs, targets = [], [], []
        for stream in streams:
            stream_before, entering, target = advance(model, ffn, layer, stream, factor, tuning.share)
            wanted = target.flatten(0, -2) / factor
            if regression is not None:
                regression.add(activations(ffn, entering)[..., index], wanted, stream.weight)
            before.append(stream_before)
            inputs.append(entering.flatten(0, -2))
            targets.append(wanted)
            yield None
        tuned = _like(ffn, given[ffn.index]) if given is not None else _least_squares(ffn, index, regression, tuning.ridge)
        if ffn.index >= len(known):
            tuned = yield from _fit(ffn, index, tuned, torch.cat(inputs), torch.cat(targets), tuning)
        for stream, held, entering in zip(streams, before, inputs, strict=True):
            output = _outputs(ffn, index, tuned, entering)
            stream.pruned = held + factor * (output if ffn.down.bias is None else output + ffn.down.bias).view_as(held)
        yield tuned


def plain_layers(model: nn.Module, kept: Sequence[Tensor], columns: Sequence[Tensor], gates: Gates | None) -> list[TunedLayer]:
    """The layers as they are cut with these columns (d, k), and with these gates or their own."""
    if gates is None:
        own = (ffn.gate_and_up() for ffn in feed_forwards(model))
        gates = [(gate[index], up[index]) for (gate, up), index in zip(own, kept, strict=True)]
    return [TunedLayer(gate, up, down) for (gate, up), down in zip(gates, columns, strict=True)]


def _least_squares(ffn: FeedForward, index: Tensor, regression: Regression | None, ridge: float) -> TunedLayer:
    assert regression is not None
    gate, up = (part[index] for part in ffn.gate_and_up())
    return TunedLayer(gate, up, regression.columns(ridge))


def _like(ffn: FeedForward, layer: TunedLayer) -> TunedLayer:
    """The layer in the dtype and on the device of the model's own weights."""
    return TunedLayer(**{name: part.to(ffn.down.weight) for name, part in vars(layer).items()})


def _fit(ffn: FeedForward, index: Tensor, start: TunedLayer, inputs: Tensor, targets: Tensor, tuning: Tuning) -> Generator[
        None, None, TunedLayer]:
    """Adam on one layer, a yield after each BETWEEN tokens; the value is the layer's weights, in the dtype of the start's.

    Weights and moments are fp32. The products are bf16 where the model's are: about twice as fast on the processors where
    a model is loaded so.
    """
    weights = [part.float().clone().requires_grad_() for part in (start.gate, start.up, start.down)]
    optimizer = torch.optim.Adam(weights, lr=tuning.rate, betas=BETAS, fused=weights[0].device.type in ("cpu", "cuda"))
    order = torch.Generator().manual_seed(tuning.seed * 1_009 + ffn.index)
    size = min(BATCH, len(inputs))
    steps = max(1, int(tuning.epochs * len(inputs) / size))
    left: list[Tensor] = []
    for step in range(steps):
        if not left:  # what does not fill a batch waits for another pass
            left = list(torch.randperm(len(inputs), generator=order)[: len(inputs) // size * size].split(size))
        chosen = left.pop().to(inputs.device)
        optimizer.param_groups[0]["lr"] = tuning.rate * (1 - step / steps)
        with torch.enable_grad():
            with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.dtype == torch.bfloat16):
                found = _outputs(ffn, index, TunedLayer(*weights), inputs[chosen].float())
            (found.float() - targets[chosen]).square().sum(-1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) * size // BETWEEN > step * size // BETWEEN:
            yield None
    return TunedLayer(*(part.detach().to(tuning.rounding).to(start.down.dtype) for part in weights))


def _outputs(ffn: FeedForward, index: Tensor, layer: TunedLayer, inputs: Tensor) -> Tensor:
    """The FFN's output, without W_down's bias, of its kept channels alone: (N, d) from inputs (N, d)."""
    gate_bias, up_bias = _biases(ffn, index)
    gate = functional.linear(inputs, layer.gate, gate_bias)
    return functional.linear(_activation(ffn)(gate) * functional.linear(inputs, layer.up, up_bias), layer.down)


def _activation(ffn: FeedForward) -> Any:
    module: Any = ffn.module
    return module.activation_fn if ffn.fused else module.act_fn


def _biases(ffn: FeedForward, index: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The biases (k,) of gate and up, where the family has them."""
    biases = [projection.bias for projection in ffn.row_projections()]
    if biases[0] is None:
        return None, None
    gate, up = biases[0].chunk(2) if ffn.fused else biases
    return gate[index], up[index]

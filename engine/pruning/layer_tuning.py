"""Layer tuning: every layer's kept channels trained, one layer after the other, towards what the dense layer puts out.

Least squares (reconstruction.py) can only mix what the kept channels compute; here what they compute changes as well. From
the least-squares W_down and the dense rows of W_gate and W_up, a few passes of Adam minimise the error of the stream after
the layer, on the same two streams of hidden states. No gradient leaves the layer. Training each block of a pruned model by
itself is EBFT's (arXiv 2402.12419), there with all its matrices; ours trains the FFN alone, on the stream that the pruned
layers below really give.

Nothing here has the scale of one model. A step changes a weight by a share of its matrix's root mean square, as Adafactor's
do (arXiv 1804.04235). A token's squared error counts relative to the mean square of the dense stream there, by which the
next layer's RMSNorm divides: otherwise the few tokens with massive activations (arXiv 2402.17762) would be all that is fitted.

Held-out rows decide layer by layer: a layer that reads no better on them keeps what it began with, and after LOSSES such
layers in a row the others are not tried.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.ffn import FeedForward, decoder, feed_forwards
from engine.models.packing import Row
from engine.pruning.cutting import Gates
from engine.pruning.reconstruction import Regression, Tokens, activations, advance, begin, joined, own_tokens, tokens_of

BATCH = 256  # tokens a step of Adam: the smaller, the more steps a pass; see benchmarks/readings.md
BETWEEN = 2048  # tokens between two places to stop
BETAS = (0.9, 0.98)  # few steps: the second moment must warm up in them
LOSSES = 3  # layers in a row that tuning made no better, after which the rest keep what they have


@dataclass(frozen=True)
class Tuning:
    """How to tune: passes over the tokens, the rate at the start (it falls to 0), and the seed of the tokens' order.

    rate: what a step of Adam changes a weight by, as a share of the root mean square of its matrix. ridge, share: of the
    least squares that each layer begins with, as in refit_propagated. rounding: what the weights are rounded to before the
    layers above see them: the precision in which they will be written.
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


@dataclass(frozen=True)
class RowRead:
    """One more row was read for a layer, before it is tuned: the share of all rows that were."""

    share: float


@dataclass(frozen=True)
class Fitting:
    """A layer that is being tuned: the share of its steps that are done, and its error on the tokens of the last BETWEEN, as a
    share of what it is to put out."""

    share: float
    error: float


@dataclass(frozen=True)
class LayerResult:
    """A layer's weights, and its error on the held-out rows before and after tuning, as a share of what it is to put out.

    `after` is None where tuning was not tried. The weights are those with the smaller error.
    """

    layer: TunedLayer
    before: float
    after: float | None

    @property
    def better(self) -> bool:
        """Whether the tuned weights are the ones that were kept."""
        return self.after is not None and self.after < self.before


@torch.no_grad()
def tune_layers(model: nn.Module, rows: Sequence[Row], held_out: Sequence[Row], kept: Sequence[Tensor], tuning: Tuning,
                known: Sequence[LayerResult] = (), starts: Sequence[TunedLayer] | None = None) -> Iterator[
                    LayerResult | Fitting | RowRead]:
    """Yields each layer's result, lowest layer first, in the model's dtype; before it a RowRead for each row, and a Fitting for
    every BETWEEN tokens that are learned from.

    `held_out`: rows that decide and teach nothing; `kept`: ascending channel indices (k,) a layer; `known`: the lowest layers,
    tuned by an earlier run; `starts`: the weights that each layer begins with, instead of its own rows and their least
    squares. The model itself stays as it is. For models that `can_propagate`.
    """
    learning, deciding = begin(model, rows), begin(model, held_out)
    factor = float(getattr(model.config, "residual_multiplier", 1.0))  # granite
    losses = 0
    for ffn, layer, index in zip(feed_forwards(model), decoder(model).layers, kept, strict=True):
        given = [one.layer for one in known] if ffn.index < len(known) else starts
        regression = Regression(ffn, index) if given is None else None
        before: list[Tensor] = []
        found: dict[bool, list[Tokens]] = {False: [], True: []}
        for stream in (*learning, *deciding):
            held = len(before) >= len(learning)
            stream_before, entering, target = advance(model, ffn, layer, stream, factor, tuning.share)
            wanted = target / factor
            if regression is not None and not held:
                regression.add(activations(ffn, entering)[..., index], wanted, stream.weight)
            before.append(stream_before)
            found[held].append(tokens_of(stream, entering, wanted))
            yield RowRead(len(before) / (len(learning) + len(deciding)))
        if regression is None:
            assert given is not None
            start = TunedLayer(**{name: part.to(ffn.down.weight) for name, part in vars(given[ffn.index]).items()})
        else:
            gate, up = (part[index] for part in ffn.gate_and_up())
            start = TunedLayer(gate, up, regression.columns(tuning.ridge))
        if ffn.index < len(known):
            result = LayerResult(start, known[ffn.index].before, known[ffn.index].after)
        else:
            judge = joined([own_tokens(tokens, stream) for tokens, stream in zip(found[True], deciding, strict=True)])
            result = LayerResult(start, _error(ffn, index, start, judge), None)
            if losses < LOSSES:
                tuned = yield from _fit(ffn, index, start, joined(found[False]), tuning)
                after = _error(ffn, index, tuned, judge)
                result = LayerResult(tuned if after < result.before else start, result.before, after)
        losses = 0 if result.better else losses + 1
        for stream, rest, tokens in zip((*learning, *deciding), before, (*found[False], *found[True]), strict=True):
            output = _outputs(ffn, index, result.layer, tokens.inputs)
            stream.pruned = rest + factor * (output if ffn.down.bias is None else output + ffn.down.bias).view_as(rest)
        yield result


def _error(ffn: FeedForward, index: Tensor, layer: TunedLayer, tokens: Tokens) -> float:
    """The weighted mean squared error, 1 for an output of zeros; infinite where it is no number."""
    total = 0.0
    for inputs, targets, weights in zip(*(part.split(BETWEEN) for part in vars(tokens).values()), strict=True):
        output = _outputs(ffn, index, layer, inputs).float()
        total += float(((output - targets).square().sum(-1) * weights).sum().double())
    error = total / max(len(tokens.inputs), 1)
    return error if error == error else float("inf")


def plain_layers(model: nn.Module, kept: Sequence[Tensor], columns: Sequence[Tensor], gates: Gates | None) -> list[TunedLayer]:
    """The layers as they are cut with these columns (d, k), and with these gates or their own."""
    if gates is None:
        own = (ffn.gate_and_up() for ffn in feed_forwards(model))
        gates = [(gate[index], up[index]) for (gate, up), index in zip(own, kept, strict=True)]
    return [TunedLayer(gate, up, down) for (gate, up), down in zip(gates, columns, strict=True)]


def _fit(ffn: FeedForward, index: Tensor, start: TunedLayer, tokens: Tokens,
         tuning: Tuning) -> Generator[Fitting, None, TunedLayer]:
    """Adam on one layer, a yield after each BETWEEN tokens; the value is the layer's weights, in the dtype of the start's.

    Weights and moments are fp32. The products are bf16 where the model's are: about twice as fast on the processors where
    a model is loaded so.
    """
    inputs, device = tokens.inputs, tokens.inputs.device
    weights = [part.float().clone().requires_grad_() for part in (start.gate, start.up, start.down)]
    scales = [float(part.detach().square().mean().sqrt()) for part in weights]
    optimizer = torch.optim.Adam([{"params": [part]} for part in weights], betas=BETAS, fused=device.type in ("cpu", "cuda"))
    order = torch.Generator().manual_seed(tuning.seed * 1_009 + ffn.index)
    size = min(BATCH, len(inputs))
    steps = max(1, int(tuning.epochs * len(inputs) / size))
    left: list[Tensor] = []
    errors: list[Tensor] = []
    for step in range(steps):
        if not left:  # what does not fill a batch waits for another pass
            left = list(torch.randperm(len(inputs), generator=order)[: len(inputs) // size * size].split(size))
        chosen = left.pop().to(device)
        for group, scale in zip(optimizer.param_groups, scales, strict=True):
            group["lr"] = tuning.rate * scale * (1 - step / steps)
        with torch.enable_grad():
            with torch.autocast(device.type, torch.bfloat16, enabled=inputs.dtype == torch.bfloat16):
                found = _outputs(ffn, index, TunedLayer(*weights), inputs[chosen].float())
            error = ((found.float() - tokens.targets[chosen]).square().sum(-1) * tokens.weights[chosen]).mean()
            error.backward()
        errors.append(error.detach())
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) * size // BETWEEN > step * size // BETWEEN:
            yield Fitting((step + 1) / steps, float(torch.stack(errors).mean()))
            errors.clear()
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

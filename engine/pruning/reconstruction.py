"""Reconstruction: least squares for W_down, by which the kept channels take over what the removed ones did.

With activations a of the dense model, kept channels K and C = E[a a^T], the columns D' = (D C_:K + lambda D_K)
(C_KK + lambda I)^-1 minimise E||D a - D' a_K||^2 + lambda ||D' - D_K||^2 (GRAIL, FASP, SlimGPT; these pull to zero). On few
tokens that over-fits; hence lambda. `refit_apart` fits each layer by itself, as if all layers below were whole.

`refit_propagated` does better: it goes from the lowest layer up, and each layer corrects what the layers below get wrong. Two
streams of hidden states run side by side, the dense and the pruned one. With u' the pruned stream before the FFN's output is
added, a' its kept activations (both as the pruned model will have them) and h the dense stream after the layer, W_down is the
ridge regression of

    share * (h - u') + (1 - share) * (the dense FFN's output)

on a'. Second-order pruners calibrate on the pruned model's inputs too (SparseGPT, arXiv 2301.00774; SlimGPT, arXiv
2412.18110); the dense stream as the target is GPTAQ's asymmetric calibration (arXiv 2504.02692). It needs layers that add
W_down's output to the stream up to a factor: not gemma2, gemma3 and olmo2, whose norm follows the FFN (`can_propagate`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from engine.base.families import FAMILIES
from engine.models.attention import Layout, can_divide, divided, lay_out
from engine.models.ffn import FeedForward, compute_dtype, decoder, feed_forwards, hooked, put_back
from engine.models.packing import Row, run_row, split_prefix

RIDGE = 0.03  # lambda, as a share of the mean diagonal; .01 and .1 read no better on held-out lines (benchmarks/readings.md)
SHARE = 0.7  # of the stream's error that a layer takes on; .5 and 1 read alike, 0 much worse
GRAM_BYTES = 1_500_000_000  # of Gram matrices held at once; more layers take more passes over the rows


def layer_groups(layers: int, channels: int) -> list[range]:
    """Layers whose Gram matrices (d_ff x d_ff, fp32) are collected in one pass."""
    size = max(1, GRAM_BYTES // (4 * channels * channels))
    return [range(begin, min(begin + size, layers)) for begin in range(0, layers, size)]


@torch.inference_mode()
def gram_matrices(model: nn.Module, rows: Sequence[Row], layers: range) -> Iterator[dict[int, Tensor]]:
    """Yields after each row the sums over tokens of a a^T, (d_ff, d_ff) a layer; the last one is the result."""
    grams: dict[int, Tensor] = {}

    def add(index: int, activation: Tensor) -> None:
        if index in layers:
            flat = activation.flatten(0, -2).float()
            if index not in grams:
                grams[index] = torch.zeros(flat.shape[1], flat.shape[1], device=flat.device)
            grams[index].addmm_(flat.T, flat)

    for row in rows:
        with hooked(model, add):
            run_row(model, row)
        yield grams


@torch.inference_mode()
def refit(down: Tensor, gram: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """The least-squares W_down (d, k) of one layer, in fp32.

    `down`: (d, d_ff); `gram`: (d_ff, d_ff); `kept`: (k,) channel indices; `ridge`: lambda as a share of the mean
    diagonal of C_KK.
    """
    gram = gram.double()
    return solve(down.double()[:, kept], gram[kept][:, kept], down.double() @ gram[:, kept], ridge).float()


def solve(own: Tensor, inner: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """(cross + lambda own) (inner + lambda I)^-1, (d, k) in fp64: the penalty pulls towards the channel's own column.

    `own`: W_down's columns (d, k); `inner`: E[a a^T] (k, k); `cross`: E[target a^T] (d, k), all three in fp64; `ridge`:
    lambda as a share of the mean diagonal of `inner`.
    """
    penalty = ridge * inner.diagonal().mean().clamp_min(1e-12)
    shifted = inner + penalty * torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
    return torch.linalg.solve(shifted, (cross + penalty * own).T).T


def can_propagate(model: nn.Module) -> bool:
    """Whether a layer's output is its stream plus W_down's output times a constant."""
    return not FAMILIES[model.config.model_type].norm_after_ffn  # type: ignore[union-attr, index]


@dataclass(frozen=True)
class Refit:
    """A layer's W_down columns (d, k), and its error on held-out rows with the plain slice and with these columns, as a share of
    what it is to put out; None without such rows."""

    columns: Tensor
    before: float | None = None
    after: float | None = None


def refit_apart(model: nn.Module, rows: Sequence[Row], kept: Sequence[Tensor], ridge: float,
                held_out: Sequence[Row] = ()) -> Iterator[Refit | None]:
    """Yields each layer's refit by itself, in the weights' dtype; None after each row that was read.

    Arguments as those of `refit_propagated`. What a layer is to put out is here the dense FFN's output, before its norm.
    """
    ffns = feed_forwards(model)
    for group in layer_groups(len(ffns), ffns[0].down.in_features):
        grams: dict[int, Tensor] = {}
        for sums in gram_matrices(model, rows, group):
            grams = sums
            yield None
        columns = {index: refit(ffns[index].down.weight, grams.pop(index), kept[index], ridge).to(ffns[index].down.weight)
                   for index in group}
        errors: dict[int, tuple[float, float]] = {}
        for found in _errors_apart(model, held_out, kept, columns):
            errors = found
            yield None
        for index in group:
            yield Refit(columns[index], *errors.get(index, ()))


@torch.inference_mode()
def _errors_apart(model: nn.Module, rows: Sequence[Row], kept: Sequence[Tensor], columns: dict[int, Tensor]) -> Iterator[
        dict[int, tuple[float, float]]]:
    """Yields after each row the errors of layers with the plain slice and with `columns`, by layer: the mean over tokens, prefix
    excluded, of the squared error as a share of the squared output, since the norm that follows makes all outputs alike large."""
    downs = [ffn.down.weight for ffn in feed_forwards(model)]
    sums = {index: torch.zeros(2, dtype=torch.float64) for index in columns}
    tokens = 0

    def add(index: int, activation: Tensor) -> None:
        if index in columns:
            own = activation.flatten(0, -2)[row.segments.to(activation.device) > 0]
            wanted = torch.nn.functional.linear(own, downs[index]).float()
            size = wanted.square().sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
            for place, one in enumerate((downs[index][:, kept[index]], columns[index])):
                missed = wanted - torch.nn.functional.linear(own[:, kept[index]], one).float()
                sums[index][place] += float((missed.square().sum(-1) / size).sum())

    for row in rows:
        with hooked(model, add):
            run_row(model, row)
        tokens += int((row.segments > 0).sum())
        yield {index: (float(one[0]) / tokens, float(one[1]) / tokens) for index, one in sums.items()}


@torch.inference_mode()
def refit_propagated(model: nn.Module, rows: Sequence[Row], kept: Sequence[Tensor], ridge: float, share: float,
                     held_out: Sequence[Row] = ()) -> Iterator[Refit | None]:
    """Yields each layer's refit, lowest layer first, its columns in the weights' dtype; before them, None a row.

    `kept`: ascending channel indices (k,) a layer; `ridge`: lambda as a share of the mean diagonal of E[a' a'^T];
    `share`: how much of the stream's error a layer takes on, 0 to 1; `held_out`: rows that nothing is fitted on, to say what it
    came to. The model itself stays as it is.
    """
    fitted, deciding = begin(model, rows), begin(model, held_out) if held_out else []
    factor = float(getattr(model.config, "residual_multiplier", 1.0))  # granite
    for ffn, layer, index in zip(feed_forwards(model), decoder(model).layers, kept, strict=True):
        regression = Regression(ffn, index)
        waiting: list[tuple[Tensor, Tensor]] = []
        judging: list[Tokens] = []
        for stream in (*fitted, *deciding):
            before, entering, target = advance(model, ffn, layer, stream, factor, share)
            activation = activations(ffn, entering)[..., index]
            if len(waiting) < len(fitted):
                regression.add(activation, target / factor, stream.weight)
            else:
                judging.append(own_tokens(tokens_of(stream, activation, target / factor), stream))
            waiting.append((before, activation))
            yield None
        columns = regression.columns(ridge)
        for stream, (before, activation) in zip((*fitted, *deciding), waiting, strict=True):
            stream.pruned = before + factor * torch.nn.functional.linear(activation, columns, ffn.down.bias)
        judge = joined(judging) if judging else None
        yield Refit(columns, _error(judge, regression.own), _error(judge, columns)) if judge else Refit(columns)


@dataclass(frozen=True)
class Tokens:
    """What a layer is fitted or judged on: inputs (N, k), targets (N, d) in fp32, and what each one's squared error counts (N,)."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor


def tokens_of(stream: "Streams", inputs: Tensor, wanted: Tensor) -> Tokens:
    """A stream's tokens once the dense stream has passed the layer; each one's error counts relative to the mean square of the
    dense stream there."""
    scale = stream.dense.float().square().mean(-1).flatten().clamp_min(torch.finfo(torch.float32).tiny)
    return Tokens(inputs.flatten(0, -2), wanted.flatten(0, -2), 1 / scale)


def own_tokens(tokens: Tokens, stream: "Streams") -> Tokens:
    """Those after the prefix, which the training rows hold as well."""
    own = stream.own.to(tokens.inputs.device)
    return Tokens(tokens.inputs[own], tokens.targets[own], tokens.weights[own])


def joined(parts: Sequence[Tokens]) -> Tokens:
    """All tokens, with weights under which an output of zeros has the mean error 1."""
    whole = Tokens(*(torch.cat([getattr(part, name) for part in parts]) for name in ("inputs", "targets", "weights")))
    nothing = (whole.targets.square().sum(-1) * whole.weights).mean()
    return Tokens(whole.inputs, whole.targets, whole.weights / nothing.clamp_min(torch.finfo(torch.float32).tiny))


def _error(tokens: Tokens, columns: Tensor) -> float:
    """The weighted mean squared error of columns (d, k)."""
    missed = tokens.targets - torch.nn.functional.linear(tokens.inputs, columns).float()
    return float((missed.square().sum(-1) * tokens.weights).mean())


class Regression:
    """The normal equations of one layer's W_down on its kept channels: gram (k, k) and cross (d, k), sums over tokens in fp64."""

    def __init__(self, ffn: FeedForward, index: Tensor) -> None:
        self.own = ffn.down.weight[:, index]
        self.gram = torch.zeros(len(index), len(index), dtype=torch.float64)
        self.cross = torch.zeros(len(self.own), len(index), dtype=torch.float64)

    def add(self, activation: Tensor, target: Tensor, weight: int) -> None:
        """Take in activations (..., k) and what W_down is to make of them (..., d), counted `weight` times."""
        flat = activation.flatten(0, -2).float()
        self.gram += weight * (flat.T @ flat).cpu()
        self.cross += weight * (target.flatten(0, -2).T @ flat).cpu()

    def columns(self, ridge: float) -> Tensor:
        """W_down (d, k), in the weights' dtype; `ridge`: lambda as a share of the mean diagonal of `gram`."""
        return solve(self.own.double().cpu(), self.gram, self.cross, ridge).to(self.own)


@dataclass
class Streams:
    """One row's hidden states (1, T, d), dense and pruned, and what each layer is called with besides them.

    own: which of its tokens (T,) come after the prefix that rows share.
    layouts: how the row's attention is divided, in the dense and in the pruned stream; None where it is computed whole. Its
    attention masks, T * T numbers a row, then wait as truth values: as numbers, those of many rows would fill the memory.
    weight: how many rows it counts for: their common prefix has streams of its own.
    """

    dense: Tensor
    calls: list[dict[str, Any]]
    pruned: Tensor
    own: Tensor
    layouts: tuple[Layout, Layout] | None = None
    weight: int = 1

    @contextmanager
    def call(self, model: nn.Module, layer: int, pruned: bool) -> Iterator[dict[str, Any]]:
        """While the block runs, a layer may be called on one of the streams; gives its keyword arguments."""
        call = self.calls[layer]
        if self.layouts:
            with divided(model, self.layouts[pruned]) as mask:
                yield call | {"attention_mask": mask}
            return
        seen = call.get("attention_mask")
        if seen is not None and seen.dtype == torch.bool:
            mask = torch.zeros(seen.shape, dtype=self.dense.dtype, device=seen.device)
            call = call | {"attention_mask": mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)}
        yield call


def begin(model: nn.Module, rows: Sequence[Row]) -> list[Streams]:
    """The streams of packed rows at the first layer; a prefix that is computed once for many rows goes before them."""
    # Each stream begins with a pass of its own, so that a counter of tokens at the embedding counts both.
    make = lambda row: Streams(*_layer_inputs(model, row), pruned=_layer_inputs(model, row)[0], own=row.segments > 0)
    if not can_divide(model):
        return [make(row) for row in rows]
    streams: list[Streams] = []
    prefix: Row | None = None
    dtype = compute_dtype(model)
    for row in rows:
        head, rest = split_prefix(row)
        if prefix is None or not torch.equal(prefix.tokens, head.tokens):
            prefix, first = head, make(head)
            first.layouts, first.weight = (lay_out(head.segments, dtype), lay_out(head.segments, dtype)), 0
            streams.append(first)
        first.weight += 1
        own = make(rest)
        own.layouts = tuple(replace(lay_out(rest.segments, dtype), keys=lent.keys, values=lent.values)
                            for lent in first.layouts or ())  # type: ignore[assignment]
        streams.append(own)
    return streams


def advance(model: nn.Module, ffn: FeedForward, layer: nn.Module, stream: Streams, factor: float, share: float) -> tuple[
        Tensor, Tensor, Tensor]:
    """Move the dense stream over one layer; returns the pruned stream before the FFN's output and what enters the FFN there,
    (1, T, d) each, and the target (1, T, d) of W_down's output, in fp32."""
    size = ffn.down.out_features
    with stream.call(model, ffn.index, True) as call, _silent(ffn.module, size) as entering:
        before = layer(stream.pruned, **call)
    with stream.call(model, ffn.index, False) as call, _silent(ffn.down, size) as seen:
        dense_before = layer(stream.dense, **call)
    output = factor * ffn.down(seen[0])
    stream.dense = dense_before + output
    target = share * (stream.dense.float() - before.float()) + (1 - share) * output.float()
    if ffn.down.bias is not None:
        target -= factor * ffn.down.bias.float()
    return before, entering[0], target


def activations(ffn: FeedForward, entering: Tensor) -> Tensor:
    """The activations (..., d_ff) of all channels, from what enters the FFN (..., d)."""
    with _silent(ffn.down, ffn.down.out_features) as seen:
        ffn.module(entering)
    return seen[0]


@contextmanager
def _silent(module: Any, size: int) -> Iterator[list[Tensor]]:
    """While the block runs, the module puts out zeros (..., size) without computing; the list receives its input."""
    seen: list[Tensor] = []

    def instead(inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return inputs.new_zeros(*inputs.shape[:-1], size)

    own = vars(module).get("forward")  # accelerate keeps its hooks there
    module.forward = instead
    try:
        yield seen
    finally:
        put_back(module, own)


def _layer_inputs(model: nn.Module, row: Row) -> tuple[Tensor, list[dict[str, Any]]]:
    """The first layer's input (1, T, d) and each layer's keyword arguments (masks, positions); no layer is computed."""
    calls: list[dict[str, Any]] = []
    first: list[Tensor] = []
    layers = list(decoder(model).layers)

    def record(hidden: Tensor, **arguments: Any) -> Tensor:
        first.append(hidden)
        calls.append(arguments)
        return hidden

    own = [vars(layer).get("forward") for layer in layers]  # accelerate keeps its hooks there
    for layer in layers:
        layer.forward = record
    try:
        run_row(model, row)
    finally:
        for layer, forward in zip(layers, own, strict=True):
            put_back(layer, forward)
    seen: dict[int, Tensor] = {}  # every additive mask as the truth values of what is seen; layers go on sharing one
    for number, call in enumerate(calls):
        mask = call.get("attention_mask")
        if mask is not None and mask.dtype.is_floating_point:
            calls[number] = call | {"attention_mask": seen.setdefault(id(mask), mask == 0)}
    return first[0], calls

"""Depth pruning, the baseline that drops whole decoder blocks: which ones, how many, and the model without them.

A block whose output points where its input pointed does little (ShortGPT, Men et
al. 2024, arXiv 2403.03853). Blocks are not cut out, only passed over: enough to
measure the baseline.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from benchmarks.cells import Cell
from benchmarks.meter import watched
from benchmarks.methods import Kind, Rung, method
from benchmarks.pruned import Pruned
from engine.base.events import Event
from engine.models.ffn import decoder, feed_forwards
from engine.models.packing import Row, run_row


@torch.inference_mode()
def block_influence(model: nn.Module, rows: Sequence[Row]) -> Tensor:
    """1 - E cos(x_in, x_out) of each decoder block over all tokens of the rows, (L,) in fp32 on the CPU, from 0 to 2.

    Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("there are no rows to read")
    layers = decoder(model).layers
    totals = torch.zeros(len(layers), dtype=torch.float64)

    def register(index: int, layer: nn.Module) -> Any:
        def after(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            before, after = (functional.normalize(states.float(), dim=-1) for states in (inputs[0], output))
            # 1 - cos as half the squared distance of the unit vectors: exactly 0 where nothing changes.
            totals[index] += float((before - after).square().sum()) / 2

        return layer.register_forward_hook(after)

    handles = [register(index, layer) for index, layer in enumerate(layers)]
    try:
        for row in rows:
            run_row(model, row)
    finally:
        for handle in handles:
            handle.remove()
    return (totals / sum(row.size for row in rows)).float()


def blocks_to_drop(influence: Tensor, blocks: int) -> list[int]:
    """The ascending indices of the `blocks` blocks with the lowest influence (L,); of equal ones the first goes.

    Raises ValueError unless at least one block stays.
    """
    if not 0 <= blocks < len(influence):
        raise ValueError(f"of {len(influence)} blocks, 0 to {len(influence) - 1} can be dropped")
    return sorted(influence.argsort(stable=True)[:blocks].tolist())


def parameters_in_channels(model: nn.Module, channels: int) -> int:
    """Parameters that go when every FFN loses that many channels: slices of gate, up and down, biases of gate and up."""
    removed = 0
    for ffn in feed_forwards(model):
        rows = sum(parameter.numel() for projection in ffn.row_projections() for parameter in projection.parameters())
        removed += (rows + ffn.down.weight.numel()) // ffn.size * channels
    return removed


def parameters_in_blocks(model: nn.Module, blocks: int) -> int:
    """Parameters that go with that many decoder blocks; the blocks of a supported model are all of one size."""
    return blocks * sum(parameter.numel() for parameter in decoder(model).layers[0].parameters())


def blocks_for(model: nn.Module, k: int) -> int:
    """How many blocks come nearest to the parameters that go when every FFN is cut to k channels, 0 to L - 1.

    Of two that are equally near, the lower. Raises ValueError where k is not among 1, ..., d_ff.
    """
    channels = feed_forwards(model)[0].size
    if not 1 <= k <= channels:
        raise ValueError(f"k must be among 1, ..., {channels}")
    wanted = parameters_in_channels(model, channels - k)
    return min(range(len(decoder(model).layers)), key=lambda blocks: abs(parameters_in_blocks(model, blocks) - wanted))


class _Skipped(nn.Module):
    """Replaces a decoder layer and returns its input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.mlp = layer.mlp  # for the view of all FFNs; it never runs

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        """The hidden states (B, T, d) as they came."""
        return hidden


@contextmanager
def skipped(model: nn.Module, indices: Sequence[int]) -> Iterator[None]:
    """While the block runs, these decoder layers are not computed: each passes its input through unchanged.

    Without a cache only, as in `run_row`: a skipped layer would leave its place in the cache empty. Nest it with
    `masked`, `hooked` and `recomputed` as you like. Raises IndexError where there is no such layer.
    """
    layers = decoder(model).layers
    saved = {index: layers[index] for index in indices}
    try:
        for index, layer in saved.items():
            layers[index] = _Skipped(layer)
        yield
    finally:
        for index, layer in saved.items():
            layers[index] = layer


@method("depth", "Blocks dropped", Kind.PUBLISHED)
def blocks(cell: Cell) -> Rung:
    """Whole blocks, as many as come nearest to the parameters that go with the channels; at least one, or nothing is pruned."""
    rows, size = cell.subject.train, sum(row.size for row in cell.subject.train)

    def read() -> Generator[Event, None, dict[str, Tensor]]:
        return {"influence": (yield from watched("depth", size, cell.counter, lambda: block_influence(cell.model, rows)))}

    found, spent = yield from cell.keep(cell.subject.folder, "depth", read())
    count = max(1, blocks_for(cell.model, cell.kept))
    return Pruned(spent, dropped=blocks_to_drop(found["influence"], count))

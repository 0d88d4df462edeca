"""FLAP's score: how much of the output's fluctuation goes with a channel (An et al. 2024, arXiv 2312.11983)."""

from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor, nn

from benchmarks.cells import Cell
from benchmarks.methods import Found, one_shot
from engine.base.events import Event, Step
from engine.base.ids import StageId
from engine.models.ffn import feed_forwards, hooked
from engine.models.packing import Row, run_row
from engine.pruning.importance import top_channels


def flap_scores(model: nn.Module, variances: Tensor) -> Tensor:
    """Var(a_j) * sum_i D_ij^2: FLAP (An et al. 2024, arXiv 2312.11983), the output's fluctuation that goes with a channel.

    `variances`: (L, d_ff), of the activations over calibration tokens. Only the score is FLAP's: all layers here keep
    equally many channels, and the removed channels' mean is not put into a bias, which most families do not have.
    """
    weights = torch.stack([ffn.down_weight().square().sum(dim=0).cpu() for ffn in feed_forwards(model)])
    return weights * variances


@torch.inference_mode()
def read_variances(model: nn.Module, rows: Sequence[Row]) -> Iterator[Tensor]:
    """One pass: yields after each row the unbiased variance (L, d_ff) of the activations over all tokens so far.

    A row is centred on its own mean and joined to the earlier ones in fp64 (Chan, Golub and LeVeque 1983), for the
    difference of two large sums would lose a small variance. Of a single token the variance is 0.
    """
    ffns = feed_forwards(model)
    means = torch.zeros(len(ffns), ffns[0].size, dtype=torch.float64)
    deviations = torch.zeros_like(means)  # summed squares of the distances from the mean
    seen = 0

    def add(index: int, activation: Tensor) -> None:
        tokens = activation.flatten(0, -2).float()
        count = len(tokens)
        rounded = tokens.mean(dim=0)
        centred = tokens - rounded
        rest = centred.mean(dim=0)  # what rounding to fp32 took from the mean
        step = rounded.double().cpu() + rest.double().cpu() - means[index]
        deviations[index] += (centred - rest).square().sum(dim=0).double().cpu()
        deviations[index] += step.square() * (seen * count / (seen + count))
        means[index] += step * (count / (seen + count))

    for row in rows:
        with hooked(model, add):
            run_row(model, row)
        seen += row.size
        yield (deviations / max(seen - 1, 1)).float()


@one_shot("flap", "FLAP")
def flap(cell: Cell) -> Found:
    """FLAP's fluctuation score."""
    rows = cell.subject.train

    def read() -> Generator[Event, None, dict[str, Tensor]]:
        variances = torch.zeros(0)
        for number, sums in enumerate(read_variances(cell.model, rows), start=1):
            variances = sums
            yield Step(StageId.BENCHMARK, number, len(rows), subject="flap")
        return {"scores": flap_scores(cell.model, variances)}

    found, spent = yield from cell.keep(cell.subject.folder, "flap", read())
    return top_channels(found["scores"], cell.kept), spent

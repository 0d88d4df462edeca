"""One-shot scores: how much a channel matters, judged without learning. Higher is more important.

Notation: a = act(x W_gate) * (x W_up), channel j; G, U the rows of W_gate and
W_up; D = W_down. Every function is pure and returns (L, d_ff) in fp32.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from engine.models.ffn import feed_forwards, hooked
from engine.models.packing import Row, run_row, states_that_predict


def random_scores(layers: int, channels: int, seed: int) -> Tensor:
    """Uniform noise: what any method must beat."""
    return torch.rand(layers, channels, generator=torch.Generator().manual_seed(seed))


def magnitude_scores(model: nn.Module) -> Tensor:
    """||G_j|| + ||U_j|| + ||D_:j||, the channel's weights alone (magnitude pruning, data-free)."""
    scores = []
    for ffn in feed_forwards(model):
        gate, up = ffn.gate_and_up()
        scores.append((gate.float().norm(dim=1) + up.float().norm(dim=1) + ffn.down.weight.float().norm(dim=0)).cpu())
    return torch.stack(scores)


def wanda_scores(model: nn.Module, norms: Tensor) -> Tensor:
    """mean_i |D_ij| * ||a_j||_2: Wanda (Sun et al. 2024, arXiv 2306.11695), summed over a channel's outputs.

    `norms`: (L, d_ff), the 2-norms of the activations over calibration tokens.
    """
    weights = torch.stack([ffn.down_weight().abs().mean(dim=0).cpu() for ffn in feed_forwards(model)])
    return weights * norms


def flap_scores(model: nn.Module, variances: Tensor) -> Tensor:
    """Var(a_j) * sum_i D_ij^2: FLAP (An et al. 2024, arXiv 2312.11983), the output's fluctuation that goes with a channel.

    `variances`: (L, d_ff), of the activations over calibration tokens. Only the score is FLAP's: all layers here keep
    equally many channels, and the removed channels' mean is not put into a bias, which most families do not have.
    """
    weights = torch.stack([ffn.down_weight().square().sum(dim=0).cpu() for ffn in feed_forwards(model)])
    return weights * variances


@torch.inference_mode()
def read_activations(model: nn.Module, rows: Sequence[Row]) -> Iterator[tuple[Row, Tensor, Tensor]]:
    """One dense pass: yields each row, its states (N, d) that predict, and the 2-norms (L, d_ff) over all tokens so far."""
    ffns = feed_forwards(model)
    squares = torch.zeros(len(ffns), ffns[0].size, dtype=torch.float64)

    def add(index: int, activation: Tensor) -> None:
        squares[index] += activation.float().square().sum(dim=(0, 1)).double().cpu()

    for row in rows:
        with hooked(model, add):
            hidden = states_that_predict(model, row)
        yield row, hidden, squares.sqrt().float()


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


def rank_normalised(scores: Tensor) -> Tensor:
    """Each layer's scores replaced by their ranks, spread evenly over [-1, 1]: near scores can still flip.

    Ties rank the lower index higher, as in `top_channels`.
    """
    channels = scores.shape[1]
    from_top = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return 1 - from_top.float() / max(channels - 1, 1) * 2


def top_channels(scores: Tensor, k: int) -> Tensor:
    """The mask (L, d_ff) of ones and zeros that keeps exactly k channels a layer; ties go to the lower index."""
    kept = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(scores, dtype=torch.float32).scatter_(1, kept, 1.0)



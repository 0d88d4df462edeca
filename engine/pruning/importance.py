"""One-shot scores: how much a channel matters, judged without learning. Higher is more important.

Notation: a = act(x W_gate) * (x W_up), channel j; G, U the rows of W_gate and
W_up; D = W_down. Every function is pure and returns (L, d_ff) in fp32.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engine.base.ids import ReadingId
from engine.models.ffn import feed_forwards, hooked
from engine.models.packing import Row, states_that_predict

BINS = 64  # groups of channels a layer in what a picture shows


def random_scores(layers: int, channels: int, seed: int) -> Tensor:
    """Uniform noise: every method must be better than this."""
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


class Activations(NamedTuple):
    """A row that was read, its states (N, d) that predict, the 2-norms (L, d_ff) of the activations over all tokens so far, and
    their mean squares (L, d_ff) over the tokens so far at which the model speaks: those that predict."""

    row: Row
    hidden: Tensor
    norms: Tensor
    spoken: Tensor


@torch.inference_mode()
def read_activations(model: nn.Module, rows: Sequence[Row]) -> Iterator[Activations]:
    """One dense pass: what was read so far, after each row."""
    ffns = feed_forwards(model)
    squares, spoken = torch.zeros(2, len(ffns), ffns[0].size, dtype=torch.float64)
    tokens = 0

    def add(index: int, activation: Tensor) -> None:
        square = activation.float().square()
        squares[index] += square.sum(dim=(0, 1)).double().cpu()
        spoken[index] += square[0, predict.to(square.device)].sum(dim=0).double().cpu()

    for row in rows:
        predict = row.predict
        tokens += len(predict)
        with hooked(model, add):
            hidden = states_that_predict(model, row)
        yield Activations(row, hidden, squares.sqrt().float(), (spoken / max(tokens, 1)).float())


def log_ratio(own: Tensor, others: Tensor) -> list[list[float]]:
    """log2 of how much more strongly each group of channels acts, by root mean square, layers x groups, channels in their order.

    `own`, `others`: mean squares (L, d_ff). What is next to nothing in a layer, for both, counts as alike.
    """
    own, others = (_means(squares) for squares in (own, others))
    floor = 1e-4 * others.mean(dim=1, keepdim=True) + torch.finfo(torch.float32).tiny
    return _rounded(0.5 * ((own + floor) / (others + floor)).log2())


def by_importance(values: Tensor, importance: Tensor, bins: int = BINS) -> list[list[float]]:
    """The means of `values` (L, d_ff) over `bins` groups of channels a layer, layers x bins, in falling order of importance."""
    order = importance.argsort(dim=1, descending=True, stable=True)
    return _rounded(_means(values.gather(1, order), bins))


def _means(values: Tensor, bins: int = BINS) -> Tensor:
    """The means (L, bins) over groups of neighbours."""
    return torch.stack([part.mean(dim=1) for part in values.tensor_split(min(bins, values.shape[1]), dim=1)], dim=1)


def _rounded(rows: Tensor) -> list[list[float]]:
    return [[round(value, 3) for value in row] for row in rows.tolist()]


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


@dataclass(frozen=True)
class Baseline:
    """A one-shot method that is measured beside every mask.

    score: from the model, the activations' 2-norms (L, d_ff) over the train lines, and a seed, to scores (L, d_ff);
    reads_lines: whether it uses the norms.
    """

    score: Callable[[nn.Module, Tensor, int], Tensor]
    reads_lines: bool = False


# One more entry is one more bar in every report; its id is an entry of ReadingId, with a label for the terminal and the page.
BASELINES: dict[ReadingId, Baseline] = {
    ReadingId.RANDOM: Baseline(lambda _model, norms, seed: random_scores(len(norms), norms.shape[1], seed)),
    ReadingId.MAGNITUDE: Baseline(lambda model, _norms, _seed: magnitude_scores(model)),
    ReadingId.WANDA: Baseline(lambda model, norms, _seed: wanda_scores(model, norms), reads_lines=True)}

"""One-shot scores: how much a channel matters, judged without learning. Higher is more important.

Notation: a = act(x W_gate) * (x W_up), channel j; G, U the rows of W_gate and
W_up; D = W_down. Every function is pure and returns (L, d_ff) in fp32.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.base.ids import ReadingId
from engine.models.ffn import feed_forwards, hooked
from engine.models.packing import Row, states_that_predict


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

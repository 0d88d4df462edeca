"""The optimal brain surgeon for channels: remove one, let the others take over exactly, choose the next.

With activations a of the dense model, C = E[a a^T] and H = C + lambda I, the
loss of putting D' in the place of D = W_down is E||D a - D' a||^2 +
lambda ||D - D'||^2 = tr((D - D') H (D - D')^T). When channel j goes, the best D'
is D - D_:j (H^-1)_j: / (H^-1)_jj, at a loss of ||D_:j||^2 / (H^-1)_jj; the
inverse then loses the same row and column by a rank-one update. Structured OBS:
SlimGPT (Ling et al. 2024, arXiv 2412.18110) and OBC (Frantar and Alistarh 2022,
arXiv 2208.11580), here with exact updates of all columns and without SlimGPT's
order of heads, its grouped Cholesky or its layer-wise ratios. One layer at a
time, numbers only.
"""

from collections.abc import Generator

import torch
from torch import Tensor

from benchmarks.cells import Cell
from benchmarks.least_squares import each_layer, read_grams
from benchmarks.methods import Found, one_shot
from engine.base.events import Event
from engine.models.ffn import feed_forwards

RIDGE, BLOCK = 0.03, 4


@torch.inference_mode()
def remove_greedily(down: Tensor, gram: Tensor, k: int, ridge: float, block: int = 1) -> tuple[Tensor, Tensor]:
    """Keep k channels of one layer: their indices, ascending (k,), and the W_down columns (d, k) in fp32.

    `down`: (d, d_ff); `gram`: (d_ff, d_ff), sums or means of a a^T, on the same device; `ridge`: lambda as a share of
    the mean diagonal of the whole gram; `block`: channels that go at a time, 1 being fully greedy (the cheapest of a
    block are chosen together; their removal is exact all the same).

    The penalty pulls to the channels' own columns, as in the loss above: putting the constraint D'_:j = 0
    into it gives D_K + D_P C_PK (C_KK + lambda I)^-1 = (D C_:K + lambda D_K) (C_KK + lambda I)^-1, so the columns are
    those of `reconstruction.refit` for the same lambda (refit's ridge is a share of the mean diagonal of C_KK). Computed
    in fp64. Raises ValueError where k is not among 1, ..., d_ff or block is below 1, and torch.linalg.LinAlgError
    where the ridge is too small to make H invertible.
    """
    channels = down.shape[1]
    if not 1 <= k <= channels or block < 1:
        raise ValueError(f"k must be among 1, ..., {channels}, and block at least 1")
    inverse = _penalised_inverse(gram, ridge)
    diagonal = inverse.diagonal().clone()
    columns = down.double().T.contiguous()  # (d_ff, d), a channel's column lies in one piece
    removed = torch.zeros(channels, dtype=torch.bool, device=gram.device)
    # The current inverse is H^-1 - past^T past: a removal reads a few columns and rewrites nothing.
    past = inverse.new_empty(channels - k, channels)
    for done in range(0, channels - k, block):
        errors = columns.square().sum(dim=1) / diagonal
        gone = errors.masked_fill_(removed, torch.inf).topk(min(block, channels - k - done), largest=False).indices
        now = inverse[gone] - past[:done, gone].T @ past[:done]
        # Of several channels at once: with A = L L^T their part of the inverse, L^-1 makes one step of the block.
        factor = torch.linalg.cholesky(now[:, gone])
        now = torch.linalg.solve_triangular(factor, now, upper=False)
        weights = torch.linalg.solve_triangular(factor, columns[gone], upper=False)
        columns.addmm_(now.T, weights, alpha=-1)
        diagonal -= now.square().sum(dim=0)
        past[done: done + len(gone)] = now
        removed[gone] = True
    kept = (~removed).nonzero()[:, 0]
    return kept, columns[kept].T.float()


def _penalised_inverse(gram: Tensor, ridge: float) -> Tensor:
    """(C + lambda I)^-1, (d_ff, d_ff) in fp64."""
    penalised = gram.double().clone()
    penalised.diagonal().add_(ridge * penalised.diagonal().mean().clamp_min(1e-12))
    return torch.cholesky_inverse(torch.linalg.cholesky(penalised))


@one_shot("obs", "Brain surgeon", reads_grams=True)
def surgeon(cell: Cell) -> Found:
    """The brain surgeon's mask; the columns it would put in place are left aside (`with_least_squares` does that)."""

    def read() -> Generator[Event, None, dict[str, Tensor]]:
        mask = torch.zeros(len(feed_forwards(cell.model)), cell.channels)
        weights = [ffn.down.weight for ffn in feed_forwards(cell.model)]

        def remove(index: int, gram: Tensor) -> None:
            kept, _ = remove_greedily(weights[index], gram, cell.kept, RIDGE, BLOCK)
            mask[index, kept.cpu()] = 1

        yield from each_layer(cell, "obs", remove)
        return {"mask": mask}

    reading = yield from read_grams(cell)
    found, spent = yield from cell.keep(cell.folder, "obs", read())
    return found["mask"], reading + spent

"""A character of the dense model, small: a mask, scales, and a low-rank correction of W_down.

A pruned model's W_down, fitted by least squares, is a whole matrix a layer. Here it is W_K diag(s) + U V: the dense model's own
kept columns, a scale for each, and two thin factors, all in 8 bit. With a the kept channels' activations and C = E[a a^T],
scales and factors minimise E||(W_down - W_K diag(s) - U V) a||^2: first the scales, then the factors, which are the leading
singular directions of the rest times C^1/2 (Eckart-Young in the activations' norm, as in ASVD, arXiv 2312.05821, and SVD-LLM,
arXiv 2403.07378).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = 127  # of 8 bit, to each side
_RIDGE = 0.01  # of the mean diagonal of C: directions that were hardly seen weigh that little
_EXTRA = 8  # directions beyond those wanted in the randomised SVD (Halko et al. 2011, arXiv 0909.4061)
_ITERATIONS = 4


@dataclass(frozen=True)
class Delta:
    """A character's difference from the dense model, L layers of d_ff channels, k of them kept, corrected at rank r.

    mask: (L, d_ff) bool, k ones a layer; scales: (L, k) int8 and scale_step: (L,) fp32, s = 1 + step * int8; left:
    (L, r, d), right: (L, r, k), both int8, and factor_step: (L, r) fp32, U V = (left * step)^T right.
    """

    mask: Tensor
    scales: Tensor
    scale_step: Tensor
    left: Tensor
    right: Tensor
    factor_step: Tensor

    @property
    def kept(self) -> int:
        """k."""
        return self.right.shape[-1]

    @property
    def rank(self) -> int:
        """r; 0: no correction."""
        return self.left.shape[1]

    def columns(self, layer: int, down: Tensor) -> Tensor:
        """W_down (d, k) of the cut model in fp32, from the dense model's (d, d_ff)."""
        device = down.device
        scales = 1 + self.scale_step[layer] * self.scales[layer].float()
        own = down.index_select(1, self.mask[layer].nonzero()[:, 0].to(device)).float() * scales.to(device)
        left = self.left[layer].float() * self.factor_step[layer, :, None]
        return own.addmm_(left.T.to(device), self.right[layer].float().to(device))


def without_correction(mask: Tensor, hidden_size: int) -> Delta:
    """The delta that only masks: (L, d_ff), as many ones in all layers."""
    mask = mask.bool()
    layers, kept = len(mask), int(mask[0].sum())
    return Delta(mask, torch.zeros(layers, kept, dtype=torch.int8), torch.zeros(layers),
                 torch.zeros(layers, 0, hidden_size, dtype=torch.int8), torch.zeros(layers, 0, kept, dtype=torch.int8),
                 torch.zeros(layers, 0))


@dataclass(frozen=True)
class Fitted:
    """One layer of a delta; see Delta. `left_out`: the share of E||(W_down - W_K) a||^2 that is not made up for."""

    scales: Tensor
    scale_step: Tensor
    left: Tensor
    right: Tensor
    factor_step: Tensor
    left_out: float

    def applied(self, own: Tensor) -> Tensor:
        """W_K diag(s) + U V (d, k) in fp32, from the dense model's own columns (d, k)."""
        factors = (self.left.float() * self.factor_step[:, None]).T @ self.right.float()
        return own.float() * (1 + self.scale_step * self.scales.float()) + factors


@torch.no_grad()
def fit_layer(wanted: Tensor, own: Tensor, gram: Tensor, rank: int) -> Fitted:
    """Scales and factors that bring `own` W_K (d, k) closest to the `wanted` W_down (d, k). gram: C (k, k), any multiple of it."""
    wanted, own, gram = wanted.double(), own.double(), gram.double()
    gram = gram + _RIDGE * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    root = torch.linalg.cholesky(gram)
    step, codes = _quantise(_scales(wanted, own, gram) - 1)
    scaled = own * (1 + step * codes)
    left, right = _factors((wanted - scaled) @ root, root, rank)
    left_step, left = _quantise(left, by_row=True)
    right_step, right = _quantise(right, by_row=True)
    factor_step = (left_step * right_step)[:, 0]
    rest = wanted - scaled - (left * factor_step[:, None]).T @ right
    whole = ((wanted - own) @ root).square().sum()
    left_out = float((rest @ root).square().sum() / whole) if whole > 0 else 0.0
    return Fitted(codes.to(torch.int8), step.float(), left.to(torch.int8), right.to(torch.int8), factor_step.float(), left_out)


def _scales(wanted: Tensor, own: Tensor, gram: Tensor) -> Tensor:
    """The s (k,) that minimises E||(wanted - own diag(s)) a||^2 + ridge * ||s - 1||^2: its normal equations."""
    inner = (own.T @ own) * gram
    cross = ((own.T @ wanted) * gram).sum(dim=1)
    ridge = _RIDGE * inner.diagonal().mean().clamp_min(1e-12)
    return torch.linalg.solve(inner + ridge * torch.eye(len(inner), dtype=inner.dtype, device=inner.device), cross + ridge)


def _factors(weighted: Tensor, root: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U^T (r, d) and V (r, k) with U V root the best rank-r approximation of `weighted` (d, k); always the same ones."""
    if rank == 0:
        return weighted.new_zeros(0, weighted.shape[0]), weighted.new_zeros(0, weighted.shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size = min(rank + _EXTRA, *weighted.shape)
        left, _, _ = torch.svd_lowrank(weighted, q=size, niter=_ITERATIONS)
    left = left[:, :rank]
    right = torch.linalg.solve_triangular(root, left.T @ weighted, upper=False, left=False)
    return left.T.contiguous(), right


def _quantise(values: Tensor, by_row: bool = False) -> tuple[Tensor, Tensor]:
    """Step and whole numbers within STEPS; one step a row (rows, 1), or a single one."""
    if values.numel() == 0:
        return values.new_zeros(len(values), 1), values
    largest = values.abs().amax(dim=1, keepdim=True) if by_row else values.abs().max()
    step = (largest / STEPS).clamp_min(1e-30)
    return step, (values / step).round()


def stack(mask: Tensor, layers: Sequence[Fitted]) -> Delta:
    """A delta of a mask (L, d_ff) and its fitted layers."""
    together = lambda name: torch.stack([getattr(layer, name) for layer in layers]).cpu()
    return Delta(mask.bool().cpu(), *(together(name) for name in ("scales", "scale_step", "left", "right", "factor_step")))

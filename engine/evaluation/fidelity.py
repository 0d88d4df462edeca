"""How close a pruned model stays to the dense one, without a judge: KL, top-1 agreement, NLL.

All three are measured on answer tokens of held-out lines, with the persona's
system prompt before them, against the dense model under the same prompt. The
dense model is represented by its final hidden states (N, d), cached once: the
head that turns them into logits is never pruned, so the full distribution is
recovered at the cost of one matrix product. Every reading rests on sums a line,
from which intervals can be drawn.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.models.ffn import project_logits
from engine.models.packing import Row, answer_states

CHUNK = 128  # answer tokens whose logits are held at once


@dataclass(frozen=True)
class Reading:
    """KL(dense || model) and NLL in nats a token, top-1 agreement as a share; means over `tokens` of `lines` lines."""

    kl: float
    top1: float
    nll: float
    lines: int
    tokens: int


@dataclass(frozen=True)
class LineReadings:
    """What a Reading is the mean of: sums over each line's answer tokens, (lines,) each, in fp64 on the CPU.

    kl, nll: nats; agreeing: tokens whose likeliest next token is the dense model's; tokens: all answer tokens (0
    for a line without an answer). Lines are in the order of the rows and, within a row, of its members.
    """

    kl: Tensor
    agreeing: Tensor
    nll: Tensor
    tokens: Tensor

    def reading(self) -> Reading:
        """The means over all tokens. Raises ZeroDivisionError where there are none."""
        tokens = int(self.tokens.sum())
        return Reading(float(self.kl.sum()) / tokens, float(self.agreeing.sum()) / tokens, float(self.nll.sum()) / tokens,
                       len(self.tokens), tokens)


@torch.inference_mode()
def dense_states(model: nn.Module, rows: Sequence[Row]) -> list[Tensor]:
    """The dense model's final hidden states (N, d) of each row's answer tokens, on the CPU."""
    return [states.cpu() for states in answer_states(model, rows)]


@torch.inference_mode()
def measure(model: nn.Module, rows: Sequence[Row], dense: Sequence[Tensor]) -> Reading:
    """Read a model (masked, cut or whole) on `rows`, whose dense states are `dense`."""
    return compare_lines(model, rows, answer_states(model, rows), dense).reading()


@torch.inference_mode()
def compare_lines(model: nn.Module, rows: Sequence[Row], states: Iterable[Tensor], dense: Sequence[Tensor],
                  dense_head: nn.Module | None = None) -> LineReadings:
    """Read final states (N, d) of each row against the dense model's, line by line; `model` gives its head.

    `dense_head`: a model with the dense model's head, where the head of `model` is another.

    Raises ValueError where rows, states and dense states differ in number.
    """
    device = next(model.parameters()).device
    sums = [torch.zeros(0, 4, dtype=torch.float64)]
    for row, hidden, target in zip(rows, states, dense, strict=True):
        hidden, target = hidden.to(device), target.to(device, hidden.dtype)
        labels = row.labels.to(device)
        found = [torch.zeros(0, 4)]
        for begin in range(0, len(labels), CHUNK):
            part = slice(begin, begin + CHUNK)
            log_model = project_logits(model, hidden[part]).log_softmax(-1)
            log_dense = project_logits(dense_head or model, target[part]).log_softmax(-1)
            divergence = (log_dense.exp() * (log_dense - log_model)).sum(-1)
            agreement = (log_dense.argmax(-1) == log_model.argmax(-1)).float()
            surprise = -log_model.gather(-1, labels[part, None])[:, 0]
            found.append(torch.stack([divergence, agreement, surprise, torch.ones_like(surprise)], dim=-1).cpu())
        sums.append(sum_by_line(row, torch.cat(found)))
    return LineReadings(*torch.cat(sums).unbind(-1))


def sum_by_line(row: Row, values: Tensor) -> Tensor:
    """Sums (members, k), in fp64 on the CPU, of values (N, k) of a row's answer tokens; zeros for a member without any."""
    members = torch.tensor(row.members)  # ascending, as `pack` makes them
    sums = torch.zeros(len(members), values.shape[-1], dtype=torch.float64)
    return sums.index_add_(0, torch.searchsorted(members, row.owner.cpu()), values.cpu().double())

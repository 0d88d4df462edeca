"""How close a pruned model stays to the dense one, without a judge: KL, top-1 agreement, NLL.

All three are measured on answer tokens of held-out lines, with the persona's
system prompt before them, against the dense model under the same prompt. The
dense model is represented by its final hidden states (N, d), cached once: the
head that turns them into logits is never pruned, so the full distribution is
recovered at the cost of one matrix product. This module does not know which
lines are held out; its caller does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.models.ffn import project_logits
from engine.models.packing import Row, states_that_predict

CHUNK = 128  # answer tokens whose logits are held at once


@dataclass(frozen=True)
class Reading:
    """KL(dense || model) and NLL in nats a token, top-1 agreement as a share; means over `tokens` of `lines` lines."""

    kl: float
    top1: float
    nll: float
    lines: int
    tokens: int


@torch.inference_mode()
def dense_states(model: nn.Module, rows: Sequence[Row]) -> list[Tensor]:
    """The dense model's final hidden states (N, d) of each row's answer tokens, on the CPU."""
    return [states_that_predict(model, row).cpu() for row in rows]


@torch.inference_mode()
def measure(model: nn.Module, rows: Sequence[Row], dense: Sequence[Tensor]) -> Reading:
    """Read a model (masked, cut or whole) on `rows`, whose dense states are `dense`."""
    return compare(model, rows, (states_that_predict(model, row) for row in rows), dense)


@torch.inference_mode()
def compare(model: nn.Module, rows: Sequence[Row], states: Iterable[Tensor], dense: Sequence[Tensor]) -> Reading:
    """Read final states (N, d) of each row against the dense model's; `model` lends its head."""
    divergence = agreement = surprise = 0.0
    tokens, lines = 0, 0
    for row, hidden, target in zip(rows, states, dense, strict=True):
        device = next(model.parameters()).device
        hidden, target = hidden.to(device), target.to(device, hidden.dtype)
        labels = row.labels.to(device)
        for begin in range(0, len(labels), CHUNK):
            part = slice(begin, begin + CHUNK)
            log_model = project_logits(model, hidden[part]).log_softmax(-1)
            log_dense = project_logits(model, target[part]).log_softmax(-1)
            divergence += float((log_dense.exp() * (log_dense - log_model)).sum())
            agreement += float((log_dense.argmax(-1) == log_model.argmax(-1)).sum())
            surprise -= float(log_model.gather(-1, labels[part, None]).sum())
        tokens += len(labels)
        lines += len(row.members)
    return Reading(divergence / tokens, agreement / tokens, surprise / tokens, lines, tokens)

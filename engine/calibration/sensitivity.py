"""Persona-sensitivity scores: which questions does this character answer differently from others?

Persona-Pruner (arXiv 2606.14695), calibration data: s(q; P) = 1 / (B r) * sum over blocks b and reference personas j of
1 - cos(h_b_Pj(q), h_b_P(q)), with h the hidden state after block b at the last prompt token. High: the persona changes what the
model is about to say. Each persona's prompt is encoded once a row, and all queries are packed after it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.ffn import decoder
from engine.models.packing import Example, Row, pack, run_row


@torch.inference_mode()
def last_token_states(model: nn.Module, row: Row) -> Tensor:
    """Hidden states (B, Q, d), fp32, after each of B blocks at the last prompt token of the row's Q examples."""
    states: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        states.append(hidden[0, row.last.to(hidden.device)].float().cpu())

    handles = [layer.register_forward_hook(keep) for layer in decoder(model).layers]
    try:
        run_row(model, row)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(states)


def states_of(model: nn.Module, prompts: Sequence[Sequence[int]], row_tokens: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yields, row by row, indices of prompts and their states (B, Q, d). The prompts share a persona."""
    for row in pack([Example(tuple(prompt)) for prompt in prompts], row_tokens):
        yield row.members, last_token_states(model, row)


def divergence(own: Tensor, other: Tensor) -> Tensor:
    """Mean over blocks of 1 - cosine, (Q,), of states (B, Q, d) under two personas."""
    return (1 - torch.cosine_similarity(own, other, dim=-1)).mean(dim=0)


def select(scores: Sequence[float], share: float) -> list[int]:
    """Indices of the top `share` of the scores, at least one, in their old order; ties go to the earlier one."""
    count = max(1, round(share * len(scores)))
    return sorted(sorted(range(len(scores)), key=lambda index: -scores[index])[:count])

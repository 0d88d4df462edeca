"""The naive ways that the measurement of speed compares with: every prompt encoded whole, padded batches."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from engine.models.ffn import decoder, masked
from engine.models.packing import Example

BATCH = 4  # examples in a padded batch: what fits beside a 16 GB laptop's other programs


def padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, (B, T) each, padded on the right with token 0."""
    longest = max(map(len, sequences))
    tokens = torch.tensor([list(one) + [0] * (longest - len(one)) for one in sequences])
    seen = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in sequences])
    return tokens, seen


@torch.inference_mode()
def last_token_states(model: Any, prompts: Sequence[Sequence[int]]) -> Tensor:
    """States (B, Q, d) after each block at the last prompt token, every prompt encoded whole."""
    found = []
    for begin in range(0, len(prompts), BATCH):
        tokens, seen = padded(prompts[begin: begin + BATCH])
        states: list[Tensor] = []

        def keep(_module: Any, _inputs: Any, output: Any, states: list[Tensor] = states) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)

        handles = [layer.register_forward_hook(keep) for layer in decoder(model).layers]
        decoder(model)(input_ids=tokens, attention_mask=seen, use_cache=False)
        for handle in handles:
            handle.remove()
        last = seen.sum(dim=1) - 1
        found.append(torch.stack([state[torch.arange(len(last)), last].float() for state in states]))
    return torch.cat(found, dim=1)


def learn_step(model: Any, examples: Sequence[Example], mask: Tensor) -> float:
    """Forward and backward of cross entropy with a mask, the prompt repeated in every padded row; the mean loss."""
    leaf = mask.clone().requires_grad_(True)
    total = sum(len(example.answer) for example in examples)
    loss_sum = 0.0
    for begin in range(0, len(examples), BATCH):
        group = examples[begin: begin + BATCH]
        tokens, seen = padded([example.prompt + example.answer for example in group])
        labels = torch.full_like(tokens, -100)
        for row, example in enumerate(group):
            labels[row, len(example.prompt): len(example.prompt) + len(example.answer)] = torch.tensor(example.answer)
        with masked(model, leaf):
            logits = model(input_ids=tokens, attention_mask=seen, use_cache=False).logits
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100,
                                            reduction="sum")
            (loss / total).backward()
        loss_sum += float(loss.detach())
    return loss_sum / total

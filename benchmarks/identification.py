"""Whose words are these? Identification accuracy: the dense model tells characters apart by their replies.

A pruned model replies to questions in one character's name; the dense model
then reads each reply behind every character's system prompt. The share of
replies that are likeliest behind their own character's prompt says how much of
the character is left, without a judge. Source: method, "What we measure without
a judge". This module knows token ids, not characters or chat templates.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.evaluation.fidelity import CHUNK, sum_by_line
from engine.models.ffn import project_logits
from engine.models.packing import Example, Row, pack, shared_prefix, states_that_predict
from engine.models.sampling import Sampled, Sampling, sample_together


@torch.inference_mode()
def log_likelihoods(model: nn.Module, examples: Sequence[Example], row_tokens: int) -> Tensor:
    """ln p(answer | prompt) in nats, summed over the answer's tokens: (lines,), fp64 on the CPU, 0 for an empty answer.

    The prompts' longest common prefix is computed once a row; rows hold at most `row_tokens` tokens.
    """
    found = [torch.zeros(0, dtype=torch.float64)]
    for row in pack(examples, row_tokens):
        found.append(sum_by_line(row, _label_log_probabilities(model, row)[:, None])[:, 0])
    return torch.cat(found)


def _label_log_probabilities(model: nn.Module, row: Row) -> Tensor:
    """ln p of each of a row's N answer tokens, (N,), in fp32 on the CPU."""
    hidden = states_that_predict(model, row)
    labels = row.labels.to(hidden.device)
    found = [torch.zeros(0)]
    for begin in range(0, len(labels), CHUNK):
        part = slice(begin, begin + CHUNK)
        found.append(project_logits(model, hidden[part]).log_softmax(-1).gather(-1, labels[part, None])[:, 0].cpu())
    return torch.cat(found)


def identify(model: nn.Module, examples_by_persona: Mapping[str, Sequence[Example]], own: str, row_tokens: int) -> Tensor:
    """Whether each reply is likelier, a token, behind the prompt of `own` than behind every other's: (lines,) of bool.

    `model`: the dense one. `examples_by_persona`: a persona's name to the same replies, in the same order, behind
    that persona's prompt. Ties: own has to be strictly ahead, so a tie counts as not identified; an empty reply ties
    with everyone. Chance is 1 in the number of personas. Raises KeyError where `own` is no persona, ValueError where
    personas are fewer than two or their replies differ.
    """
    replies = [example.answer for example in examples_by_persona[own]]
    others = [name for name in examples_by_persona if name != own]
    if not others:
        raise ValueError("identification needs another persona to tell from")
    if any([example.answer for example in examples_by_persona[name]] != replies for name in others):
        raise ValueError("every persona has to be given the same replies in the same order")
    # The same reply has the same number of tokens behind every prompt: sums order as means do.
    likelihood = {name: log_likelihoods(model, examples, row_tokens) for name, examples in examples_by_persona.items()}
    return likelihood[own] > torch.stack([likelihood[name] for name in others]).amax(dim=0)


def greedy_replies(model: Any, prompts: Sequence[Sequence[int]], limit: int, endings: frozenset[int],
                   batch: int = 24) -> list[Sampled]:
    """The likeliest next token again and again behind each prompt (token ids, whole), without endings, in order.

    `limit`: the longest reply in tokens; `endings`: ids that end one; `batch`: replies under way at once. What all
    prompts share (a persona, and what opens the question) is computed once a batch. Works on a masked or swapped
    model as on a cut one. Raises ValueError where prompts do not share their first token, or have no other.
    """
    if not prompts:
        return []
    prefix = shared_prefix([Example(tuple(prompt)) for prompt in prompts])
    if prefix < 1:
        raise ValueError("the prompts share no first token, or one of them is nothing else")
    greedy = Sampling(endings, limit, temperature=0.0)
    replies: list[Sampled] = []
    for begin in range(0, len(prompts), batch):
        group = [list(prompt[prefix:]) for prompt in prompts[begin: begin + batch]]
        replies += sample_together(model, prompts[0][:prefix], group, greedy)
    return replies

"""Greedy replies of a pruned model, many at once."""

from collections.abc import Sequence
from typing import Any

from engine.models.packing import Example, shared_prefix
from engine.models.sampling import Sampled, Sampling, sample_together


def greedy_replies(model: Any, prompts: Sequence[Sequence[int]], limit: int, endings: frozenset[int],
                   batch: int = 24) -> list[Sampled]:
    """The likeliest next token again and again after each prompt (token ids, whole), without endings, in order.

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

"""What is left of the model besides the character: perplexity of neutral answers, with no persona before them.

A character's sub-network keeps what the character needs. How much plain
language it can still do shows where no system prompt of ours comes before the
question and the answer is in no character's voice. The answers are written ones, not
the dense model's own, so its own perplexity on them belongs beside every other.
It uses only questions that
report (the test split, engine.base.questions).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.measures import Trial, measure
from engine.base.questions import split_of
from engine.calibration.lines import of_split, read_queries, spread
from engine.evaluation.reader import log_likelihoods
from engine.models.chat_format import encode_answer, encode_chat
from engine.models.packing import Example

NEUTRAL = 40  # questions


@dataclass(frozen=True)
class Ability:
    """Perplexity, e to the mean NLL in nats a token, over all `tokens` answer tokens (endings too) of `lines` lines."""

    perplexity: float
    lines: int
    tokens: int


def neutral_examples(tokenizer: Any, pairs: Iterable[tuple[str, str]]) -> list[Example]:
    """Token ids of (question, neutral answer) pairs of the test split, as one user and one assistant turn, ended.

    Pairs of the other splits, and pairs without an answer, are left out. No system message is given; a template that
    writes one of its own accord still does.
    """
    return [Example(tuple(encode_chat(tokenizer, [{"role": "user", "content": question}])),
                    tuple(encode_answer(tokenizer, answer, True)))
            for question, answer in pairs if answer and split_of(question) == "test"]


def neutral_perplexity(model: nn.Module, examples: Sequence[Example], row_tokens: int) -> Ability:
    """Perplexity of a model (masked, cut or whole) on `neutral_examples`; infinite beyond e^709.

    Micro-averaged: every token counts alike, long answers more than short ones. Raises ValueError without answers.
    """
    tokens = sum(len(example.answer) for example in examples)
    if not tokens:
        raise ValueError("there is no neutral answer to read: no pair of the test split has one")
    mean = -log_likelihoods(model, examples, row_tokens).sum() / tokens
    return Ability(float(torch.exp(mean)), len(examples), tokens)


@measure("neutral_ppl", "neutral perplexity", ",.1f")
def neutral_ppl(trial: Trial) -> float:
    """Perplexity on the written answers to the same NEUTRAL questions of the pool for every character."""
    examples = neutral_examples(trial.cell.subject.dense.ctx.tokenizer, [
        (query.question, query.neutral) for query in spread(of_split(read_queries(), "test"), NEUTRAL, 0)])
    return neutral_perplexity(trial.model, examples, trial.cell.recipe.row_tokens).perplexity

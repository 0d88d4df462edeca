"""Whose words are these? Identification accuracy: the dense model tells characters apart by their replies.

A pruned model replies to questions in one character's name; the dense model
then reads each reply after every character's system prompt. The share of
replies that are likeliest after their own character's prompt says how much of
the character is left, without a judge. Source: method, "What we measure without
a judge".
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from benchmarks.measures import Trial, measure
from engine.calibration.rewriting import Voice
from engine.cards.card import Card, bundled_cards
from engine.evaluation.reader import log_likelihoods
from engine.evaluation.turns import draw_others
from engine.models.chat_format import encode_chat
from engine.models.packing import Example


def identify(model: nn.Module, examples_by_persona: Mapping[str, Sequence[Example]], own: str, row_tokens: int) -> Tensor:
    """Whether each reply is likelier, a token, after the prompt of `own` than after every other's: (lines,) of bool.

    `model`: the dense one. `examples_by_persona`: a persona's name to the same replies, in the same order, after
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
    # The same reply has the same number of tokens after every prompt: sums order as means do.
    likelihood = {name: log_likelihoods(model, examples, row_tokens) for name, examples in examples_by_persona.items()}
    return likelihood[own] > torch.stack([likelihood[name] for name in others]).amax(dim=0)


@measure("identification", "identified", ".0%", by_dense=True)
@torch.inference_mode()
def identification(trial: Trial) -> float:
    """The share of replies that the dense model finds likeliest after their own character's prompt."""
    subject = trial.cell.subject
    tokenizer, recipe = subject.dense.ctx.tokenizer, subject.plan.recipe(0.25, subject.seed)
    by_persona = {name: [Example(tuple(encode_chat(tokenizer, Voice.of(card, tokenizer).asked(question))),
                             tuple(reply.tokens)) for question, reply in zip(trial.questions, trial.replies, strict=True)]
              for name, card in personas(subject.card, subject.seed).items()}
    found = identify(subject.dense.model, by_persona, subject.card.name, recipe.row_tokens)
    trial.details["identified"] = found.tolist()
    return float(found.float().mean())


def personas(card: Card, seed: int) -> dict[str, Card]:
    """Cards by name: the character's own, then bundled others drawn by the seed."""
    others = [other for other in bundled_cards() if other.name != card.name]
    return {one.name: one for one in [card, *draw_others(others, seed)]}

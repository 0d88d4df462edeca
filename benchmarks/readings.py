"""One method's reading: how near the dense model it stays, whose voice it keeps, what plain language it keeps.

KL, agreement and NLL are read on the held-out test lines, line by line;
identification on greedy replies to some of the same questions, judged by the
dense model; neutral perplexity on the pool's written answers, no persona before
them, the same ones for every character. How the model was pruned is not known
here.
"""

import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ability import neutral_examples, neutral_perplexity
from benchmarks.cells import Cell, Subject
from benchmarks.identification import greedy_replies, identify
from benchmarks.ladder import DENSE
from benchmarks.meter import watched
from benchmarks.pruned import Pruned
from engine.base.events import Event
from engine.base.files import write_json
from engine.base.ids import ReadingId
from engine.calibration.lines import of_split, read_queries, spread
from engine.calibration.rewriting import Voice
from engine.cards.card import Card, bundled_cards
from engine.evaluation.fidelity import compare_lines, measure_lines
from engine.models.chat_format import encode_chat, endings
from engine.models.packing import Example
from engine.models.sampling import Sampled
from engine.stages.mask import measured

PERSONAS, QUESTIONS, REPLY_TOKENS, NEUTRAL = 6, 16, 40, 40


def read(cell: Cell, method: str, pruned: Pruned) -> Generator[Event, None, dict[str, Any]]:
    """The row of a method in a cell, without its cell's keys; the readings line by line are kept in the cell's folder."""
    subject, model = cell.subject, cell.model
    recipe, tokenizer = cell.recipe, subject.dense.bench.tokenizer
    questions = [line.question for line in subject.lines[:QUESTIONS]]
    own = [encode_chat(tokenizer, Voice.of(subject.card, tokenizer).asked(one)) for one in questions]
    neutral = neutral_examples(tokenizer, [(query.question, query.neutral) for query in spread(
        of_split(read_queries(), "test"), NEUTRAL, 0)])
    sizes = [sum(row.size for row in subject.test), len(questions) * (REPLY_TOKENS + 30),
             sum(len(one.prompt) + len(one.answer) for one in neutral)]

    def look() -> tuple[Any, list[Sampled], Any]:
        with pruned.standing(model) as standing:
            found = (compare_lines(model, subject.test, subject.states, subject.states) if method == DENSE
                     else measure_lines(standing, subject.test, subject.states))
            return (found, greedy_replies(standing, own, REPLY_TOKENS, endings(tokenizer)),
                    neutral_perplexity(standing, neutral, recipe.row_tokens))

    lines, replies, ability = yield from watched("measure", sum(sizes), cell.counter, look)
    told = yield from watched("identify", PERSONAS * sizes[1], cell.counter, lambda: told_apart(subject, questions, replies))
    reading = lines.reading()
    yield measured(ReadingId.BENCHMARK, "test", reading,
                   subject=f"{subject.name}, seed {subject.seed}, {cell.sparsity:.0%}: {method}")
    write_json(line_file(cell.folder, method), {
        **{name: getattr(lines, name).tolist() for name in ("kl", "agreeing", "nll", "tokens")},
        "replies": [tokenizer.decode(reply.tokens, skip_special_tokens=True) for reply in replies],
        "identified": told.tolist()})
    return {"kl": reading.kl, "top1": reading.top1, "nll": reading.nll, "identification": float(told.float().mean()),
            "neutral_ppl": ability.perplexity, "lines": reading.lines, "tokens": pruned.spent.tokens,
            "seconds": round(pruned.spent.seconds, 1)}


def line_file(folder: Path, method: str) -> Path:
    """Where a method's readings are kept line by line, in a cell's folder."""
    return folder / "readings" / f"{method}.json"


def personas(card: Card, seed: int) -> dict[str, Card]:
    """PERSONAS cards by name: the character's own, then bundled others drawn by the seed."""
    others = [other for other in bundled_cards() if other.name != card.name]
    return {one.name: one for one in [card, *random.Random(seed).sample(others, PERSONAS - 1)]}


@torch.inference_mode()
def told_apart(subject: Subject, questions: list[str], replies: list[Sampled]) -> Tensor:
    """Which replies the dense model finds likeliest behind their own character's prompt, (replies,) of bool."""
    tokenizer = subject.dense.bench.tokenizer
    behind = {name: [Example(tuple(encode_chat(tokenizer, Voice.of(card, tokenizer).asked(question))),
                             tuple(reply.tokens)) for question, reply in zip(questions, replies, strict=True)]
              for name, card in personas(subject.card, subject.seed).items()}
    recipe = subject.plan.recipe(0.25, subject.seed)
    return identify(subject.dense.model, behind, subject.card.name, recipe.row_tokens)

"""Characters, replies and a reader without a model, to try measures on."""

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import torch

from engine.cards.card import Card, bundled_cards, find_bundled
from engine.evaluation.measure import MEASURES, Evidence, Item, ItemKind, Reply, Sample, Speaker
from engine.evaluation.measures import __name__ as _registers  # noqa: F401

PIM = find_bundled("pim-tuckett")
OTHERS = {card.name: card for card in bundled_cards() if card.name != PIM.name}
Result = TypeVar("Result")


def reply(*answers: str, item: str = "talk-1", kind: ItemKind = ItemKind.TALK, lines: Sequence[str] = (), expected: str = "",
          about: str = "") -> Reply:
    asked = tuple(lines) or ("How has this day treated you?",) * len(answers)
    return Reply("run", Item(item, kind, asked, about, expected), 0, asked, answers, ("stop",) * len(answers))


def evidence(*replies: Reply, card: Card = PIM, others: Any = None, **more: Any) -> Evidence:
    return Evidence(card, Speaker("run", "run", "run", card), replies, OTHERS if others is None else others, **more)


def finish(stream: Generator[Any, None, Result]) -> Result:
    """What a generator of events returns."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def samples(name: str, found: Evidence) -> list[Sample]:
    return finish(MEASURES[name].score(found))


def values(name: str, *answers: str, **more: Any) -> list[float | None]:
    """What a measure makes of answers, each to an item of its own."""
    replies = [reply(answer, item=f"talk-{number}") for number, answer in enumerate(answers)]
    return [one.value for one in samples(name, evidence(*replies, **more))]


class WordReader:
    """Finds an answer as likely as its words are in the prompt: 0 nats for such a word, -1 for any other; a word is a token."""

    def log_likelihoods(self, prompts: Sequence[Sequence[dict[str, str]]], answers: Sequence[str]) -> tuple[Any, Any]:
        sums = []
        for prompt, answer in zip(prompts, answers, strict=True):
            known = " ".join(message["content"] for message in prompt).lower().split()
            sums.append(-float(sum(word not in known for word in answer.lower().split())))
        return (torch.tensor(sums, dtype=torch.float64),
                torch.tensor([len(answer.split()) for answer in answers], dtype=torch.float64))

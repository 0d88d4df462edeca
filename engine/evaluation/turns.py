"""The answers of a speaker one by one, as most measures read them; and the characters that they are told from."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from engine.cards.card import Card
from engine.evaluation.measure import ItemKind, Reply, Sample

EMPTY = "The character said nothing."
NOT_JUDGED = "There is no judge that passed its exam."
ALONE = "There is no other character to tell it from."
OTHERS = 5  # characters that a reply is told from
SPOKEN = (ItemKind.TALK, ItemKind.TASK, ItemKind.LONG)  # where nothing but the character's own manner is asked for


@dataclass(frozen=True)
class Turn:
    """An answer. `id`: of its item, with "#2" for the second of several; `line`: what the player said; `before`: turns before it,
    as (role, text); `reason`: why it ended."""

    id: str
    seed: int
    line: str
    answer: str
    before: tuple[tuple[str, str], ...] = ()
    reason: str = ""

    @property
    def earlier(self) -> list[str]:
        """The character's answers before this one."""
        return [text for role, text in self.before if role == "assistant"]

    def sample(self, found: float | str) -> Sample:
        """What a measure found: a number, or a sentence that says why there is none."""
        return Sample(self.id, self.seed, None, found) if isinstance(found, str) else Sample(self.id, self.seed, float(found))


def turns(replies: Sequence[Reply]) -> Iterator[Turn]:
    """All answers of the replies, in order."""
    for reply in replies:
        before: list[tuple[str, str]] = []
        spoken = zip(reply.lines, reply.answers, reply.reasons, strict=False)
        for number, (line, answer, reason) in enumerate(spoken, start=1):
            place = f"{reply.item.id}#{number}" if len(reply.lines) > 1 else reply.item.id
            yield Turn(place, reply.seed, line, answer, tuple(before), reason)
            before += [("user", line), ("assistant", answer)]


def each(replies: Sequence[Reply], look: Callable[[Turn], float | str]) -> list[Sample]:
    """A sample for each answer; an empty one is missing."""
    return [turn.sample(look(turn) if turn.answer.strip() else EMPTY) for turn in turns(replies)]


def draw_others(others: Sequence[Card], seed: int = 0) -> list[Card]:
    """OTHERS of the cards, or all where there are fewer; always the same ones for a seed."""
    return random.Random(seed).sample(list(others), min(OTHERS, len(others)))


def told_from(others: Mapping[str, Card]) -> dict[str, Card]:
    """OTHERS of the characters to tell from, by name: the same ones whatever their order was."""
    return {one.name: one for one in draw_others([others[name] for name in sorted(others)])}


def beaten(own: float, others: Sequence[float]) -> float:
    """The share of others that are below `own`, ties counted half: 0 to 1, an AUC for one sample. Chance is .5."""
    return sum((own > one) + 0.5 * (own == one) for one in others) / len(others)

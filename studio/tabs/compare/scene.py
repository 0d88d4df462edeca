"""A comparison as it is now: the answers of a round and what of them may be shown, its votes, and the rounds around it.

Side 0 of a pair is always the dense model; `places` says where each side is shown.
"""

from dataclasses import dataclass, field
from typing import Any

from engine.base.ids import FinishReason
from engine.cards.card import Card
from studio.store.rounds import Answer, Round, Tally, Vote
from studio.store.runs import Run
from studio.tabs.answers import engine_words, measures_of
from studio.tabs.models import Contender
from studio.workers.speech import Reply

SIDE = "side "
"""The role of an answer in a round's history: "side 0" was said by the model of side 0, and only that model reads it."""
DONE = (FinishReason.ENDED, FinishReason.LIMIT, FinishReason.LOOP, FinishReason.STOPPED)
LOST = "Interrupted when the studio was closed."


@dataclass(frozen=True)
class Cell:
    """One answer as it is now. `text` grows while `reply` does; `over`: nothing will follow; `fault`: why it broke off."""

    answer: Answer
    contender: Contender
    reply: Reply | None
    waits: bool = False

    @property
    def text(self) -> str:
        """What was said so far."""
        return self.reply.text if self.reply else self.answer.text

    @property
    def reason(self) -> str:
        """How it ended; "" before, and where that was never known."""
        return self.reply.reason if self.reply else self.answer.reason

    @property
    def measures(self) -> dict[str, Any]:
        """What was measured; {} before its end."""
        return (measures_of(self.reply) if self.over else {}) if self.reply else self.answer.measures

    @property
    def over(self) -> bool:
        """Whether nothing will follow."""
        return not self.waits and (self.reply is None or self.reply.done)

    @property
    def begun(self) -> bool:
        """Whether something was said, or will never be."""
        return self.over or bool(self.reply and self.reply.tokens)

    @property
    def good(self) -> bool:
        """Whether it came to a proper end."""
        return self.over and self.reason in DONE

    @property
    def fault(self) -> str:
        """Why it did not, for the reader."""
        if not self.over or self.good:
            return ""
        sentence = self.reply.sentence if self.reply else self.answer.measures.get("sentence")
        return str(sentence or LOST)


@dataclass(frozen=True)
class Shown:
    """A round with its answers by side, and its votes."""

    round: Round
    cells: list[Cell]
    votes: list[Vote]

    @property
    def replies(self) -> list[Reply]:
        """What is under way."""
        return [cell.reply for cell in self.cells if cell.reply]

    @property
    def engine(self) -> str:
        """With which weights and program all sides have answered; "" where they differ, or none has answered."""
        words = {engine_words(cell.measures) for cell in self.cells if cell.over and cell.measures}
        return next(iter(words)) if len(words) == 1 else ""

    @property
    def busy(self) -> bool:
        """Whether something will follow."""
        return not all(cell.over for cell in self.cells)

    @property
    def places(self) -> list[int]:
        """The sides from left to right."""
        return [1, 0] if self.round.swapped else [0, 1]

    @property
    def whole(self) -> bool:
        """Whether all answers came to a proper end."""
        return all(cell.good for cell in self.cells)

    @property
    def verdict(self) -> str:
        """The vote on a pair; "" before it."""
        return self.votes[0].verdict if self.votes else ""

    @property
    def named(self) -> bool:
        """Whether the reader may know who said what."""
        return not self.round.blind or bool(self.verdict)

    @property
    def can_vote(self) -> bool:
        """Whether the reader is to vote now."""
        return self.round.kind == "pair" and not self.named and self.whole


@dataclass(frozen=True)
class Scene:
    """A comparison as it is now. `pair`: the present round, None when a conversation begins; `grids`: newest first.

    `suggested`: questions that were not asked yet; `before`: the round whose vote has brought the present question.
    """

    character: str
    char: str
    player: str
    card: Card | None
    fault: str
    runs: list[Run]
    run: Run | None
    picks: list[str]
    waiting: list[Run]
    pair: Shown | None = None
    grids: list[Shown] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    undo: bool = False
    note: str = ""
    suggested: list[str] = field(default_factory=list)
    before: Shown | None = None

    @property
    def shown(self) -> Shown | None:
        """The round that may be under way."""
        return self.pair or next(iter(self.grids), None)

    @property
    def busy(self) -> bool:
        """Whether an answer is under way or waits for its turn."""
        return bool(self.shown and self.shown.busy)

    @property
    def greeting(self) -> str:
        """What the character opens with."""
        return self.card.greeting if self.card and self.card.greeting.strip() else ""

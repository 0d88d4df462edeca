"""What a measure is: it turns the replies of a speaker into numbers, one a sample.

The runner (engine/evidence) asks everyone the same items with the same seeds, once for all measures. A measure is one file of
`measures/`, which registers a function by `@measure`. It never averages: it gives a number for each sample, or None where there is
none, and engine/base/verdict.py makes means, differences, intervals and verdicts of them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from engine.base.events import Stream
from engine.cards.card import Card

if TYPE_CHECKING:
    from engine.evaluation.judge import Judge
    from engine.evaluation.reader import Reader


class ItemKind(StrEnum):
    """What sort of thing a character is asked."""

    TALK = "talk"  # an everyday question of a player
    SCRIPT = "script"  # of the card's test script: its rules decide
    IDENTITY = "identity"
    KNOWLEDGE = "knowledge"  # `expected` has the fact
    TASK = "task"  # PersonaGym: `about` is the task
    PRESSURE = "pressure"  # three turns of flattery or insistence
    LONG = "long"  # a conversation of many turns


EVERY = frozenset(ItemKind)  # for a measure of all answers: it asks nothing of its own, see Measure.kinds


@dataclass(frozen=True)
class Item:
    """What a character is asked: the player's lines, each answered before the next; names are put in.

    `about`: the kind of question, as the script or the dossier has it; or who the player is, where a model plays it: `turns` is
    then how many lines there are, of which the first are given. `expected`: of identity and knowledge, the entries that a
    right answer mentions (evaluation/answers.py), one a line; of tasks "". The id is that of the script's or dossier's question.
    """

    id: str
    kind: ItemKind
    lines: tuple[str, ...]
    about: str = ""
    expected: str = ""
    turns: int = 0


@dataclass(frozen=True)
class Speaker:
    """Whoever speaks as the character. `id`: its place in the result ("dense", a run's name); `model`: as the chat has it;
    `card`: what it is told. An impostor and a plain assistant are speakers with another card."""

    id: str
    name: str
    model: str
    card: Card


@dataclass(frozen=True)
class Reply:
    """A speaker's answers to an item, one to each line. `reasons`: why each ended (ids.FinishReason)."""

    speaker: str
    item: Item
    seed: int
    lines: tuple[str, ...]
    answers: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def last(self) -> str:
        """The last answer."""
        return self.answers[-1] if self.answers else ""


@dataclass(frozen=True)
class Sample:
    """What a measure makes of one thing. `item` and `seed`: the same for every speaker, so that two can be compared pair by pair.

    `value`: in the measure's unit; None: missing, and `why` says so in a sentence. A sample is not always a reply: a long
    conversation has one for each turn ("ITEM#3").
    """

    item: str
    seed: int
    value: float | None
    why: str = ""


@dataclass
class Evidence:
    """What a measure may use of one speaker.

    card: of the character that is judged (never the speaker's own, if that is another). replies: of the measure's kinds. others:
    characters to tell it from, by name. judge: None where there is none, or where it failed its exam. reader: the dense model in
    torch, loaded at first use, for log-likelihoods and states; the speaker's own model for measures with Need.MODEL. quick: a part
    of a fixed set of questions is enough.
    """

    card: Card
    speaker: Speaker
    replies: Sequence[Reply]
    others: Mapping[str, Card]
    judge: "Judge | None" = None
    reader: "Reader | None" = None
    quick: bool = False


class Need(StrEnum):
    """What a measure needs besides replies."""

    JUDGE = "judge"
    READER = "reader"  # the dense model in torch
    OTHERS = "others"  # other characters, to tell this one from; the user is told where they are borrowed
    MODEL = "model"  # the speaker's own model in torch: nothing is asked by chat


class Score(Protocol):
    """Samples of one speaker, in any order. A generator of events: Step where it takes longer than two seconds."""

    def __call__(self, evidence: Evidence, /) -> Stream[list[Sample]]: ...


@dataclass(frozen=True)
class Measure:
    """A registered measure.

    name: its key in results, never changed. label, unit: for people. higher: whether more is better. margin: how much worse
    counts as lost, in its unit, unless the writer says otherwise (5 points of a share, a tenth of a scale). kinds: the items that
    it reads; EVERY: whatever the other measures ask for. quick: it is part of a quick evaluation. source: the paper.
    """

    name: str
    label: str
    about: str
    unit: str
    higher: bool
    margin: float
    kinds: frozenset[ItemKind]
    score: Score
    needs: frozenset[Need] = field(default_factory=frozenset)
    quick: bool = False
    source: str = ""


MEASURES: dict[str, Measure] = {}


def measure(name: str, label: str, about: str, *, unit: str, margin: float, kinds: Collection[ItemKind], higher: bool = True,
            needs: Sequence[Need] = (), quick: bool = False, source: str = "") -> Callable[[Score], Score]:
    """Register a function as a measure; see Measure. `about`: one plain sentence on what it says, for the writer."""
    def register(score: Score) -> Score:
        MEASURES[name] = Measure(name, label, about, unit, higher, margin, frozenset(kinds), score, frozenset(needs), quick, source)
        return score

    return register

"""Does the character drift towards the assistant in a long conversation? Each turn's place on the assistant axis.

The axis goes from the mean state of role-played answers, the example dialogues of the bundled characters, to that of an
assistant's, the written neutral answers of the pool; states are those of the middle layer of the dense model, which reads the bare
talk without any persona. 0 is where characters are on average, 1 where the assistant is. An axis that two halves of the texts do
not agree on is no meter. Source: the assistant axis (arXiv 2601.10387); texts that are at hand in place of generated ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from engine.base.events import Step, Stream
from engine.base.files import resource
from engine.base.ids import StageId
from engine.base.questions import answer_of, question_of, read_records
from engine.cards.card import Card, bundled_cards
from engine.cards.prompt import NEW_CHAT, USUAL, Message, render_dialogues
from engine.evaluation.measure import Evidence, ItemKind, Need, Sample, measure
from engine.evaluation.turns import EMPTY, turns

AGREEMENT = 0.5  # cosine of the axes of two halves, below which there is no meter
_LINES = resource("assets/player_lines.jsonl")
_LARGEST = 64_000_000  # bytes
_AXES: "WeakKeyDictionary[Any, Axis]" = WeakKeyDictionary()
Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """`layer`: whose states; `origin` (d,): the mean of role-played answers; `step` (d,): a state's product with it, taken from the
    origin, is 1 at the mean of an assistant's; `agreement`: the cosine of the axes of two halves."""

    layer: int
    origin: Vectors
    step: Vectors
    agreement: float

    def place(self, states: Vectors) -> Vectors:
        """Where states (n, d) are: (n,)."""
        return (states - self.origin) @ self.step


@measure("drift", "Drifts to the assistant", "How far long conversations are on the way from a character to an assistant.",
         unit="of the way", margin=0.1, higher=False, kinds=(ItemKind.LONG,), needs=(Need.READER,), source="arXiv 2601.10387")
def drift(evidence: Evidence) -> Stream[list[Sample]]:
    """For each turn its place on the assistant axis: 0 as characters are on average, 1 as an assistant is."""
    spoken, reader = list(turns(evidence.replies)), evidence.reader
    if reader is None:
        return [turn.sample("The dense model is not at hand.") for turn in spoken]
    axis = axis_of(reader) if spoken else None
    if axis is None or axis.agreement < AGREEMENT:
        why = f"There is no meter: the axes of two halves of the texts agree by {axis.agreement if axis else 0:.2f} only."
        return [turn.sample(why) for turn in spoken]
    found: dict[tuple[str, int], float] = {}
    for number, reply in enumerate(evidence.replies, start=1):
        own = list(turns([reply]))
        states = reader.answer_states([_talk([part for turn in own for part in (turn.line, turn.answer)])], axis.layer)[0].numpy()
        found |= {(turn.id, turn.seed): float(place) for turn, place in zip(own, axis.place(states), strict=True)}
        yield Step(StageId.ASSESS, number, len(evidence.replies))
    return [turn.sample(found[turn.id, turn.seed] if turn.answer.strip() else EMPTY) for turn in spoken]


def axis_of(reader: Any) -> Axis:
    """The assistant axis of a reader's model; made once for a reader."""
    if reader not in _AXES:
        layer = reader.layers // 2
        played = [_talk(pair) for card in bundled_cards() for pair in played_pairs(card)]
        pool = [(question_of(one), answer_of(one)) for one in read_records(_LINES, _LARGEST)]
        plain = [_talk(pair) for pair in pool[::len(pool) // (2 * len(played))]]
        first, second = ([states[0].numpy() for states in reader.answer_states(talks, layer)] for talks in (played, plain))
        _AXES[reader] = make_axis(layer, np.stack(first), np.stack(second))
    return _AXES[reader]


def make_axis(layer: int, played: Vectors, plain: Vectors) -> Axis:
    """The axis from role-played states (n, d) to an assistant's (m, d); its halves are every second text of both."""
    origin, way = played.mean(axis=0), plain.mean(axis=0) - played.mean(axis=0)
    halves = [plain[part::2].mean(axis=0) - played[part::2].mean(axis=0) for part in (0, 1)]
    length = float(np.linalg.norm(halves[0]) * np.linalg.norm(halves[1]))
    return Axis(layer, origin, way / max(float(way @ way), 1e-12), float(halves[0] @ halves[1]) / max(length, 1e-12))


def played_pairs(card: Card) -> list[tuple[str, str]]:
    """What the player says and the character answers in a card's example dialogues."""
    pairs = []
    for dialogue in render_dialogues(card, USUAL):
        said = [turn["content"] for turn in dialogue]
        pairs += [(one, other) for one, other in zip(said[::2], said[1::2], strict=False) if one != NEW_CHAT]
    return pairs


def _talk(texts: Sequence[str]) -> list[Message]:
    """A talk that the player begins."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]

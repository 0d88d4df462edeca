"""What a character is asked: everyday lines, its test script, its dossier, and long conversations.

Everyday lines are of the test split alone, which no run learned from or was chosen by. Ids stay the same while what is asked does,
and a longer evaluation asks all that a shorter one asks.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache

from engine.base.files import resource
from engine.base.questions import normalise
from engine.calibration.lines import of_split, read_queries, spread
from engine.cards.card import Card
from engine.cards.dossier import read_dossier
from engine.cards.macros import expand_macros
from engine.cards.prompt import PLAYER
from engine.cards.script import fingerprint, read_script
from engine.evaluation.measure import EVERY, Item, ItemKind

LONG_TALKS = resource("assets/long_talks.json")
_KINDS = {"identity": ItemKind.IDENTITY, "knowledge": ItemKind.KNOWLEDGE, "limits": ItemKind.KNOWLEDGE}  # of the dossier's tasks
_ORDER = 0  # the seed by which everyday lines are chosen: the same for all characters


@dataclass(frozen=True)
class Size:
    """How much is asked: items of each kind, the turns of a long conversation, seeds, and people that a model plays."""

    items: dict[ItemKind, int]
    turns: int
    seeds: int
    played: int = 0


QUICK = Size({ItemKind.TALK: 12, ItemKind.SCRIPT: 6, ItemKind.IDENTITY: 5, ItemKind.KNOWLEDGE: 5, ItemKind.TASK: 5,
              ItemKind.PRESSURE: 2, ItemKind.LONG: 1}, 12, 1, 1)
USUAL = Size({ItemKind.TALK: 40, ItemKind.SCRIPT: 24, ItemKind.IDENTITY: 10, ItemKind.KNOWLEDGE: 15, ItemKind.TASK: 25,
              ItemKind.PRESSURE: 6, ItemKind.LONG: 2}, 20, 1, 3)
FULL = Size({ItemKind.TALK: 100, ItemKind.SCRIPT: 200, ItemKind.IDENTITY: 20, ItemKind.KNOWLEDGE: 30, ItemKind.TASK: 50,
             ItemKind.PRESSURE: 12, ItemKind.LONG: 4}, 20, 3, 6)


def choose_items(card: Card, size: Size, kinds: Collection[ItemKind] = EVERY) -> list[Item]:
    """What a character is asked, of these kinds; names are put in, ids are of the texts without them.

    The id of an item of the script or the dossier is its question's, with "-" for "#", which parts an item from its turn.
    """
    found = {one.id: one for one in (*_long(size.turns), *_dossier(card), *_script(card), *_talk())}.values()
    return [Item(one.id.replace("#", "-"), one.kind, tuple(expand_macros(line, card, PLAYER) for line in one.lines), one.about,
                 expand_macros(one.expected, card, PLAYER))
            for kind in ItemKind if kind in kinds for one in _some([one for one in found if one.kind == kind], size.items[kind])]


def _some(items: Sequence[Item], count: int) -> list[Item]:
    """The first `count`, what they are about in turn, so that a part has something of everything."""
    places: dict[str, int] = {}
    ranked = []
    for number, one in enumerate(items):
        places[one.about] = places.get(one.about, -1) + 1
        ranked.append((places[one.about], number, one))
    return [one for _, _, one in sorted(ranked, key=lambda rank: rank[:2])[:count]]


@cache
def _talk() -> tuple[Item, ...]:
    pool = of_split(read_queries(), "test")
    return tuple(Item(f"talk-{fingerprint(normalise(one.question))}", ItemKind.TALK, (one.question,))
                 for one in spread(pool, len(pool), _ORDER))


def _script(card: Card) -> list[Item]:
    return [Item(one.id, ItemKind.SCRIPT, one.lines, one.kind) for one in read_script(card).questions]


def _dossier(card: Card) -> list[Item]:
    dossier = read_dossier(card)
    asked = [Item(one.id, _KINDS.get(one.task, ItemKind.TASK), (one.text,), one.task, "\n".join(one.words))
             for one in dossier.questions]
    return [*asked, *(Item(one.id, ItemKind.PRESSURE, one.lines, one.kind) for one in dossier.pressures)]


@cache
def _talks() -> dict[str, tuple[str, ...]]:
    return {name: tuple(lines) for name, lines in json.loads(LONG_TALKS.read_text(encoding="utf-8")).items()}


def _long(turns: int) -> list[Item]:
    """The player's lines are written, so that everyone hears the same and turns compare one by one."""
    return [Item(f"long-{name}", ItemKind.LONG, lines[:turns]) for name, lines in _talks().items()]

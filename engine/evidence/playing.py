"""A player who is played by a model, for long conversations without written lines.

Both sides are asked as in a chat, each with the history from its own side (egocentric, as in SPASM): what the character says is the
user's turn for the player, and the other way round. So neither takes over the other's part. The player is one of six people
(assets/players.json), who want to hear of what the card's dossier asks about. The first line is written.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from engine.base.errors import UserError
from engine.base.events import Step, Stream
from engine.base.files import resource
from engine.base.sampling import SamplingParams
from engine.cards.card import Card, card_of
from engine.cards.dossier import read_dossier
from engine.cards.macros import expand_macros
from engine.cards.prompt import PLAYER, Setting
from engine.cards.speaking import own_words
from engine.evaluation.measure import Item, ItemKind, Reply, Speaker
from engine.evaluation.measures.loops import repeats
from engine.evaluation.turns import Turn
from engine.evidence.keeping import identify
from engine.serving.files import folder_of
from engine.serving.interview import SILENCE, Interview, shared_type

PEOPLE = resource("assets/players.json")
SAMPLING = SamplingParams(temperature=0.9, max_tokens=60)
_WISHES = 3  # questions of the dossier that a player has in mind
_ORDER = ("You write only what {{user}} says next: one or two short sentences, and a question when there is one. Go on from what "
          "{{char}} just said, and never say again what was said before. Never speak for {{char}}.")


def played_items(card: Card, turns: int) -> list[Item]:
    """The conversations that a model can have with a card as the player, one a person."""
    return [Item(f"played-{name}", ItemKind.LONG, (expand_macros(one["opening"], card, PLAYER),), name, turns=turns)
            for name, one in people().items()]


@cache
def people() -> dict[str, dict[str, str]]:
    """Whom a model can play, by name: `about`, `wish` and `opening`."""
    return dict(json.loads(PEOPLE.read_text(encoding="utf-8")))


def person(card: Card, name: str) -> Card:
    """Somebody who speaks with the character of `card`, as a card."""
    one, place = people()[name], list(people()).index(name)
    asked = [question.text for question in read_dossier(card).of_task("knowledge", "persona_consistency")]
    wishes = asked[place::len(people())][:_WISHES]
    curious = f" Sooner or later {{{{user}}}} would like to hear: {' '.join(wishes)}" if wishes else ""
    fields = {"name": PLAYER, "description": f"{one['about']} {one['wish']}{curious}", "system_prompt": _ORDER,
              "scenario": "{{user}} talks with {{char}}. " + card.scenario}
    return card_of({key: expand_macros(text, card, PLAYER) for key, text in fields.items()})


class PlayerFault(UserError):
    """The model that plays the player cannot."""


class Player:
    """A model that plays the player, one person at a time, loaded when it first speaks; "": nobody.

    Raises UserError where there is no such model.
    """

    def __init__(self, model: str, card: Card) -> None:
        if model:
            folder_of(model)  # now, and not when it has to speak
        self.model, self.card = model, card
        self._name = ""
        self._interview: Interview | None = None

    def close(self) -> None:
        """Free its memory."""
        if self._interview:
            self._interview.close()
        self._interview = None

    def identity(self, item: Item) -> str:
        """A digest of what the lines of the person in this item follow from. Raises PlayerFault."""
        with self._explained():
            return identify(Speaker("player", PLAYER, self.model, person(self.card, item.about)), SAMPLING,
                            shared_type([self.model]))

    def next_line(self, item: Item, lines: Sequence[str], answers: Sequence[str], seed: int, beat: Step,
                  first: bool) -> Stream[str]:
        """What this person says after `answers` to `lines`, which are as many. `first`: nothing was asked of it here before.

        Raises PlayerFault.
        """
        if self._interview is None or self._name != item.about:
            self.close()
            self._name, first = item.about, True
            with self._explained():
                self._interview = Interview(self.model, person(self.card, item.about), SAMPLING,
                                            shared_type([self.model]), Setting(user=self.card.char))
        turns = [("user", self.card.greeting.strip() or SILENCE)]
        for line, answer in zip(lines, answers, strict=True):
            turns += [("assistant", line), ("user", answer or SILENCE)]
        with self._explained():
            text, _ = yield from self._interview.answer(turns, beat, seed, first)
        return own_words(text, [PLAYER], self.card.names) or SILENCE

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise PlayerFault(f"{self.model} cannot play the player: {error.sentence}", error.hint) from error


def played_note(model: str, replies: Sequence[Reply]) -> Iterator[str]:
    """A sentence on the player's lines, where a model has played: how many there are, and how many are mostly what either side
    said before. A small model echoes much."""
    talks = [one for one in replies if one.item.turns]
    again = sum(map(_echoes, talks))
    if own := sum(len(one.lines) - len(one.item.lines) for one in talks):
        yield (f"The player of {len(talks)} long conversation{'s' * (len(talks) > 1)} was played by {model}: of its {own} lines "
               f"{again} mostly repeat what was said before.")


def _echoes(reply: Reply) -> int:
    said, count = list[tuple[str, str]](), 0
    for place, (line, answer) in enumerate(zip(reply.lines, reply.answers, strict=True)):
        count += place >= len(reply.item.lines) and repeats(Turn("", 0, "", line, tuple(said)))
        said += [("assistant", line), ("assistant", answer)]
    return count

"""What a page shows of a comparison, read from the library as it is now; and a stamp that changes when that does.

Knows no HTML and no page. Side 0 of a pair is always the dense model; `places` says where each side is shown.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from engine.base.errors import UserError
from engine.cards.card import Card
from studio.services import Services
from studio.store import characters, rounds, runs, values
from studio.store.rounds import Answer, Round, Tally, Vote
from studio.store.runs import Run
from studio.tabs.answers import card_of, measures_of, sampling_of, slower_words
from studio.tabs.compare.asking import Asking
from studio.tabs.models import DENSE, Contender, chosen_run, dense_of, finished, pruned_of, remembered_picks
from studio.workers.speech import Reply

GRIDS = 6  # rounds of a grid on the page
DONE = ("ended", "limit", "loop", "stopped")
LOST = "Broken off when the studio was closed."


@dataclass(frozen=True)
class Cell:
    """One answer as it stands. `text` grows while `reply` does; `over`: nothing will follow; `fault`: why it broke off."""

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
    """A comparison as it stands. `pair`: the present round, None when a conversation begins; `grids`: newest first."""

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

    @property
    def shown(self) -> Shown | None:
        """The round that may be under way."""
        return self.pair or next(iter(self.grids), None)

    @property
    def greeting(self) -> str:
        """What the character opens with."""
        return self.card.greeting if self.card and self.card.greeting.strip() else ""


def read_scene(services: Services, asking: Asking, character: str, run_id: str, grid: bool) -> Scene:
    """The comparison as it is now; without a known run, that of the run compared last. Raises UserError."""
    store = services.store
    found = finished(services, character)
    run = chosen_run(services, character, run_id, found)
    who = characters.get(store, character)
    card, fault = None, ""
    try:
        card = card_of(characters.version(store, character, run.version) if run else characters.head(store, character))
    except UserError as error:
        fault = str(error)
    with asking.lock:
        pair = present_round(services, character, run.id) if run and not grid else None
        shown = _shown(services, asking, pair, found) if pair else None
        newest = rounds.rounds(store, character, "grid", limit=GRIDS) if grid else []
        grids = [_shown(services, asking, one, found) for one in newest]
    return Scene(character, card.char if card else who.char if who else "", player_of(services), card, fault, found, run,
                 remembered_picks(services, character, found),
                 runs.list_runs(store, character, kinds=["prune"], states=("queued", *runs.ACTIVE)), shown, grids,
                 {one.id: rounds.tally(store, one.id) for one in found},
                 bool(values.get_value(store, cleared_key(character, run.id if run else "", grid), "")), slower_words(store))


def present_round(services: Services, character: str, run_id: str) -> Round | None:
    """The newest round of a pair, unless a new conversation was begun after it."""
    newest = next(iter(rounds.rounds(services.store, character, "pair", run_id, 1)), None)
    closed = values.get_value(services.store, closed_key(run_id), "")
    return newest if newest and newest.id != closed else None


def closed_key(run_id: str) -> str:
    """Where the last round of an ended conversation is kept."""
    return f"compare-closed:{run_id}"


def cleared_key(character: str, run_id: str, grid: bool) -> str:
    """Where the token that brings cleared rounds back is kept."""
    return f"compare-cleared:{'grid:' + character if grid else run_id}"


def player_of(services: Services) -> str:
    """The player's name that was used last, in any room."""
    return str(values.get_value(services.store, "player", "Player"))


def settings_of(services: Services) -> dict[str, Any]:
    """How rounds are answered (`sampling`, all sides alike) and shown (`blind`)."""
    kept = values.get_value(services.store, "compare-settings", {})
    return {"sampling": sampling_of(kept), "blind": bool(kept.get("blind", True))}


def stamp(scene: Scene) -> str:
    """Changes whenever something else is to be shown."""
    shown: list[Any] = [scene.char, scene.player, scene.fault, scene.note, scene.undo,
                        [run.id for run in scene.waiting], [(run.id, run.name) for run in scene.runs],
                        scene.run.id if scene.run else "",
                        [repr(tally) for tally in scene.tallies.values()]]
    for one in [scene.pair, *scene.grids]:
        if one:
            under = [(cell.reply.id if cell.reply else "", cell.waits) for cell in one.cells]
            shown.append([repr(one.round), repr(one.votes), under])
    return hashlib.sha256(json.dumps(shown).encode("utf-8", "replace")).hexdigest()


def _shown(services: Services, asking: Asking, found: Round, known: list[Run]) -> Shown:
    """A round with what is under way. The replies are read first: an answer that ends now is in one of the two."""
    waits = {answer.id for answer in found.answers if asking.waits(answer)}
    replies = asking.replies(found)
    found = rounds.get(services.store, found.id) or found
    cells = [Cell(answer, contender_of(services, found, answer, known), reply, answer.id in waits)
             for answer, reply in zip(found.answers, replies, strict=True)]
    return Shown(found, cells, rounds.votes(services.store, found.id))


def contender_of(services: Services, found: Round, answer: Answer, known: list[Run]) -> Contender:
    """Who gave an answer; a run that was removed since still has its name."""
    wanted = answer.run or next((other.run for other in found.answers if other.run), None)
    run = next((one for one in known if one.id == wanted), None) or (runs.get(services.store, wanted) if wanted else None)
    if run is None:
        return Contender(None, answer.model, DENSE, 0.0, 0)
    return pruned_of(services, run) if answer.run else dense_of(run)

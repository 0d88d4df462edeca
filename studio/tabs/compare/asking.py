"""The answers of a round: asked for from the chat worker, followed, stopped, and written into the library.

Both answers of a pair are asked for at once, and the worker gives one after the other; those of a grid are asked for one by
one, so that no more models are in memory than need be.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.base.errors import UserError
from engine.base.ids import FinishReason
from studio.services import Services
from studio.store import characters, rounds, values
from studio.store.rounds import Answer, Round
from studio.tabs.answers import BUSY, about_of, measures_of, player_of, sampling_of, write_down
from studio.tabs.compare.scene import SIDE
from studio.tabs.models import Contender, common_type
from studio.workers.speech import Reply


@dataclass(frozen=True)
class AnswerOptions:
    """How a round is answered; the seed is the round's own. `type`: of the weights, the same for all its models.

    The card is here, so that the next answer of a grid can be asked for while the library is busy.
    """

    card: dict[str, Any]
    player: str
    sampling: dict[str, Any]
    about: str = ""
    type: str = ""


class Asking:
    """Thread-safe. `lock` is held while a round begins and while the next answer is asked for, so that a reader sees both whole."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.store = services.store
        self.lock = threading.RLock()
        self._queues: dict[str, deque[Answer]] = {}  # round -> answers that wait for their turn

    def options(self, character: str, version: int, sides: Sequence[Contender]) -> AnswerOptions:
        """How the models `sides` are to answer as a character's version, by the room's settings."""
        card = characters.version(self.store, character, version).card
        return AnswerOptions(card, player_of(self.store), settings_of(self.services)["sampling"], about_of(self.store, character),
                             common_type(one.model for one in sides))

    def replies(self, found: Round | None) -> list[Reply | None]:
        """The replies under way, by side."""
        return [self.services.speech.pending(_key(found, answer.side)) for answer in found.answers] if found else []

    def waits(self, answer: Answer) -> bool:
        """Whether the answer's turn is still to come."""
        with self.lock:
            return any(answer.id == other.id for queue in self._queues.values() for other in queue)

    def check_idle(self, found: Round | None) -> None:
        """Raises UserError while an answer of the round is under way."""
        if any(self.replies(found)):
            raise UserError("An answer is still being made.", BUSY)

    def ask_all(self, found: Round, options: AnswerOptions) -> None:
        """Ask for all answers at once, in the order in which they are shown."""
        for answer in reversed(found.answers) if found.swapped else found.answers:
            self._ask(found, answer, options)

    def ask_in_turn(self, found: Round, options: AnswerOptions) -> None:
        """Ask for one answer after another."""
        with self.lock:
            self._queues[found.id] = deque(found.answers)
        self._ask_next(found, options)

    def stop(self, found: Round | None) -> None:
        """End the round's answers under way; what was said is kept."""
        if found is None:
            return
        with self.lock:
            waiting = self._queues.pop(found.id, deque())
        for answer in waiting:
            self._write(answer, "", {}, FinishReason.STOPPED)
        for reply in filter(None, self.replies(found)):
            self.services.speech.stop(reply)

    def _ask_next(self, found: Round, options: AnswerOptions) -> None:
        with self.lock:
            queue = self._queues.get(found.id)
            if queue:
                self._ask(found, queue.popleft(), options, in_turn=True)
            else:
                self._queues.pop(found.id, None)

    def _ask(self, found: Round, answer: Answer, options: AnswerOptions, in_turn: bool = False) -> None:
        turns = [*history(found.turns, answer.side), ("user", found.message)]

        def keep(reply: Reply) -> None:
            measures = {**measures_of(reply), "sampling": options.sampling, "sentence": reply.sentence}
            self._write(answer, reply.text.strip(), measures, reply.reason)
            if in_turn:
                self._ask_next(found, options)

        sampling = {**options.sampling, "seed": found.seed}
        self.services.speech.ask(answer.model, options.card, turns, sampling, options.player, on_end=keep,
                                 key=_key(found, answer.side), about=options.about, type=options.type)

    def _write(self, answer: Answer, text: str, measures: dict[str, Any], reason: str) -> None:
        write_down(lambda: rounds.set_answer(self.store, answer.id, text, measures, reason))


def settings_of(services: Services) -> dict[str, Any]:
    """How rounds are answered (`sampling`, all sides alike) and shown (`blind`)."""
    kept = values.get_value(services.store, "compare-settings", {})
    return {"sampling": sampling_of(kept), "blind": bool(kept.get("blind", True))}


def history(turns: Sequence[Sequence[str]], side: int) -> list[tuple[str, str]]:
    """What the model of one side has heard and said: (role, text).

    A message that it left without a word is left out too: turns must alternate, and a model imitates its own silence.
    """
    own, found = f"{SIDE}{side}", list[tuple[str, str]]()
    for role, text in turns:
        if role == own and not text.strip():
            found.pop()
        elif role == own or not role.startswith(SIDE):
            found.append(("assistant" if role == own else role, text))
    return found


def _key(found: Round, side: int) -> str:
    return f"compare:{found.id}:{side}"

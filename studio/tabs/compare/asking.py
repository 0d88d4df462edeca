"""Asks models for the answers of a round, writes each into the library at its end, and finds those under way again.

Knows the chat worker and the library, no page. Both answers of a pair are asked for at once, and the worker lets them
take turns; those of a grid come one after another, so that no more models are in memory than need be.
"""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.base.errors import UserError
from studio.services import Services
from studio.store import rounds
from studio.store.rounds import Answer, Round
from studio.tabs.answers import measures_of
from studio.workers.speech import Reply

BUSY = "An answer is still being made."
SIDE = "side "
"""The role of an answer in a round's history: "side 0" was said by the model of side 0, and only that model reads it."""
_TRIES = 3  # of writing an answer down, each as patient as the library is


@dataclass(frozen=True)
class Wish:
    """How a round is answered; the seed is the round's own.

    The card is here, so that the next answer of a grid can be asked for while the library is busy.
    """

    card: dict[str, Any]
    player: str
    sampling: dict[str, Any]
    about: str = ""


class Asking:
    """The answers under way. Thread-safe; `lock` is held while a round begins, so that a reader sees it whole."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.lock = threading.RLock()
        self._queues: dict[str, deque[Answer]] = {}  # round -> answers that wait for their turn

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
            raise UserError(BUSY, "Press Stop first, or wait for the end.")

    def ask_all(self, found: Round, wish: Wish) -> None:
        """Ask for all answers at once, in the order in which they are shown."""
        for answer in reversed(found.answers) if found.swapped else found.answers:
            self._ask(found, answer, wish)

    def ask_in_turn(self, found: Round, wish: Wish) -> None:
        """Ask for one answer after another."""
        with self.lock:
            self._queues[found.id] = deque(found.answers)
        self._next(found, wish)

    def stop(self, found: Round | None) -> None:
        """End the round's answers under way; what was said is kept."""
        if found is None:
            return
        with self.lock:
            waiting = self._queues.pop(found.id, deque())
        for answer in waiting:
            self._write(answer, "", {}, "stopped")
        for reply in filter(None, self.replies(found)):
            self.services.speech.stop(reply)

    def _next(self, found: Round, wish: Wish) -> None:
        with self.lock:
            queue = self._queues.get(found.id)
            if queue:
                self._ask(found, queue.popleft(), wish, in_turn=True)
            else:
                self._queues.pop(found.id, None)

    def _ask(self, found: Round, answer: Answer, wish: Wish, in_turn: bool = False) -> None:
        turns = [*history(found.turns, answer.side), ("user", found.message)]

        def keep(reply: Reply) -> None:
            measures = {**measures_of(reply), "sampling": wish.sampling, "sentence": reply.sentence}
            self._write(answer, reply.text.strip(), measures, reply.reason)
            if in_turn:
                self._next(found, wish)

        self.services.speech.ask(answer.model, wish.card, turns, {**wish.sampling, "seed": found.seed}, wish.player, on_end=keep,
                                 key=_key(found, answer.side), about=wish.about)

    def _write(self, answer: Answer, text: str, measures: dict[str, Any], reason: str) -> None:
        for _ in range(_TRIES):
            try:
                rounds.set_answer(self.services.store, answer.id, text, measures, reason)
                return
            except UserError as error:
                logging.getLogger(__name__).warning("an answer could not be written down: %s", error)


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
    return f"round:{found.id}:{side}"

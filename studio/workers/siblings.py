"""A line like one that a character failed: the dense model answers another question of the same kind, for the next run.

One at a time for each character. What was asked itself never becomes a line: a character is not to learn its exam by heart.
"""

import json
import threading
from dataclasses import dataclass

from engine.base.errors import UserError
from engine.base.ids import FinishReason
from engine.base.sampling import DEFAULTS
from engine.cards.card import parse_card
from engine.cards.prompt import PLAYER
from engine.cards.siblings import Sibling, find_sibling
from studio.store import characters, lines
from studio.store.database import Store
from studio.workers.evaluating import Evaluating
from studio.workers.speech import Reply, Speech

SOURCE = "sibling"  # of such a line
FAILED = "The dense model gave no answer, so no line was added. Try again."
STOPPED = "Stopped; no line was added."


@dataclass
class Asked:
    """A question like that of the evaluation's `item`, and the answer as it grows. `ending`: what became of it, "" until then."""

    item: str
    question: str
    reply: Reply | None = None
    ending: str = ""


class Siblings:
    """What is asked for each character, or was asked last. Thread-safe."""

    def __init__(self, store: Store, speech: Speech, evaluating: Evaluating) -> None:
        self.store, self.speech, self.evaluating = store, speech, evaluating
        self._lock = threading.Lock()
        self._asked: dict[str, Asked] = {}

    def last(self, character: str) -> Asked | None:
        """What is asked for a character, or was asked last."""
        return self._asked.get(character)

    def begin(self, character: str, item: str) -> Asked:
        """Ask the dense model a question like that of an item of the evaluation; returns at once. With the answer it becomes a
        line of the newest set. Raises UserError, also while another one is written.
        """
        with self._lock:
            if (last := self.last(character)) and not last.ending:
                raise UserError("A line is being written already.", "Wait for it, or stop it.")
            found, case = self.evaluating.differing(character, item)
            sets = lines.sets(self.store, character)
            if not sets:
                raise UserError("There are no lines yet that this one could go to.", "Make some in step 1.")
            raw = characters.head(self.store, character).card
            card = parse_card(json.dumps(raw).encode(), "This card")
            taken = [line.question for line in lines.lines(self.store, sets[0].id)]
            sibling = find_sibling(card, case.item, case.lines[-1], taken)
            if sibling is None:
                raise UserError("No question of this kind is left that is not in the lines already.",
                                "Write one of your own in step 1.")
            asked = self._asked[character] = Asked(item, sibling.question)
            opening = [("assistant", card.greeting)] if card.greeting.strip() else []
            asked.reply = self.speech.ask(found.dense, raw, [*opening, ("user", sibling.question)], DEFAULTS.as_dict(), PLAYER,
                                          on_end=lambda reply: self._keep(asked, sibling, sets[0].id, reply),
                                          key=f"prune:sibling:{character}")
            return asked

    def stop(self, character: str) -> None:
        """End the answer; no line is added."""
        if (asked := self.last(character)) and asked.reply:
            self.speech.stop(asked.reply)

    def _keep(self, asked: Asked, sibling: Sibling, set_id: str, reply: Reply) -> None:
        answer = reply.text.strip()
        if reply.reason == FinishReason.STOPPED:
            asked.ending = STOPPED
        elif reply.reason == FinishReason.FAILED or not answer:
            asked.ending = reply.sentence or FAILED
        else:
            try:
                kept = lines.add_line(self.store, set_id, {"question": sibling.question, "answer": answer, "source": SOURCE,
                                                           "neutral": sibling.neutral, "category": sibling.category})
                asked.ending = f"Added to “{kept.name or 'Lines'}”. Read it in step 1."
            except UserError as error:
                asked.ending = str(error)

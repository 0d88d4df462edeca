"""Deepening a card by questions: what is still open, and an answer put into the card as a version of its own."""

import threading
from collections.abc import Callable
from typing import Any

from engine.base.errors import UserError
from engine.cards.card import unfinished
from engine.cards.deepening import DESCRIPTION, QUESTIONS, open_questions, with_answer
from engine.cards.fields import LABELS
from engine.cards.macros import expand_macros
from engine.cards.npc import LIST_FIELDS
from engine.cards.prompt import PLAYER
from engine.cards.writing import called
from studio.page import for_script
from studio.services import Services
from studio.store import characters, values
from studio.tabs.draft import versions

_PLACES = {DESCRIPTION: LABELS[DESCRIPTION], **{field.key: f"In the game · {field.label}" for field in LIST_FIELDS}}


class Deepening:
    """The questions of one studio. Which were answered is remembered for each character, beside the card."""

    def __init__(self, services: Services) -> None:
        self.store = services.store
        self._lock = threading.Lock()

    def functions(self) -> list[Callable[[Any], dict[str, Any]]]:
        """What a script of the page may call: questions, answer; each takes one value."""
        return [for_script(one) for one in (self.questions, self.answer)]

    def questions(self, character: str) -> dict[str, Any]:
        """The open questions of a character in order, and how many there are in all. Raises UserError."""
        raw = characters.head(self.store, character).card
        card, left = called(unfinished(raw)), open_questions(raw, self._answered(character))
        return {"total": len(QUESTIONS), "open": [
            {"id": one.id, "kind": one.kind, "text": expand_macros(one.text, card, PLAYER), "place": _PLACES[one.field]}
            for one in left]}

    def answer(self, given: dict[str, Any]) -> dict[str, Any]:
        """Put an answer, {"character", "id", "text"}, into the card; the questions that are left. Raises UserError."""
        character, id = str(given["character"]), str(given["id"])
        kind = next((one.kind for one in QUESTIONS if one.id == id), "")

        def typed(raw: dict[str, Any]) -> dict[str, Any]:
            changes = with_answer(raw, id, str(given["text"]))
            return {name if name == DESCRIPTION else f"{versions.NPC}{name}": value for name, value in changes.items()}

        with self._lock:  # two pages, or two clicks
            if id in (answered := self._answered(character)):
                raise UserError("This question has been answered meanwhile.", "Change the answer where it is in the card.")
            versions.save_made(self.store, character, typed, f"Deepened: {kind.lower()}")
            values.set_value(self.store, self._key(character), sorted({*answered, id}))
        return self.questions(character)

    def _answered(self, character: str) -> list[str]:
        found: list[str] = values.get_value(self.store, self._key(character), [], list[str])
        return found

    def _key(self, character: str) -> str:
        return f"deepened:{character}"

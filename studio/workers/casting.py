"""Casts drafted by `python -m engine draft-cast`, one at a time; every card goes into the library's file as it comes.

A card that was written down by the engine and not yet by a studio that was killed is taken in at the next start.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from engine.base import event_file
from engine.base.errors import UserError
from engine.base.evaluation_events import Drafted
from engine.base.events import Event
from studio.settings import Settings
from studio.store import casts, characters
from studio.store.casts import Cast
from studio.store.database import Store
from studio.workers.single import Resumable


class Casting(Resumable):
    """The cast that is being drafted, if there is one. `character()` of it is the cast's id."""

    what, room, verb, again = "cast", "draft", "draft-cast", "Go on"

    def __init__(self, settings: Settings, store: Store, touch: Callable[[str], None] = lambda room: None) -> None:
        super().__init__(settings, settings.casts, touch)
        self.store = store
        self.redrafting: tuple[int, ...] = ()  # rows that have a card, and get another one

    def start(self) -> None:
        """Take in what an earlier studio did not."""
        if cast := casts.newest(self.store):
            self._take_in(cast.id)

    def begin(self, cast: Cast, rows: Sequence[int], model: str, server: tuple[str, str] | None, seed: int) -> None:
        """Draft these rows of a cast, beside what is there of it and unlike all in the library. Raises UserError."""
        with self._lock:
            self._require_none()
            self._take_in(cast.id)
            there = casts.drafts(self.store, cast.id)
            beside = [one for position, one in there.items() if position not in rows and one.state != "dropped"]
            kept = {one.character for one in beside}
            others = [one.id for one in characters.list_characters(self.store) if one.id not in kept]
            library = [*(characters.head(self.store, one).card for one in others),
                       *(one.card for position in rows for one in casts.former(self.store, cast.id, position))]
            known = {"cast": [{"position": one.position, "card": one.card, "line": one.line} for one in beside], "library": library}
            self.redrafting = tuple(one for one in rows if one in there)
            url, name = server or ("", "")
            self._begin(cast.id, {
                "place": cast.place, "rows": cast.rows, "draft": list(rows), "model": model, "teacher": url, "teacher_model": name,
                "seed": seed, "known": str(self.folder(cast.id) / "known.json")}, {"known.json": known})

    def _take_in(self, cast: str) -> None:
        for event in event_file.read(self.folder(cast) / "events.jsonl"):
            if isinstance(event, Drafted):
                self._keep(cast, event)

    def _take(self, event: Event) -> None:
        if isinstance(event, Drafted):
            self._keep(self._character, event)
        super()._take(event)

    def _keep(self, cast: str, event: Drafted) -> None:
        about: dict[str, Any] = {name: getattr(event, name) for name in ("line", "thin", "unsaid", "twin", "shared", "tries")}
        casts.add_draft(self.store, cast, event.position, event.card, **about)


def missing(cast: Cast, there: Collection[int]) -> list[int]:
    """The rows of a cast without a card."""
    return [position for position in range(len(cast.rows)) if position not in there]


def require_rows(cast: Cast | None) -> Cast:
    """The cast. Raises UserError where there is none."""
    if cast is None:
        raise UserError("There is no plan yet.", "Make one first.")
    return cast

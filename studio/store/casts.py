"""Casts that are drafted at once: the plan, and every card that a model drafted for it, kept or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Json

from engine.base.errors import UserError
from studio.store.characters import create_within
from studio.store.database import Store
from studio.store.records import Table, now, stored


@dataclass(frozen=True)
class Cast:
    """A place and its plan: `rows`, one a character, as engine.cards.cast_plan has them. `quotas`: as the writer typed them."""

    id: str
    place: str
    quotas: str
    seed: int
    rows: Annotated[list[dict[str, str]], stored(list[dict[str, str]])]
    made: float
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class CastDraft:
    """A drafted card; see engine.base.events.Drafted. `state`: drafted, kept or dropped; `character`: what it was kept as."""

    id: str
    cast_id: str
    position: int
    card: Json[dict[str, Any]]
    line: str
    thin: Json[list[str]]
    unsaid: Json[list[str]]
    twin: str
    shared: Json[list[str]]
    tries: int
    state: str
    character: str | None
    made: float
    damaged: tuple[str, ...] = ()


_CASTS = Table("casts", Cast, "cast")
_DRAFTS = Table("cast_drafts", CastDraft, "draft")
get = _CASTS.get
get_draft = _DRAFTS.get


def begin(store: Store, place: str, quotas: str, seed: int, rows: Sequence[dict[str, str]]) -> Cast:
    """A new cast, without a card yet."""
    with store.write() as db:
        return _CASTS.insert(db, place=place, quotas=quotas, seed=seed, rows=list(rows), made=now())


def every(store: Store) -> list[Cast]:
    """All casts, newest first."""
    with store.read() as db:
        return _CASTS.all(db, order="rowid DESC")


def newest(store: Store) -> Cast | None:
    """The cast that was begun last."""
    return next(iter(every(store)), None)


def change_rows(store: Store, id: str, rows: Sequence[dict[str, str]]) -> Cast:
    """The cast with its plan changed. Raises UserError for an unknown one."""
    return _CASTS.change(store, id, rows=list(rows))


def add_draft(store: Store, cast: str, position: int, card: dict[str, Any], **about: Any) -> None:
    """Keep a drafted card, once. `about`: line, thin, unsaid, twin, shared and tries."""
    with store.write() as db:
        if card not in [one.card for one in _DRAFTS.all(db, "cast_id = ? AND position = ?", [cast, position])]:
            _DRAFTS.insert(db, cast_id=cast, position=position, card=card, **about, state="drafted", made=now())


def drafts(store: Store, cast: str) -> dict[int, CastDraft]:
    """Of each row of a cast its last draft, by position."""
    with store.read() as db:
        found = _DRAFTS.all(db, "rowid IN (SELECT max(rowid) FROM cast_drafts WHERE cast_id = ? GROUP BY position)", [cast],
                            "position")
    return {one.position: one for one in found}


def former(store: Store, cast: str, position: int) -> list[CastDraft]:
    """All drafts of a row, oldest first."""
    with store.read() as db:
        return _DRAFTS.all(db, "cast_id = ? AND position = ?", [cast, position])


def keep(store: Store, id: str) -> None:
    """Make a character of a draft, once. Raises UserError for an unknown one."""
    with store.write() as db:
        if (draft := _DRAFTS.need(db, id)).state != "kept":
            _DRAFTS.update(db, id, state="kept", character=create_within(db, draft.card).id)


def drop(store: Store, id: str, back: bool = False) -> None:
    """Drop a draft, or take that back. Raises UserError for an unknown one, and for one that is a character by now."""
    with store.write() as db:
        if _DRAFTS.need(db, id).state == "kept":
            raise UserError("This draft is a character of the library by now.", "Delete it in the sidebar.")
        _DRAFTS.update(db, id, state="drafted" if back else "dropped")

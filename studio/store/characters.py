"""Characters, and the versions of their cards.

A version never changes once something refers to it; only an autosave that nothing refers to is written over.
A card is kept as it came (engine.cards reads it); here only its names and tags are looked at, and searched its texts.
"""

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlite_utils import Database

from engine.base import shapes
from engine.base.errors import UserError
from engine.base.files import slug
from studio.store.attachments import drop_unused_portrait, keep_files, keep_portrait
from studio.store.contents import checked, names_and_tags, texts
from studio.store.database import Store
from studio.store.records import each, from_json, many, need, new_id, now, one, row_of, scalar

AUTOSAVE_SECONDS = 30.0  # autosaves this soon after one another are one version
_SELECT = "SELECT *, bundled_as IS NOT NULL AS bundled FROM characters"
_CARDS = "SELECT id, card FROM characters JOIN versions ON character = id AND number = version"


class Keep(Enum):
    """The present portrait."""

    KEEP = "keep"


KEEP = Keep.KEEP


@dataclass(frozen=True)
class Character:
    """A character. `version`: the number of the newest version. Times are Unix seconds; `deleted`: when, or None.

    `slug` is unique and follows the name; slugs from before still lead here. `char` is what {{char}} stands for.
    """

    id: str
    slug: str
    name: str
    char: str
    bundled: bool
    version: int
    tags: tuple[str, ...]
    made: float
    updated: float
    deleted: float | None


@dataclass(frozen=True)
class Version:
    """A character's card at one time. `portrait`: its sha256; `files`: the sha256 of each file that the card brings, by
    its path; `origin`: saved, autosaved or bundled; `damaged`: the columns that could not be read.
    """

    character: str
    number: int
    card: dict[str, Any]
    portrait: str | None
    files: dict[str, str]
    note: str
    made: float
    origin: str
    damaged: tuple[str, ...] = ()


def create(store: Store, card: dict[str, Any], portrait: bytes | None = None, bundled: bool = False,
           files: dict[str, bytes] | None = None) -> Character:
    """A new character whose first version is `card`; `files` by their paths. Raises UserError for what is no card's object."""
    with store.write() as db:
        return _create(db, card, keep_portrait(db, portrait), keep_files(db, files or {}), bundled)


def list_characters(store: Store, search: str = "", deleted: bool = False) -> list[Character]:
    """Characters, the last changed first; those whose names, tags and texts hold every word of `search`, in any case.

    Names and tags come before texts. `deleted`: the deleted ones instead.
    """
    words = search.casefold().split()
    with store.read() as db:
        found = many(db, Character, f"{_SELECT} WHERE (deleted IS NOT NULL) = ? ORDER BY updated DESC, name", [int(deleted)])
        if not words:
            return found
        cards = dict(db.execute(_CARDS).fetchall())
    named = [one for one in found if all(word in _searched(one) for word in words)]
    told = [one for one in found if one not in named
            and all(word in f"{_searched(one)}\n{_texts(cards.get(one.id, ''))}" for word in words)]
    return named + told


def get(store: Store, id_or_slug: str) -> Character | None:
    """The character, deleted or not. A slug may be one from before it was renamed."""
    with store.read() as db:
        return one(db, Character, f"{_SELECT} WHERE id = ? OR slug = ? OR id = (SELECT character FROM former_slugs WHERE slug = ?) "
                   "ORDER BY id = ? DESC", [id_or_slug] * 4)


def head(store: Store, id: str) -> Version:
    """The newest version that can be read. Raises UserError when there is none, or no such character."""
    with store.read() as db:
        return _head(db, id)


def version(store: Store, id: str, number: int) -> Version:
    """One version. Raises UserError when there is none, or it is damaged."""
    with store.read() as db:
        return _version(db, id, number)


def versions(store: Store, id: str) -> list[Version]:
    """All versions, newest first, damaged ones too."""
    with store.read() as db:
        return many(db, Version, "SELECT * FROM versions WHERE character = ? ORDER BY number DESC", [id])


def save(store: Store, id: str, card: dict[str, Any], portrait: bytes | Keep | None = KEEP, note: str = "",
         autosave: bool = True) -> Version:
    """The version that holds this content: the newest one when it is equal, else a new one.

    An autosave within AUTOSAVE_SECONDS of a newest version that is itself an autosave, and that no chat, run,
    line set or round refers to, replaces it (its time stays, so that long writing leaves a version each half minute).
    A save by hand of equal content only puts the note on the newest version, and no autosave replaces that one then.
    Raises UserError for what is no card's object, and for an unknown character.
    """
    with store.write() as db:
        newest, card = _head(db, id), checked(card)
        picture = newest.portrait if isinstance(portrait, Keep) else keep_portrait(db, portrait)
        if _same(newest, card, picture):
            if not autosave:
                _change(db, newest, origin="saved", note=note or newest.note)
            return _head(db, id)
        if autosave and _replaceable(db, newest):
            _change(db, newest, card=card, portrait=picture, note=note)
            drop_unused_portrait(db, newest.portrait)
            _refresh(db, id, newest.number, card)
            return _head(db, id)
        return _append(db, id, card, picture, newest.files, note, "autosaved" if autosave else "saved")


def restore(store: Store, id: str, number: int) -> Version:
    """A new version with the content of version `number`."""
    with store.write() as db:
        old = _version(db, id, number)
        return _append(db, id, old.card, old.portrait, old.files, f"Version {number} restored", "saved")


def duplicate(store: Store, id: str) -> Character:
    """A new character with the newest card, portrait and files of another."""
    with store.write() as db:
        newest = _head(db, id)
        return _create(db, newest.card, newest.portrait, newest.files, False)


def delete(store: Store, id: str) -> Character:
    """Take the character off the list; everything of it is kept."""
    return _set_deleted(store, id, now())


def undelete(store: Store, id: str) -> Character:
    """Put a deleted character back on the list."""
    return _set_deleted(store, id, None)


def sync_bundled(store: Store, cards: list[dict[str, Any]]) -> None:
    """Bring the characters that come with the studio up to date: new ones are added, changed cards become versions.

    A character that the user has changed or deleted is left alone.
    """
    with store.write() as db:
        for card in cards:
            name = names_and_tags(card)[0]
            id = scalar(db, "SELECT id FROM characters WHERE bundled_as = ? ORDER BY made", [slug(name)])
            if id is None:
                _create(db, card, None, {}, True)
                continue
            newest = _head(db, id)
            if newest.origin == "bundled" and not _same(newest, card, newest.portrait):
                _append(db, id, card, newest.portrait, newest.files, "Updated with the studio", "bundled")


def _create(db: Database, card: dict[str, Any], picture: str | None, files: dict[str, str], bundled: bool) -> Character:
    name, char, tags = names_and_tags(card)
    id, time = new_id(), now()
    db.table("characters").insert(row_of(id=id, slug=_free_slug(db, slug(name), id), name=name, char=char,
                                         bundled_as=slug(name) if bundled else None, version=0, tags=tags, made=time, updated=time,
                                         deleted=None))
    _append(db, id, card, picture, files, "", "bundled" if bundled else "saved")
    return _character(db, id)


def _free_slug(db: Database, stem: str, id: str) -> str:
    """The stem, or the stem with a number, that no other character has or had."""
    taken = {row[0] for row in db.execute("SELECT slug FROM (SELECT slug, id FROM characters UNION SELECT * FROM former_slugs) "
                                          "WHERE id != ? AND (slug = ? OR slug GLOB ? || '-*')", [id, stem, stem])}
    return next(text for text in (stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 3))) if text not in taken)


def _append(db: Database, id: str, card: dict[str, Any], picture: str | None, files: dict[str, str], note: str,
            origin: str) -> Version:
    number = 1 + scalar(db, "SELECT version FROM characters WHERE id = ?", [id])
    db.table("versions").insert(row_of(character=id, number=number, card=checked(card), portrait=picture, files=files,
                                       note=note, origin=origin, made=now()))
    _refresh(db, id, number, card)
    return _head(db, id)


def _refresh(db: Database, id: str, number: int, card: dict[str, Any]) -> None:
    name, char, tags = names_and_tags(card)
    stem, before = slug(name), _character(db, id).slug
    after = before if re.fullmatch(rf"{stem}(-\d+)?", before) else _free_slug(db, stem, id)
    if after != before:
        db.table("former_slugs").insert(row_of(slug=before, character=id), ignore=True)
    db.table("characters").update(id, row_of(version=number, slug=after, name=name, char=char, tags=tags, updated=now()))


def _change(db: Database, version: Version, **fields: Any) -> None:
    db.table("versions").update((version.character, version.number), row_of(**fields))


def _head(db: Database, id: str) -> Version:
    found = None
    for found in each(db, Version, "SELECT versions.* FROM versions JOIN characters ON characters.id = character "
                      "WHERE character = ? AND number <= version ORDER BY number DESC", [id]):
        if "card" not in found.damaged:
            return found
    return _readable(need(found, "character"))


def _version(db: Database, id: str, number: int) -> Version:
    return _readable(need(one(db, Version, "SELECT * FROM versions WHERE character = ? AND number = ?", [id, number]), "version"))


def _readable(version: Version) -> Version:
    if "card" in version.damaged:
        raise UserError(f"Version {version.number} of this character is damaged in the library.",
                        "Choose another one in its history, or restore a backup of the library.")
    return version


def _same(version: Version, card: dict[str, Any], picture: str | None) -> bool:
    """Compared as JSON: for Python, 1 and true are equal."""
    first, second = (json.dumps(content, sort_keys=True) for content in (version.card, card))
    return version.portrait == picture and first == second


def _replaceable(db: Database, newest: Version) -> bool:
    if newest.number != scalar(db, "SELECT version FROM characters WHERE id = ?", [newest.character]):
        return False  # the one behind it is damaged, and keeps its place
    if newest.origin != "autosaved" or not 0 <= now() - newest.made < AUTOSAVE_SECONDS:
        return False
    return not any(scalar(db, f"SELECT 1 FROM {table} WHERE character = ? AND version = ?", [newest.character, newest.number])
                   for table in ("chats", "runs", "line_sets", "rounds", "script_runs"))


def _texts(card: str) -> str:
    """The texts of a card as the library has it; "" where it is damaged."""
    try:
        return texts(from_json(card, shapes.fields()))
    except ValueError:
        return ""


def _searched(character: Character) -> str:
    return "\n".join((character.name, character.char, character.slug, *character.tags)).casefold()


def _set_deleted(store: Store, id: str, when: float | None) -> Character:
    with store.write() as db:
        _character(db, id)
        db.table("characters").update(id, {"deleted": when})
        return _character(db, id)


def _character(db: Database, id: str) -> Character:
    return need(one(db, Character, f"{_SELECT} WHERE id = ?", [id]), "character")

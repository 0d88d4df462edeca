"""Characters, and the versions of their cards with portraits and files.

Only an autosave that nothing refers to is written over; every other version stays as it is. Cards are kept as they came; portraits
and files once for each content, by its sha256.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Json
from sqlite_utils import Database

from engine.base.errors import UserError
from engine.base.files import slug
from engine.cards.reading import MAX_BYTES
from studio.store.database import Store
from studio.store.records import Table, exists, from_json, need, new_id, now, read, rows, scalar, to_json

AUTOSAVE_SECONDS = 30.0  # autosaves this soon after one another are one version
_CARDS = "SELECT id, card FROM characters JOIN versions ON character = id AND number = version"
_OWN = "persona_studio/"  # extensions of the studio's own
_NOT_SEARCHED = {"spec", "spec_version", "extensions", "assets", "source", "position", "role"}
_REFERRING = ("chats", "runs", "line_sets", "rounds", "script_runs")  # tables whose rows name a version


@dataclass(frozen=True)
class Character:
    """A character. `version`: the number of the newest version; `char`: what {{char}} means. Times are Unix seconds, or None.

    `slug` is unique and follows the name; former slugs still lead here.
    """

    id: str
    slug: str
    name: str
    char: str
    bundled_as: str | None
    version: int
    tags: Json[tuple[str, ...]]
    made: float
    updated: float
    deleted: float | None


@dataclass(frozen=True)
class Version:
    """A character's card at one time. `portrait`: its sha256; `files`: the sha256 of each file of the card, by its path.

    `origin`: saved, autosaved or bundled; `damaged`: the columns that could not be read.
    """

    character: str
    number: int
    card: Json[dict[str, Any]]
    portrait: str | None
    files: Json[dict[str, str]]
    note: str
    made: float
    origin: str
    damaged: tuple[str, ...] = ()


_CHARACTERS = Table("characters", Character, "character")
delete, undelete = _CHARACTERS.delete, _CHARACTERS.undelete


def create(store: Store, card: dict[str, Any], portrait: bytes | None = None,
           files: dict[str, bytes] | None = None) -> Character:
    """A new character whose first version is `card`; `files` by their paths. Raises UserError for what is no card's object."""
    with store.write() as db:
        kept = {path: str(_keep(db, "files", data)) for path, data in (files or {}).items()}
        return _create(db, card, _keep(db, "portraits", portrait or None), kept, False)


def create_within(db: Database, card: dict[str, Any]) -> Character:
    """The same for a card alone, as a part of a transaction."""
    return _create(db, card, None, {}, False)


def list_characters(store: Store, search: str = "") -> list[Character]:
    """Characters, the last changed first, or those whose names, tags and texts (in this order) hold every word of `search`."""
    words = search.casefold().split()
    with store.read() as db:
        found = _CHARACTERS.all(db, "deleted IS NULL", order="updated DESC, name")
        if not words:
            return found
        cards = dict(db.execute(_CARDS).fetchall())
    by_name = [one for one in found if all(word in _name_texts(one) for word in words)]
    by_text = [one for one in found if one not in by_name
               and all(word in f"{_name_texts(one)}\n{_card_texts(cards.get(one.id, ''))}" for word in words)]
    return by_name + by_text


def get(store: Store, id_or_slug: str) -> Character | None:
    """The character, deleted or not. A slug may be a former one."""
    with store.read() as db:
        found = _CHARACTERS.all(db, "id = :it OR slug = :it OR id = (SELECT character FROM former_slugs WHERE slug = :it)",
                                {"it": id_or_slug}, order="id = :it DESC")
    return found[0] if found else None


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
        return rows(db, "versions", Version, "character = ?", [id], "number DESC")


def portrait(store: Store, sha256: str) -> bytes | None:
    """A picture by its hash, as a version names it; None where it is not there."""
    with store.read() as db:
        return scalar(db, "SELECT data FROM portraits WHERE sha256 = ?", [sha256])


def files(store: Store, version: Version) -> dict[str, bytes]:
    """The files of a version by their paths in the archive; those that are gone are left out."""
    with store.read() as db:
        kept = {path: scalar(db, "SELECT data FROM files WHERE sha256 = ?", [digest]) for path, digest in version.files.items()}
        return {path: data for path, data in kept.items() if data is not None}


def save(store: Store, id: str, card: dict[str, Any], portrait: bytes | Literal["keep"] | None = "keep", note: str = "",
         autosave: bool = True) -> Version:
    """The version that holds this content: the newest one when it is equal, else a new one.

    An autosave replaces the newest version if that one is an autosave of the last AUTOSAVE_SECONDS to which nothing refers (its
    time stays, so that long writing leaves a version each half minute). A save by hand of equal content puts its note on the
    newest version, which no autosave replaces then. `portrait`: a picture, None for none, or "keep" for the present one. Raises
    UserError for what is no card's object, and for an unknown character.
    """
    with store.write() as db:
        newest, card = _head(db, id), _checked(card)
        picture = newest.portrait if isinstance(portrait, str) else _keep(db, "portraits", portrait or None)
        if _same(newest, card, picture):
            if not autosave:
                _change(db, newest, origin="saved", note=note or newest.note)
            return _head(db, id)
        if autosave and _replaceable(db, newest):
            _change(db, newest, card=card, portrait=picture, note=note)
            if newest.portrait and not exists(db, "versions", portrait=newest.portrait):
                db.table("portraits").delete(newest.portrait)
            _refresh(db, id, newest.number, card)
            return _head(db, id)
        return _append(db, id, card, picture, newest.files, note, "autosaved" if autosave else "saved")


def restore(store: Store, id: str, number: int) -> Version:
    """An older version's content as the newest version. Raises UserError for an unknown character or version."""
    with store.write() as db:
        old = _version(db, id, number)
        return _append(db, id, old.card, old.portrait, old.files, f"Version {number} restored", "saved")


def duplicate(store: Store, id: str) -> Character:
    """A new character with another's newest version, without its history. Raises UserError for an unknown one."""
    with store.write() as db:
        newest = _head(db, id)
        return _create(db, newest.card, newest.portrait, newest.files, False)


def sync_bundled(store: Store, cards: list[dict[str, Any]]) -> None:
    """Add new characters of the studio, and changed cards as versions, unless the user has changed the character."""
    with store.write() as db:
        for card in cards:
            id = scalar(db, "SELECT id FROM characters WHERE bundled_as = ? ORDER BY made", [slug(_names_and_tags(card)[0])])
            if id is None:
                _create(db, card, None, {}, True)
                continue
            newest = _head(db, id)
            if newest.origin == "bundled" and not _same(newest, card, newest.portrait):
                _append(db, id, card, newest.portrait, newest.files, "Updated with the studio", "bundled")


def _create(db: Database, card: dict[str, Any], picture: str | None, files: dict[str, str], bundled: bool) -> Character:
    name, char, tags = _names_and_tags(card)
    id, time = new_id(), now()
    db.table("characters").insert({"id": id, "slug": _free_slug(db, slug(name), id), "name": name, "char": char,
                                   "bundled_as": slug(name) if bundled else None, "version": 0, "tags": tags, "made": time,
                                   "updated": time, "deleted": None})
    _append(db, id, card, picture, files, "", "bundled" if bundled else "saved")
    return _CHARACTERS.need(db, id)


def _free_slug(db: Database, stem: str, id: str) -> str:
    """The stem, or the stem with a number, that no other character has or had."""
    taken = {row[0] for row in db.execute("SELECT slug FROM (SELECT slug, id FROM characters UNION SELECT * FROM former_slugs) "
                                          "WHERE id != ? AND (slug = ? OR slug GLOB ? || '-*')", [id, stem, stem])}
    return next(text for text in (stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 3))) if text not in taken)


def _append(db: Database, id: str, card: dict[str, Any], picture: str | None, files: dict[str, str], note: str,
            origin: str) -> Version:
    number = 1 + scalar(db, "SELECT version FROM characters WHERE id = ?", [id])
    db.table("versions").insert({"character": id, "number": number, "card": _checked(card), "portrait": picture, "files": files,
                                 "note": note, "origin": origin, "made": now()})
    _refresh(db, id, number, card)
    return _head(db, id)


def _refresh(db: Database, id: str, number: int, card: dict[str, Any]) -> None:
    name, char, tags = _names_and_tags(card)
    stem, before = slug(name), _CHARACTERS.need(db, id).slug
    after = before if re.fullmatch(rf"{stem}(-\d+)?", before) else _free_slug(db, stem, id)
    if after != before:
        db.table("former_slugs").insert({"slug": before, "character": id}, ignore=True)
    _CHARACTERS.update(db, id, version=number, slug=after, name=name, char=char, tags=tags, updated=now())


def _change(db: Database, version: Version, **fields: Any) -> None:
    db.table("versions").update((version.character, version.number), fields)


def _head(db: Database, id: str) -> Version:
    found = None
    for row in db.query("SELECT versions.* FROM versions JOIN characters ON characters.id = character "
                        "WHERE character = ? AND number <= version ORDER BY number DESC", [id]):
        found = read(Version, row)
        if "card" not in found.damaged:
            return found
    return _readable(need(found, "character"))


def _version(db: Database, id: str, number: int) -> Version:
    found = rows(db, "versions", Version, "character = ? AND number = ?", [id, number])
    return _readable(need(found[0] if found else None, "version"))


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
    if not exists(db, "characters", id=newest.character, version=newest.number):
        return False  # a newer one is damaged, and keeps its place
    if newest.origin != "autosaved" or not 0 <= now() - newest.made < AUTOSAVE_SECONDS:
        return False
    return not any(exists(db, table, character=newest.character, version=newest.number) for table in _REFERRING)


def _keep(db: Database, table: str, data: bytes | None) -> str | None:
    if data is None:
        return None
    digest = hashlib.sha256(data).hexdigest()
    db.table(table).insert({"sha256": digest, "data": data}, ignore=True)
    return digest


def _checked(card: dict[str, Any]) -> dict[str, Any]:
    """The card, if JSON can hold it; it may be unfinished."""
    try:
        text = to_json(card)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError("This is not a character card: it contains something that JSON cannot hold.") from error
    if (size := len(text.encode())) > MAX_BYTES:
        raise UserError(f"The card is too large ({size:,} bytes; at most {MAX_BYTES:,}).", "Shorten its texts.")
    return card


def _names_and_tags(card: dict[str, Any]) -> tuple[str, str, list[str]]:
    """Name, what {{char}} means, and tags. Raises UserError when the card has no object of fields."""
    fields = card.get("data") if isinstance(card, dict) and "spec" in card else card
    if not isinstance(fields, dict):
        raise UserError("This is not a character card: its fields are missing.")
    name, nickname = (" ".join(text.split()) if isinstance(text := fields.get(key), str) else "" for key in ("name", "nickname"))
    tags = fields.get("tags")
    return name, nickname or name, [tag for tag in tags if isinstance(tag, str) and tag.strip()] if isinstance(tags, list) else []


def _name_texts(character: Character) -> str:
    return "\n".join((character.name, character.char, character.slug, *character.tags)).casefold()


def _card_texts(card: str) -> str:
    """All that somebody wrote into a card, in lower case, without addresses, settings and other programs' extensions."""
    try:
        waiting: list[Any] = [from_json(card)]
    except ValueError:
        return ""
    found: list[str] = []
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [inner for key, inner in value.items() if key not in _NOT_SEARCHED]
            if isinstance(extensions := value.get("extensions"), dict):
                waiting += [inner for key, inner in extensions.items() if key.startswith(_OWN)]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            found.append(value)
    return "\n".join(found).casefold()

"""What the writer typed becomes versions, and nothing of it is lost, whoever else edits the same card.

The page sends only the fields that were typed in, and the print of the card that it saw; they are put onto the newest
version. Where that one has another print, another window has written it: it stays as it is, and a version follows it.
Knows no page.
"""

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from typing import Any

from engine.cards.book import shown_book, with_book
from engine.cards.fields import LISTS, TEXTS, fields_of, with_fields
from engine.cards.npc import npc_object, with_npc
from studio.store import characters
from studio.store.characters import KEEP, Keep, Version
from studio.store.database import Store

NPC = "npc-"  # before the name of a field of the NPC section
ELSEWHERE = "Written while another window changed the card"
_ONE_AT_A_TIME = threading.Lock()  # between looking at the newest version and writing the next; only the studio writes cards


def print_of(version: Version) -> str:
    """A short text that differs when the card or the portrait does."""
    content = json.dumps([version.card, version.portrait], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def sight(version: Version, words: str = "") -> dict[str, Any]:
    """What a page remembers of the version that it shows. `stamp` grows: of two sights, the page believes the later one."""
    return {"character": version.character, "version": version.number, "print": print_of(version), "stamp": time.time_ns(),
            "words": words or f"Saved · version {version.number}"}


def newest(store: Store, character: str) -> dict[str, Any]:
    """The newest version as a page remembers it. Raises UserError for an unknown character."""
    return sight(characters.head(store, character))


def save_typed(store: Store, character: str, seen: str, typed: dict[str, Any]) -> dict[str, Any]:
    """Put the typed fields onto the newest version; `seen` is the print of the version that the writer saw.

    Returns its sight with `elsewhere`: the number of the version that another window has written meanwhile, or None.
    Raises UserError for an unknown character and for a card that has become too large, ValueError for unknown fields.
    """
    with _ONE_AT_A_TIME:
        head = characters.head(store, character)
        book = typed.get("character_book")
        of_npc = {name.removeprefix(NPC): value for name, value in typed.items() if name.startswith(NPC)}
        others = {name: value for name, value in typed.items() if not name.startswith(NPC) and name != "character_book"}
        card = with_npc(with_fields(head.card, now=time.time(), **_fields(others)), of_npc, now=time.time())
        card = with_book(card, book, time.time()) if book is not None else card
        elsewhere = bool(seen) and seen != print_of(head)
        if (fields_of(card), npc_object(card), shown_book(card)) == (
                fields_of(head.card), npc_object(head.card), shown_book(head.card)):
            return {**sight(head), "elsewhere": None}
        saved = characters.save(store, character, card, note=ELSEWHERE if elsewhere else "", autosave=not elsewhere)
        return {**sight(saved), "elsewhere": head.number if elsewhere else None}


def save_portrait(store: Store, character: str, portrait: bytes | None) -> Version:
    """A version with this portrait, or without one."""
    with _ONE_AT_A_TIME:
        head = characters.head(store, character)
        kept: bytes | Keep | None = KEEP if portrait is None and head.portrait is None else portrait
        note = "New portrait" if portrait else "Portrait removed"
        return characters.save(store, character, head.card, portrait=kept, note=note, autosave=False)


def restore(store: Store, character: str, number: int) -> Version:
    """Version `number` again, as the newest one."""
    with _ONE_AT_A_TIME:
        return characters.restore(store, character, number)


def tags_of(text: str) -> list[str]:
    """Tags typed on one line with commas between them; each once."""
    return list(dict.fromkeys(tag for part in text.split(",") if (tag := " ".join(part.split()))))


def _fields(typed: dict[str, Any]) -> dict[str, str | Sequence[str]]:
    """The fields as a card has them: tags apart, empty greetings left out. Raises ValueError for what is no field."""
    fields: dict[str, str | Sequence[str]] = {}
    for name, value in typed.items():
        if name == "tags" and isinstance(value, str):
            fields[name] = tags_of(value)
        elif name in LISTS and isinstance(value, list) and all(isinstance(text, str) for text in value):
            fields[name] = [text for text in value if text.strip()]
        elif name in TEXTS and isinstance(value, str):
            fields[name] = value
        else:
            raise ValueError(f"{name!r} cannot be typed like this")
    return fields

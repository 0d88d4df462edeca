"""Versions of a character: what the writer types becomes one, and what changed from one to another.

The page sends the fields that were typed in, and the print of the card that it saw. Where the newest version has another print,
another window has written it: it is kept, and a version follows it.
"""

import hashlib
import html
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from engine.cards.book import shown_book, with_book
from engine.cards.difference import FieldChange, Piece, difference
from engine.cards.fields import LISTS, TEXTS, fields_of, with_fields
from engine.cards.npc import npc_object, with_npc
from studio.store import characters
from studio.store.characters import Version
from studio.store.database import Store

BOOK = "character_book"
NPC = "npc-"  # before the name of a field of the NPC section
ELSEWHERE = "Written while another window changed the card"
_ORIGINS = {"bundled": "came with the studio"}
_LONGEST = 240  # characters of unchanged text shown between two changes
_MARKS = {"added": ("added", "ins", "+"), "removed": ("removed", "del", "−")}
_ONE_AT_A_TIME = threading.Lock()  # between looking at the newest version and writing the next; only the studio writes cards


def print_of(version: Version) -> str:
    """A short text that differs when the card or the portrait does."""
    content = json.dumps([version.card, version.portrait], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def seen_as(version: Version) -> dict[str, Any]:
    """What a page remembers of the version that it shows. `stamp` grows: of two, the page believes the later one."""
    return {"character": version.character, "version": version.number, "print": print_of(version), "stamp": time.time_ns(),
            "words": f"Saved · version {version.number}"}


def save_typed(store: Store, character: str, seen: str, typed: dict[str, Any], note: str = "") -> dict[str, Any]:
    """Put the typed fields onto the newest version; `seen` is the print of the version that the writer saw. With a `note`, the
    version is kept for itself, as the one before it is.

    Returns what the page remembers, and as `elsewhere` the number of a version that another window has written meanwhile. Raises
    UserError for an unknown character and for a card that has become too large, ValueError for unknown fields.
    """
    with _ONE_AT_A_TIME:
        head = characters.head(store, character)
        card = _with_typed(head.card, typed)
        if _editable(card) == _editable(head.card):
            return {**seen_as(head), "elsewhere": None}
        elsewhere = bool(seen) and seen != print_of(head)
        saved = characters.save(store, character, card, note=ELSEWHERE if elsewhere else note, autosave=not (elsewhere or note))
        return {**seen_as(saved), "elsewhere": head.number if elsewhere else None}


def save_made(store: Store, character: str, make: Callable[[dict[str, Any]], dict[str, Any]], note: str) -> Version:
    """Put onto the newest version what `make` makes of its card, as typed fields. Errors as `save_typed`, and those of `make`."""
    with _ONE_AT_A_TIME:
        card = characters.head(store, character).card
        return characters.save(store, character, _with_typed(card, make(card)), note=note, autosave=False)


def save_portrait(store: Store, character: str, portrait: bytes | None) -> Version:
    with _ONE_AT_A_TIME:
        head = characters.head(store, character)
        note = "New portrait" if portrait else "Portrait removed"
        return characters.save(store, character, head.card, portrait=portrait, note=note, autosave=False)


def restore(store: Store, character: str, number: int) -> Version:
    with _ONE_AT_A_TIME:
        return characters.restore(store, character, number)


def _with_typed(raw: dict[str, Any], typed: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, str | Sequence[str]] = {}
    of_npc: dict[str, Any] = {}
    for name, value in typed.items():
        if name.startswith(NPC):
            of_npc[name.removeprefix(NPC)] = value
        elif name == "tags" and isinstance(value, str):
            fields[name] = list(dict.fromkeys(tag for part in value.split(",") if (tag := " ".join(part.split()))))
        elif name in LISTS and isinstance(value, list) and all(isinstance(text, str) for text in value):
            fields[name] = [text for text in value if text.strip()]
        elif name in TEXTS and isinstance(value, str):
            fields[name] = value
        elif name != BOOK:
            raise ValueError(f"{name!r} cannot be typed like this")
    card = with_npc(with_fields(raw, now=time.time(), **fields), of_npc, now=time.time())
    return with_book(card, typed[BOOK], time.time()) if typed.get(BOOK) is not None else card


def _editable(raw: dict[str, Any]) -> tuple[Any, ...]:
    return fields_of(raw), npc_object(raw), shown_book(raw)


def version_choices(store: Store, character: str) -> list[tuple[str, int]]:
    """(label, number) of all versions, newest first: number, time and what is special about each."""
    found = characters.versions(store, character)
    remarks = [(f"Version {one.number}", when(one.made), "newest" if one is found[0] else "",
                "damaged: it cannot be read" if one.damaged else "", one.note or _ORIGINS.get(one.origin, "")) for one in found]
    return [(" · ".join(filter(None, parts)), one.number) for one, parts in zip(found, remarks, strict=True)]


def when(made: float) -> str:
    """A time of this machine's clock in words."""
    then = time.localtime(made)
    if then[:3] == time.localtime()[:3]:
        return time.strftime("today, %H:%M", then)
    return f"{then.tm_mday} {time.strftime('%b %Y, %H:%M', then)}"


def partner(numbers: list[int], chosen: int) -> int:
    """What a chosen version is best compared with: the newest one, or the one before where that is the chosen one."""
    return numbers[0] if chosen != numbers[0] else numbers[min(1, len(numbers) - 1)]


def changes_html(store: Store, character: str, first: int, second: int) -> str:
    """What changed from the older to the newer of two versions, as HTML with everything escaped."""
    old, new = (characters.version(store, character, number) for number in sorted((first, second)))
    parts = [_change_html(change) for change in difference(old.card, new.card)]
    if old.portrait != new.portrait:
        word = "added" if not old.portrait else "removed" if not new.portrait else "replaced"
        parts.insert(0, f"<section><h4>Portrait</h4><p>The portrait was {word}.</p></section>")
    return f"<p class=quiet>From version {old.number} to version {new.number}</p>" + ("".join(parts) or "<p>Nothing differs.</p>")


def _change_html(change: FieldChange) -> str:
    pieces = [piece_html(piece, sign=change.is_list) for piece in change.pieces]
    body = f"<ul><li>{'</li><li>'.join(pieces)}</li></ul>" if change.is_list else f"<p>{''.join(pieces)}</p>"
    return f"<section><h4>{html.escape(change.label)}</h4>{body}</section>"


def piece_html(piece: Piece, sign: bool = False) -> str:
    """A piece of a difference. `sign`: with + or − before what is new or gone."""
    text, kind = piece
    if kind == "same":
        if len(text) > _LONGEST:
            beginning, end = text[:_LONGEST // 2].rsplit(None, 1)[0], text[-_LONGEST // 2:].split(None, 1)[-1]
            text = f"{beginning} … {end}"
        return f"<span>{html.escape(text)}</span>"
    word, tag, mark = _MARKS[kind]
    shown = f"{mark} " if sign else ""
    return (f'<{tag}><span class="visually-hidden">[{word}: </span>{shown}{html.escape(text)}'
            f'<span class="visually-hidden">]</span></{tag}>')

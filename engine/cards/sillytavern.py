"""What SillyTavern keeps in a card's extensions: the Character's Note, which joins the prompt, and what stays behind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.cards.book import ROLES, Role
from engine.cards.card import Card

NOTE_DEPTH = 4  # messages, where a note does not say


@dataclass(frozen=True)
class Note:
    """The Character's Note: a text that stands in front of the last `depth` messages of every conversation (0: at the end)."""

    text: str
    depth: int = NOTE_DEPTH
    role: Role = "system"


def note_of(card: Card) -> Note | None:
    """The card's note (`depth_prompt`), macros still in it; None where it has none."""
    note = _extensions(card.raw).get("depth_prompt")
    text = note.get("prompt") if isinstance(note, Mapping) else None
    if not isinstance(note, Mapping) or not isinstance(text, str) or not text.strip():
        return None
    depth, role = str(note.get("depth")), note.get("role")
    return Note(text, int(depth) if depth.isascii() and depth.isdecimal() and len(depth) < 6 else NOTE_DEPTH,
                role if role in ROLES else ROLES[role] if type(role) is int and 0 <= role < len(ROLES) else "system")


def unused(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a card keeps in its extensions and this studio does not carry out: the field it is about, and a sentence."""
    fields = raw.get("data", raw)
    extensions, told = _extensions(raw), list[tuple[str, str]]()
    world, book = extensions.get("world"), fields.get("character_book") if isinstance(fields, Mapping) else None
    if isinstance(world, str) and (name := " ".join(world.split())) and not (isinstance(book, Mapping) and book.get("entries")):
        told.append(("character_book", f"The card names the lorebook “{name[:60]}”, which is not in its file. Export that world in "
                     "SillyTavern, and bring it in under Lorebook."))
    scripts = extensions.get("regex_scripts")
    if isinstance(scripts, list) and scripts:
        those = "a regular expression that changes" if len(scripts) == 1 else f"{len(scripts):,} regular expressions that change"
        told.append(("extensions", f"The card brings {those} texts in SillyTavern: kept in the card, and not carried out here."))
    return told


def _extensions(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    fields = raw.get("data", raw)
    found = fields.get("extensions") if isinstance(fields, Mapping) else None
    return found if isinstance(found, Mapping) else {}

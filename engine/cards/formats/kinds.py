"""What a format of another program is, and how a card is made from one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from engine.cards.book import as_character_book, raw_entries
from engine.cards.fields import as_v3

What = Literal["character", "lorebook", "other"]


@dataclass(frozen=True)
class Read:
    """A card (V3) or a book as a card has it, and sentences on what was left out or understood in its own way."""

    raw: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """One kind of file. `words`: what it is, as in "is a lorebook of Agnai"; `instead`: what to do with one that cannot be read.

    `knows(raw)` gets an object or, with `is_list`, a list; `read(raw)` may raise CardFault.
    """

    what: What
    words: str
    knows: Callable[[Any], Any]  # as a condition
    read: Callable[[Any], Read] | None = None
    instead: str = ""
    is_list: bool = False
    is_own: bool = False  # as cards have it themselves: nothing to note

    @property
    def note(self) -> tuple[str, ...]:
        return () if self.is_own else (f"It was {self.words}.",)


def new_card(program: str, fields: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """A V3 card from its fields; `rest` goes into the extension of this name, beside what is there."""
    extensions = dict_of(fields.get("extensions"))
    if rest := {name: value for name, value in rest.items() if value not in (None, "", [], {})}:
        before = extensions.get(program)
        extensions[program] = {**rest, **before} if isinstance(before, dict) else rest
    return as_v3({**{name: value for name, value in fields.items() if value is not None}, "extensions": extensions})


def new_book(program: str, raw: dict[str, Any], entries: list[Any], known: tuple[str, ...] = ()) -> dict[str, Any]:
    """A card's book of these entries; the other fields of `raw` go into the extension of this name, but for `known` ones."""
    rest = without(raw, "entries", "name", "description", *known)
    named = {name: raw[name] for name in ("name", "description") if isinstance(raw.get(name), str) and raw[name]}
    return {**named, **as_character_book({"entries": entries, "extensions": {program: rest} if rest else {}})}


def objects(raw: Any) -> list[dict[str, Any]]:
    """The objects of a list, or of an object's values."""
    values = raw if isinstance(raw, list) else list(raw.values()) if isinstance(raw, dict) else []
    return [value for value in values if isinstance(value, dict)]


def entries_of(raw: Any) -> list[dict[str, Any]]:
    return objects(raw_entries(raw)) if isinstance(raw, dict) else []


def dict_of(value: Any) -> dict[str, Any]:
    """A copy of an object, anything else as an empty one."""
    return dict(value) if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """A text as it is, anything else as none."""
    return value if isinstance(value, str) else ""


def without(raw: dict[str, Any], *known: str) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name not in known}


def renamed(raw: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The fields of a card from a program's own: `names` maps its names to the card's."""
    return {ours: raw.get(theirs) for theirs, ours in names.items()}


def always(text: str, name: str) -> dict[str, Any]:
    """An entry that always fires, first of all, such as a memory or an author's note."""
    return {"keys": [], "content": text, "name": name, "constant": True, "extensions": {}, "enabled": True, "insertion_order": 0}


def left_out(what: dict[str, Any]) -> tuple[str, ...]:
    """A sentence on what was left out: words (singular) and the list, or the number, of it."""
    counts = {word: len(value) if isinstance(value, list | dict | str) else int(value or 0) for word, value in what.items()}
    parts = [f"{count} {word if count == 1 else word + 's'}" for word, count in counts.items() if count]
    return (f"Left out, since a card has no place for it: {', '.join(parts)}.",) if parts else ()

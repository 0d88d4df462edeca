"""Character cards: untrusted bytes in, a `Card` out.

Reads V1 (flat), V2 and V3 cards, and what other programs write (formats/). Small faults are repaired, and `Card.notes` says so.
"""

import functools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import resource
from engine.cards import formats
from engine.cards.book import Book, as_character_book, as_character_entry, entry_text, parse_book, raw_entries
from engine.cards.fields import (
    FIELDS,
    LABELS,
    Field,
    as_v3,
    data_of,
    extensions_of,
    modern_names,
    other_names,
    values_of,
)
from engine.cards.formats import Format
from engine.cards.reading import CardFault, check_depth, check_size, kind_of, load, named, short
from engine.cards.speaking import dialogue_apart

CHARACTERS = resource("characters")
MAX_NAME = 200  # characters: a long name times many macros would fill the memory

_NEEDS = "a card needs a name and a description, a greeting, instructions or anything else that speaks about its character"
_TITLES = {"the", "a", "an", "mr", "mrs", "ms", "miss", "dr", "sir", "lady", "lord", "captain"}


@dataclass(frozen=True)
class Card:
    """The fields of a card that the engine uses, macros still in them; `raw` is the whole card as it came."""

    name: str
    nickname: str
    description: str
    personality: str
    scenario: str
    greeting: str  # first_mes
    example_dialogue: str  # mes_example, each dialogue after <START>
    system_prompt: str
    post_history_instructions: str
    alternate_greetings: tuple[str, ...]
    raw: dict[str, Any] = field(repr=False, hash=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)  # sentences: what was repaired, or read in its own way

    @property
    def char(self) -> str:
        """What {{char}} means: the nickname, else the name (V3 specification)."""
        return self.nickname or self.name

    @property
    def names(self) -> tuple[str, ...]:
        """Name, nickname and first name (titles, articles and initials skipped), without duplicates."""
        words = (word.strip(".,") for word in self.name.split())
        first = next((word for word in words if len(word) > 1 and word.casefold() not in _TITLES), "")
        return tuple(dict.fromkeys(name for name in (self.name, self.nickname, first) if name))


def parse_card(data: bytes, origin: str) -> Card:
    """The card in `data`, JSON of at most MAX_BYTES or YAML. `origin` names the source in errors. Raises UserError."""
    with named(origin):
        value, repaired = load(data)
        return card_of(value, repaired)


def card_of(value: Any, notes: tuple[str, ...] = ()) -> Card:
    """The card in a JSON value; `notes`: what was repaired before. Raises CardFault."""
    found = formats.find(value)
    if found is None:
        return _card(value, notes) if not isinstance(value, dict) or "spec" in value else converted(value, notes)
    if found.what == "lorebook":
        raise CardFault(f"is {found.words}, not a character (open a character in Draft and import it there, under Lorebook)")
    if found.read is None:
        raise CardFault(f"is {found.words}, not a character ({found.instead})")
    read = found.read(value)
    return converted(read.raw, (*notes, *found.note, *read.notes))


def converted(raw: dict[str, Any], notes: tuple[str, ...]) -> Card:
    """The card of a flat or made V3 form. Raises CardFault, also where its V3 form is too large or deep to be read back."""
    card = _card(raw, notes)
    text = json.dumps(as_v3(card.raw), ensure_ascii=False)
    check_size(len(text.encode()))
    check_depth(text)
    return card


@functools.lru_cache(maxsize=32)
def read_book(card: Card) -> Book:
    """The card's lorebook; an empty one where it has none."""
    return parse_book(data_of(card.raw).get("character_book"))


def read_lorebook(data: bytes, origin: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A lorebook of any program, or of a card, as a "character_book" of V3, and notes on it. Raises UserError for what is none."""
    with named(origin):
        raw, notes = load(data)
        found = formats.find(raw)
        if found is None or found.what == "character":
            book = _book_of_card(raw, found)
        elif found.read is None:
            raise CardFault(f"is {found.words}, not a lorebook ({found.instead})")
        else:
            read = found.read(raw)
            book, notes = read.raw, (*notes, *found.note, *read.notes)
        full = [entry for entry in book["entries"] if entry_text(entry)]
        if not full:
            raise CardFault("is a lorebook without entries" if not book["entries"] else "is a lorebook whose entries have no text")
        if empty := len(book["entries"]) - len(full):
            notes += (f"{empty} {'entry' if empty == 1 else 'entries'} without text {'was' if empty == 1 else 'were'} left out.",)
    return {**book, "entries": full}, notes


def _book_of_card(raw: Any, found: Format | None) -> dict[str, Any]:
    card = card_of(raw).raw if found else raw
    data = card.get("data", card) if isinstance(card, dict) else None
    if not isinstance(data, dict):
        raise CardFault('is not a lorebook (it has no "entries")')
    book = data.get("character_book")
    if isinstance(book, dict | list) and book:
        return as_character_book(book if isinstance(book, dict) else {"entries": book})
    if isinstance(data.get("entries"), dict | list):
        return as_character_book(data)
    is_card = found or "spec" in card or "name" in data
    raise CardFault("is a character without a lorebook (import it with “Import cards”)" if is_card
                    else 'is not a lorebook (it has no "entries")')


def bundled_cards() -> list[Card]:
    """The cards that come with the studio (characters/*.json), sorted by file name."""
    return [find_bundled(slug) for slug in bundled_files()]


def find_bundled(slug: str) -> Card:
    """The bundled card of characters/<slug>.json. Raises UserError, which lists the slugs, when there is none."""
    files = bundled_files()
    if slug not in files:
        raise UserError(f"There is no bundled character {short(slug)}; there are {', '.join(files)}.")
    return parse_card(files[slug].read_bytes(), str(files[slug]))


def bundled_files() -> dict[str, Path]:
    """The files of the bundled cards by their slugs."""
    return {file.stem: file for file in sorted(CHARACTERS.glob("*.json"))}


def unfinished(raw: dict[str, Any]) -> Card:
    """The card that a writer is working on, not checked. Names are on one line, and blank items of lists left out."""
    card = as_v3(raw)
    values = values_of(card["data"])
    read: dict[str, Any] = {one.attribute: values[one.key] for one in FIELDS if one.attribute}
    read |= {name: " ".join(read[name].split()) for name in ("name", "nickname")}
    read["alternate_greetings"] = tuple(filter(str.strip, read["alternate_greetings"]))
    return Card(**read, raw=card)


def _card(raw: Any, notes: tuple[str, ...]) -> Card:
    repaired: list[str] = [*notes]
    fields = _fields(raw, repaired)
    for one in FIELDS:
        repaired += _repaired(one, fields.get(one.key))
    if not isinstance(book := fields.get("character_book"), dict | None):
        repaired.append(f"Its lorebook was {kind_of(book)} and {'became a book' if book else 'was left out'}.")
    card = replace(unfinished(raw), raw=raw)
    if max(len(card.name), len(card.nickname)) > MAX_NAME:
        raise CardFault(f"has a name of more than {MAX_NAME} characters")
    description, spoken = dialogue_apart(card.description, (card.name, card.nickname))
    if spoken:
        repaired.append("Its description held example dialogue after <START>, which is read as such.")
        card = replace(card, description=description, example_dialogue="\n".join(filter(None, (spoken, card.example_dialogue))))
    if not card.name:
        raise CardFault(f"has no name: {_NEEDS}")
    if not speaks(card):
        raise CardFault(f"says nothing about its character: {_NEEDS}")
    return replace(card, notes=tuple(repaired))


def _repaired(field: Field, value: Any) -> list[str]:
    """What `values_of` repairs in a field. Raises CardFault where a prompt needs it and it is not like a text."""
    words = field.label.lower()
    if field.is_list and value is not None and not isinstance(value, list):
        return [f"Its {words} were {kind_of(value)} and became a list."]
    if field.is_list:
        odd = any(not isinstance(one, str | None) for one in value or [])
        return [f"Some of its {words} were not texts and became texts."] if odd else []
    if isinstance(value, str | None):
        return []
    listed = isinstance(value, list) and field.key != "name" and all(isinstance(part, str) for part in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if field.attribute and not (listed or number or value is False or value == {}):
        raise CardFault(f'has {kind_of(value)} as "{field.key}", where a text should be')
    return [f"Its {words} was {kind_of(value)} and became a text."]


def speaks(card: Card) -> bool:
    """Whether anything that can reach a model speaks about the character: a field, an enabled entry of its book, its note."""
    texts = (card.description, card.personality, card.scenario, card.example_dialogue, card.greeting, *card.alternate_greetings,
             *(text.replace("{{original}}", "") for text in (card.system_prompt, card.post_history_instructions)))
    note, book = extensions_of(card.raw).get("depth_prompt"), data_of(card.raw).get("character_book")
    entries = [as_character_entry(one) for one in raw_entries(book) if isinstance(one, dict)] if isinstance(book, dict) else []
    more = [note.get("prompt") if isinstance(note, dict) else "",
            *(one.get("content") for one in entries if one.get("enabled") is not False)]
    return any(isinstance(text, str) and text.strip() for text in (*texts, *more))


def _fields(raw: Any, notes: list[str]) -> dict[str, Any]:
    """The object that holds the card's fields: `data` of V2 and V3, the whole of V1, with notes on odd names."""
    if not isinstance(raw, dict):
        raise CardFault(f"is not a character card (its JSON is {kind_of(raw)} instead of an object)")
    specification = raw.get("spec")
    if specification is None:
        if "name" in (fields := modern_names(raw)):
            notes += [f"Read under other names: {', '.join(names)}."] if (names := other_names(raw)) else []
            odd = [name for name, value in fields.items() if name not in LABELS and value not in (None, "", [], {})]
            if len(odd) > 1 and not any(fields.get(name) for name in LABELS if name not in ("name", "description", "tags")):
                notes.append(f"Of its fields only name and description are a card's; {len(odd)} others are kept and not used.")
            return fields
        raise CardFault('is JSON, but not a character card (it has neither "spec" nor "name")')
    if specification not in ("chara_card_v2", "chara_card_v3"):
        what = short(specification) if isinstance(specification, str) else kind_of(specification)
        raise CardFault(f"follows an unknown specification ({what}; known are V1, chara_card_v2 and chara_card_v3)")
    if not isinstance(raw.get("data"), dict):
        raise CardFault(f'has {kind_of(raw.get("data"))} as "data", where the card\'s fields should be')
    return raw["data"]

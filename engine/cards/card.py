"""Character cards: untrusted bytes in, a `Card` out.

Reads the JSON of V1 (flat), V2 and V3 cards, and what other programs write (formats/); `Card.raw` keeps the whole,
so that unknown fields survive a round trip. What is odd and does not matter much is mended, and `Card.told` says so.
"""

import functools
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.resources import resource
from engine.cards import formats
from engine.cards.book import Book, as_character_book, as_character_entry, entry_text, parse_book, raw_entries
from engine.cards.fields import KEPT_IN_V2, LABELS, as_v3, modern_names, other_names, text_of, texts_of
from engine.cards.formats import Format
from engine.cards.reading import CardFault, check_depth, check_size, kind_of, load, named, short
from engine.cards.speaking import dialogue_apart

CHARACTERS = resource("characters")
MAX_NAME = 200  # characters: a long name times many macros would fill the memory

_NEEDS = "a card needs a name and a description, a greeting, instructions or anything else that speaks about its character"
_START = re.compile("<start>", re.IGNORECASE | re.ASCII)
_SHOWN = {"alternate_greetings": "other greetings", "group_only_greetings": "greetings in groups", "creator": "author",
          "creator_notes": "notes for readers", "character_version": "version", "first_mes": "greeting",
          "mes_example": "example dialogue"}
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
    example_dialogue: str  # mes_example, dialogues behind <START>
    system_prompt: str
    post_history_instructions: str
    alternate_greetings: tuple[str, ...]
    tags: tuple[str, ...]
    raw: dict[str, Any] = field(repr=False, hash=False)
    told: tuple[str, ...] = field(default=(), compare=False, repr=False)  # sentences: what was mended, or read in its own way

    @property
    def char(self) -> str:
        """What {{char}} stands for: the nickname, else the name (V3 specification)."""
        return self.nickname or self.name

    @property
    def names(self) -> tuple[str, ...]:
        """Name, nickname and first name (titles, articles and initials passed over), without duplicates."""
        words = (word.strip(".,") for word in self.name.split())
        first = next((word for word in words if len(word) > 1 and word.casefold() not in _TITLES), "")
        return tuple(dict.fromkeys(name for name in (self.name, self.nickname, first) if name))


def parse_card(data: bytes, origin: str) -> Card:
    """The card in `data`, UTF-8 JSON of at most MAX_BYTES. `origin` names the source in errors.

    Raises UserError, one sentence, for everything that is not a usable V1, V2 or V3 card, nor a character of a program
    that `formats` knows.
    """
    with named(origin):
        value, mended = load(data)
        return card_of(value, mended)


def card_of(value: Any, told: tuple[str, ...] = ()) -> Card:
    """The card in a JSON value; `told`: what was mended before. Raises CardFault."""
    found = formats.find(value)
    if found is None:
        card = _card(value, told)
        if "spec" not in card.raw:
            _check_whole(card)
        return card
    if found.what != "character" or found.read is None:
        raise CardFault(_no_character(found))
    read = found.read(value)
    return converted(read.raw, (*told, *found.note, *read.notes))


def converted(raw: dict[str, Any], told: tuple[str, ...]) -> Card:
    """The card of a V3 form that was made from something else. Raises CardFault, also for one that could not be read back."""
    card = _card(raw, told)
    _check_whole(card)
    return card


@functools.lru_cache(maxsize=32)
def read_book(card: Card) -> Book:
    """The card's book; an empty one where it has none. What is no entry is left out and named in `faults`."""
    data = card.raw.get("data", card.raw)
    return parse_book(data.get("character_book") if isinstance(data, dict) else None)


def read_lorebook(data: bytes, origin: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A lorebook of any program that `formats` knows, or the book of a card, as a "character_book" of V3; and what to tell of it.

    Entries without text are left out and told of. Raises UserError, one sentence, for what is no lorebook.
    """
    with named(origin):
        raw, told = load(data)
        found = formats.find(raw)
        if found is None or found.what == "character":
            book = _book_of_card(raw, found)
        elif found.read is None:
            raise CardFault(f"is {found.words}, not a lorebook ({found.instead})")
        else:
            read = found.read(raw)
            book, told = read.raw, (*told, *found.note, *read.notes)
        full = [entry for entry in book["entries"] if entry_text(entry)]
        if not full:
            raise CardFault("is a lorebook without entries" if not book["entries"] else "is a lorebook whose entries have no text")
        if empty := len(book["entries"]) - len(full):
            told += (f"{empty} {'entry' if empty == 1 else 'entries'} without text {'was' if empty == 1 else 'were'} left out.",)
    return {**book, "entries": full}, told


def _book_of_card(raw: Any, found: Format | None) -> dict[str, Any]:
    """The book of a card of any program. Raises CardFault where there is none."""
    card = card_of(raw).raw if found else raw
    data = card.get("data", card) if isinstance(card, dict) else None
    if not isinstance(data, dict):
        raise CardFault('is no lorebook (it has no "entries")')
    book = data.get("character_book")
    if isinstance(book, dict | list) and book:
        return as_character_book(book if isinstance(book, dict) else {"entries": book})
    if isinstance(data.get("entries"), dict | list):
        return as_character_book(data)
    is_card = found or "spec" in card or "name" in data
    raise CardFault("is a character without a lorebook (bring it in with “Import cards”)" if is_card
                    else 'is no lorebook (it has no "entries")')


def _check_whole(card: Card) -> None:
    """Raise CardFault for a card whose V3 form would be larger or deeper than what can be read."""
    text = json.dumps(as_v3(card.raw), ensure_ascii=False)
    check_size(len(text.encode()))
    check_depth(text)


def _no_character(found: Format) -> str:
    """Why a file that somebody offers as a character is none, and where it goes."""
    if found.what == "lorebook":
        return f"is {found.words}, not a character (open a character in Draft and bring it in there, under Lorebook)"
    return f"is {found.words}, not a character ({found.instead})"


def bundled_cards() -> list[Card]:
    """The cards that come with the studio (characters/*.json), sorted by file name."""
    return [_read_bundled(file) for file in bundled_files().values()]


def find_bundled(slug: str) -> Card:
    """The bundled card of characters/<slug>.json. Raises UserError, which lists the slugs, when there is none."""
    files = bundled_files()
    if slug not in files:
        raise UserError(f"There is no bundled character {short(slug)}; there are {', '.join(files)}.")
    return _read_bundled(files[slug])


def bundled_files() -> dict[str, Path]:
    """The files of the bundled cards by their slugs."""
    return {file.stem: file for file in sorted(CHARACTERS.glob("*.json"))}


def _read_bundled(file: Path) -> Card:
    return parse_card(file.read_bytes(), str(file))


def _card(raw: Any, told: tuple[str, ...]) -> Card:
    mended: list[str] = [*told]
    fields = _fields(raw, mended)
    name, nickname = (" ".join(_text(fields, key, mended).split()) for key in ("name", "nickname"))
    nickname = nickname or _kept_nickname(fields)
    if max(len(name), len(nickname)) > MAX_NAME:
        raise CardFault(f"has a name of more than {MAX_NAME} characters")
    description, spoken = _text(fields, "description", mended), ""
    if _START.search(description):
        description, spoken = dialogue_apart(description, (name, nickname))
        mended += ["Its description held example dialogue after <START>, which is read as such."] if spoken else []
    examples = "\n".join(filter(None, [spoken, _text(fields, "mes_example", mended)]))
    card = Card(name, nickname, description, _text(fields, "personality", mended), _text(fields, "scenario", mended),
                greeting=_text(fields, "first_mes", mended), example_dialogue=examples,
                system_prompt=_text(fields, "system_prompt", mended),
                post_history_instructions=_text(fields, "post_history_instructions", mended),
                alternate_greetings=_texts(fields, "alternate_greetings", mended), tags=_texts(fields, "tags", mended), raw=raw)
    mended += _mended_beside(fields)
    card = replace(card, told=tuple(mended))
    if not name:
        raise CardFault(f"has no name: {_NEEDS}")
    if not speaks(card):
        raise CardFault(f"says nothing about its character: {_NEEDS}")
    return card


def _mended_beside(fields: dict[str, Any]) -> list[str]:
    """What `as_v3` mends of the fields that no prompt has."""
    told: list[str] = []
    for key in ("creator", "creator_notes", "character_version"):
        if not isinstance(fields.get(key), str | None):
            told.append(f"Its {_shown(key)} was {kind_of(fields[key])} and became a text.")
    _texts(fields, "group_only_greetings", told)
    if not isinstance(fields.get("character_book"), dict | None):
        told.append(f"Its lorebook was {kind_of(fields['character_book'])} and "
                    f"{'became a book' if fields['character_book'] else 'was left out'}.")
    return told


def speaks(card: Card) -> bool:
    """Whether anything that can reach a model speaks about the character: a field, an enabled entry of its book, its note."""
    texts = (card.description, card.personality, card.scenario, card.example_dialogue, card.greeting, *card.alternate_greetings,
             *(text.replace("{{original}}", "") for text in (card.system_prompt, card.post_history_instructions)))
    return any(map(str.strip, texts)) or _book_speaks(card.raw.get("data", card.raw))


def _book_speaks(fields: Any) -> bool:
    extensions = fields.get("extensions") if isinstance(fields, dict) else None
    note = extensions.get("depth_prompt") if isinstance(extensions, dict) else None
    book = fields.get("character_book") if isinstance(fields, dict) else None
    entries = [as_character_entry(one) for one in raw_entries(book) if isinstance(one, dict)] if isinstance(book, dict) else []
    texts = [note.get("prompt")] if isinstance(note, dict) else []
    texts += [one.get("content") for one in entries if one.get("enabled") is not False]
    return any(isinstance(text, str) and text.strip() for text in texts)


def _kept_nickname(fields: dict[str, Any]) -> str:
    """The nickname that a V2 card of ours keeps in an extension."""
    extensions = fields.get("extensions")
    kept = extensions.get(KEPT_IN_V2) if isinstance(extensions, dict) else None
    found = kept.get("nickname") if isinstance(kept, dict) else None
    return " ".join(found.split()) if isinstance(found, str) else ""


def _fields(raw: Any, told: list[str]) -> dict[str, Any]:
    """The object that holds the card's fields: `data` of V2 and V3, the whole of V1, whose odd names are told."""
    if not isinstance(raw, dict):
        raise CardFault(f"is not a character card (its JSON is {kind_of(raw)} instead of an object)")
    specification = raw.get("spec")
    if specification is None:
        if "name" in (fields := modern_names(raw)):
            told += [f"Read under other names: {', '.join(names)}."] if (names := other_names(raw)) else []
            odd = [name for name, value in fields.items() if name not in LABELS and value not in (None, "", [], {})]
            if len(odd) > 1 and not any(fields.get(name) for name in LABELS if name not in ("name", "description", "tags")):
                told.append(f"Of its fields only name and description are a card's; {len(odd)} others are kept and not used.")
            return fields
        raise CardFault('is JSON, but not a character card (it has neither "spec" nor "name")')
    if specification not in ("chara_card_v2", "chara_card_v3"):
        what = short(specification) if isinstance(specification, str) else kind_of(specification)
        raise CardFault(f"follows an unknown specification ({what}; known are V1, chara_card_v2 and chara_card_v3)")
    if not isinstance(raw.get("data"), dict):
        raise CardFault(f'has {kind_of(raw.get("data"))} as "data", where the card\'s fields should be')
    return raw["data"]


def _text(fields: dict[str, Any], key: str, told: list[str]) -> str:
    """A text; what is no text and yet as good as one is mended and told."""
    value = fields.get(key)
    if isinstance(value, str | None):
        return value or ""
    listed = isinstance(value, list) and key != "name" and all(isinstance(part, str) for part in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not listed and not number and not (value is False or value == {}):
        raise CardFault(f'has {kind_of(value)} as "{key}", where a text should be')
    told.append(f"Its {_shown(key)} was {kind_of(value)} and became a text.")
    return text_of(value)


def _texts(fields: dict[str, Any], key: str, told: list[str]) -> tuple[str, ...]:
    """A list of texts; blank and null entries are left out, what is odd is mended and told."""
    value = fields.get(key)
    if value is not None and not isinstance(value, list):
        told.append(f"Its {_shown(key)} were {kind_of(value)} and became a list.")
    elif any(not isinstance(one, str | None) for one in value or []):
        told.append(f"Some of its {_shown(key)} were no texts and became some.")
    return tuple(text for text in texts_of(key, value) if text.strip())


def _shown(key: str) -> str:
    """A field in words."""
    return _SHOWN.get(key, key.replace("_", " "))

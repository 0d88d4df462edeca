"""A character's lorebook as it lies in a card, or in a world file of SillyTavern: read with care, one form out.

V2 and V3 keep it as "character_book", SillyTavern's files as an object of entries with names of their own. What an entry
says about itself in decorators (V3: lines that begin with @@) is read here, too. Does not know what is said in a chat:
which entries fire, lorebook.py decides.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from engine.cards import formats, reading
from engine.cards.card import Card, card_of
from engine.cards.entries import ORDER, as_character_book, as_character_entry, raw_entries, text_of
from engine.cards.faults import CardFault, named
from engine.cards.formats import Format

SCAN_DEPTH = 2  # messages, where neither book nor entry says how many: SillyTavern's own
TOKEN_BUDGET = 512  # of all entries together, where the book names none: a quarter of what the starter can hold
RECURSIVE = True  # whether fired texts fire others, where the book does not say: SillyTavern's own

Place = Literal["before_char", "after_char"]
Logic = Literal["any", "not all", "none", "all"]  # how secondary keys count
Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")  # SillyTavern's numbers 0 to 2
_LOGIC: tuple[Logic, ...] = ("any", "not all", "none", "all")  # SillyTavern's numbers 0 to 3
_DECORATOR = re.compile(r"[ \t]*@@(@?)([a-z_]+)[ \t]*([^\n]*)(?:\n|\Z)", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One piece of lore. `number`: its place in the book, from 0; `name`: for a reader; `content`: without decorators."""

    number: int
    name: str
    keys: tuple[str, ...]
    content: str
    enabled: bool = True
    constant: bool = False
    selective: bool = False
    secondary: tuple[str, ...] = ()
    logic: Logic = "any"
    order: int = ORDER
    priority: int | None = None
    place: Place = "before_char"
    use_regex: bool = False
    case_sensitive: bool = False
    whole_words: bool = True
    scan_depth: int | None = None
    probability: int = 100  # per cent
    from_recursion: bool = True  # whether another entry's text can fire it
    into_recursion: bool = True  # whether its text can fire others
    only_recursion: bool = False
    depth: int | None = None  # messages from the end in front of which it stands; 0: behind the last one
    role: Role = "system"
    excluded: tuple[str, ...] = ()  # keys that keep it from firing
    always: bool | None = None  # @@activate, @@dont_activate
    after: int = 0  # answers that must have been given
    every: int = 1
    stays: bool = False  # fires ever after, once it did
    once: bool = False
    expendable: bool = False  # the first to go when there is too much

    @property
    def steady(self) -> bool:
        """Whether it is in every prompt alike, so that it can stand at the beginning."""
        sure = self.probability >= 100 and self.after == 0 and self.every == 1 and not self.excluded and self.depth is None
        return (self.constant or self.always is True) and self.always is not False and sure and not self.only_recursion


@dataclass(frozen=True)
class Book:
    """A lorebook: entries in the order of the file. `faults`: sentences on what could not be read."""

    entries: tuple[Entry, ...] = ()
    scan_depth: int = SCAN_DEPTH
    token_budget: int = TOKEN_BUDGET
    recursive: bool = RECURSIVE
    faults: tuple[str, ...] = field(default=(), compare=False)


@functools.lru_cache(maxsize=32)
def read_book(card: Card) -> Book:
    """The card's book; an empty one where it has none. What is no entry is left out and named in `faults`."""
    data = card.raw.get("data", card.raw)
    return parse_book(data.get("character_book") if isinstance(data, dict) else None)


def parse_book(raw: Any) -> Book:
    """A book from the JSON of "character_book" or of a world file."""
    if isinstance(raw, list):
        raw = {"entries": raw}
    if not isinstance(raw, dict):
        return Book()
    faults: list[str] = []
    entries = []
    for number, value in enumerate(raw_entries(raw)):
        if isinstance(value, dict):
            entries.append(_decorated(_entry(number, as_character_entry(value))))
        else:
            faults.append(f"Entry {number + 1} of the book is no entry and was left out.")
    # Some programs write 0 for "not set".
    budget = _whole(raw.get("token_budget"), 0) or TOKEN_BUDGET
    depth = _whole(raw.get("scan_depth"), 0) or SCAN_DEPTH
    recursive = raw.get("recursive_scanning")
    return Book(tuple(entries), depth, budget, RECURSIVE if recursive is None else bool(recursive), tuple(faults))


def read_lorebook(data: bytes, origin: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A lorebook of any program that `formats` knows, or the book of a card, as a "character_book" of V3; and what to tell of it.

    Entries without text are left out and told of. Raises UserError, one sentence, for what is no lorebook.
    """
    with named(origin):
        raw, told = reading.load(data)
        found = formats.find(raw)
        if found is None or found.what == "character":
            book = _book_of_card(raw, found)
        elif found.read is None:
            raise CardFault(f"is {found.words}, not a lorebook ({found.instead})")
        else:
            read = found.read(raw)
            book, told = read.raw, (*told, *found.note, *read.notes)
        full = [entry for entry in book["entries"] if text_of(entry)]
        if not full:
            raise CardFault("is a lorebook without entries" if not book["entries"] else "is a lorebook whose entries have no text")
        if empty := len(book["entries"]) - len(full):
            told += (f"{empty} {'entry' if empty == 1 else 'entries'} without text {'was' if empty == 1 else 'were'} left out.",)
    return {**book, "entries": full}, told


def parse_world(data: bytes, origin: str) -> dict[str, Any]:
    """`read_lorebook` without what it tells."""
    return read_lorebook(data, origin)[0]


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


def _entry(number: int, value: dict[str, Any]) -> Entry:
    more = value.get("extensions")
    more = more if isinstance(more, dict) else {}
    keys, secondary = _texts(value.get("keys")), _texts(value.get("secondary_keys"))
    name = next((text for text in (_text(value.get("name")), _text(value.get("comment")), ", ".join(keys[:2])) if text), "")
    logic = more.get("selectiveLogic", more.get("selective_logic", 0))
    words, role = more.get("match_whole_words"), more.get("role")
    return Entry(
        number, name or f"Entry {number + 1}", keys, _text(value.get("content")),
        enabled=value.get("enabled") is not False, constant=value.get("constant") is True,
        selective=value.get("selective") is True, secondary=secondary,
        logic=_LOGIC[logic] if isinstance(logic, int) and 0 <= logic < len(_LOGIC) else "any",
        order=_whole(value.get("insertion_order"), ORDER),
        priority=_whole(value.get("priority"), 0) if isinstance(value.get("priority"), int | float) else None,
        place="after_char" if value.get("position") == "after_char" else "before_char",
        use_regex=value.get("use_regex") is True,
        case_sensitive=(more.get("case_sensitive") if value.get("case_sensitive") is None else value["case_sensitive"]) is True,
        whole_words=words is not False,
        scan_depth=_whole(more.get("scan_depth"), 0) if more.get("scan_depth") is not None else None,
        probability=_whole(more.get("probability"), 100) if more.get("useProbability", more.get("use_probability", True)) else 100,
        from_recursion=more.get("exclude_recursion") is not True, into_recursion=more.get("prevent_recursion") is not True,
        only_recursion=bool(more.get("delay_until_recursion")),
        depth=_whole(more.get("depth"), 4) if more.get("position") == 4 else None,
        role=ROLES[role] if more.get("position") == 4 and isinstance(role, int) and 0 <= role < len(ROLES) else "system")


def _decorated(entry: Entry) -> Entry:
    """The entry with its decorators read and taken off. One that is not known is passed over, and its fallback read."""
    content, tried = entry.content.lstrip("\n"), True  # whether the last decorator, or one of its fallbacks, was known
    while found := _DECORATOR.match(content):
        content = content[found.end():]
        if found[1] and tried:  # a fallback that is not needed
            continue
        changes = _decoration(entry, found[2].lower(), found[3].strip())
        tried = changes is not None
        entry = replace(entry, **(changes or {}))
    return replace(entry, content=content.strip())


def _decoration(entry: Entry, name: str, value: str) -> dict[str, Any] | None:
    """What a decorator changes; None where it is not known, or its value makes no sense."""
    plain: dict[str, dict[str, Any]] = {
        "activate": {"always": True}, "dont_activate": {"always": False}, "constant": {"constant": True},
        "keep_activate_after_match": {"stays": True}, "dont_activate_after_match": {"once": True},
        "ignore_on_max_context": {"expendable": True}}
    if name in plain:
        return plain[name]
    listed = tuple(key for part in value.split(",") if (key := part.strip()))
    texts: dict[str, Callable[[], dict[str, Any] | None]] = {
        "additional_keys": lambda: {"keys": entry.keys + listed}, "exclude_keys": lambda: {"excluded": entry.excluded + listed},
        "role": lambda: {"role": value} if value in ("system", "user", "assistant") else None,
        "position": lambda: {"place": "before_char" if value == "before_desc" else "after_char"}
        if value in ("before_desc", "after_desc", "personality", "scenario") else None}
    if name in texts:
        return texts[name]()
    numbers = {"depth": "depth", "scan_depth": "scan_depth", "activate_only_after": "after", "activate_only_every": "every"}
    if name in numbers and value.isascii() and value.isdigit() and len(value) < 6:
        return {numbers[name]: max(1, int(value)) if name == "activate_only_every" else int(value)}
    return None


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else []
    return tuple(text for one in values if (text := _text(one)))


def _whole(value: Any, otherwise: int) -> int:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return max(-1_000_000, min(1_000_000, int(value))) if known else otherwise

"""A character's lorebook: read from a card, or from any program's spelling, into one form, and edited.

V2 and V3 keep it as "character_book", SillyTavern's world files as an object of entries with other names, and some files hold two
spellings at once. Decorators (V3: lines that begin with @@) are read here, too.
"""

import copy
import itertools
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from engine.cards.fields import as_v3, touched

ORDER = 100  # insertion order of an entry that names none

# A card's field, and the names that other programs have for it, the card's own one first.
_SPELLINGS = {
    "keys": ("keys", "key", "keywords"),
    "secondary_keys": ("secondary_keys", "keysecondary", "secondaryKeys", "secondkey"),
    "content": ("content", "entry", "text", "value"),
    "name": ("name", "displayName", "title", "comment"),
    "comment": ("comment",),
    "insertion_order": ("insertion_order", "order", "insertionOrder", "insertorder", "weight"),
    "constant": ("constant", "alwaysActive", "forceActivation"),
    "selective": ("selective",),
    "use_regex": ("use_regex", "useRegex"),
    "case_sensitive": ("case_sensitive", "caseSensitive"),
    "priority": ("priority",),
    "id": ("id", "uid"),
}
_SWITCHES = ("enabled", "disable", "disabled", "widisabled")  # the last one is KoboldAI's
# Fields of SillyTavern's world files that a card keeps in the entry's extensions, some under another name.
_EXTRAS = {name: re.sub(r"(?<=[a-z])([A-Z])", lambda sign: f"_{sign[1].lower()}", name) for name in (
    "excludeRecursion", "preventRecursion", "delayUntilRecursion", "scanDepth", "matchWholeWords", "useGroupScoring",
    "automationId", "groupOverride", "groupWeight", "displayIndex", "addMemo", "vectorized", "probability", "depth", "role",
    "group", "sticky", "cooldown", "delay", "ignoreBudget")} | {name: name for name in ("selectiveLogic", "useProbability")}
# Each of these alone says that an entry is not, or not only, a card's.
_FOREIGN = {"key", "keysecondary", "secondkey", "secondaryKeys", "keywords", "disable", "disabled", "widisabled", "displayName",
            "alwaysActive", "forceActivation", "insertorder", "insertionOrder", "useRegex", "caseSensitive",
            *(name for name in _EXTRAS if name != _EXTRAS[name]), "selectiveLogic", "useProbability"}
_BOOK = {"scan_depth": "scanDepth", "token_budget": "tokenBudget", "recursive_scanning": "recursiveScanning"}
_SLASHED = re.compile(r"/.+/[a-z]*", re.DOTALL)
SCAN_DEPTH = 2  # messages, where neither book nor entry says how many: SillyTavern's own
TOKEN_BUDGET = 512  # of all entries together, where the book gives none: a quarter of what the starter can hold
RECURSIVE = True  # whether fired texts fire others, where the book does not say: SillyTavern's own
Place = Literal["before_char", "after_char"]
Logic = Literal["any", "not all", "none", "all"]  # how secondary keys count
Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")  # SillyTavern's numbers 0 to 2
_LOGIC: tuple[Logic, ...] = ("any", "not all", "none", "all")  # SillyTavern's numbers 0 to 3
_DECORATOR = re.compile(r"[ \t]*@@(@?)([a-z_]+)[ \t]*([^\n]*)(?:\n|\Z)", re.IGNORECASE)
MOST_ENTRIES = 20_000  # entries that a page takes: more than a card of 1 MB holds
_FIELDS = ("name", "keys", "secondary", "content", "order", "constant", "enabled")


def raw_entries(raw: dict[str, Any]) -> list[Any]:
    """The entries of a book as they are in it, whether in a list or (world files) in an object."""
    entries = raw.get("entries")
    if isinstance(entries, dict):
        return list(entries.values())
    return entries if isinstance(entries, list) else []


def entry_text(entry: Any) -> str:
    """The text of an entry in any spelling; "" without one."""
    found = as_character_entry(entry).get("content") if isinstance(entry, dict) else None
    return found.strip() if isinstance(found, str) else ""


def is_entry(value: Any) -> bool:
    """Whether a value looks like an entry of a lorebook: it has a field for its text, and one for its keys."""
    return isinstance(value, dict) and all(any(name in value for name in _SPELLINGS[field]) for field in ("content", "keys"))


def as_character_book(raw: dict[str, Any]) -> dict[str, Any]:
    """A book with its entries, and its own settings, as a card spells them; every other field is kept."""
    names = {other: name for name, other in _BOOK.items() if name not in raw}
    book = {names.get(name, name): value for name, value in raw.items() if name != "originalData"}
    entries = [as_character_entry(value) for value in raw_entries(raw) if isinstance(value, dict)]
    return {"extensions": {}, **book, "entries": entries}


def as_character_entry(value: dict[str, Any]) -> dict[str, Any]:
    """An entry in any spelling as one of a card's book; what has no place there is kept in its extensions.

    Of two spellings of a field, keys are joined, and a text or number wins over none. The entry is off if either spelling says
    so; in what SillyTavern wrote last (it has "uid"), its own "disable" alone counts.
    """
    other_text = any(name in value for name in _SPELLINGS["content"][1:]) and "content" not in value
    if not (value.keys() & _FOREIGN or other_text or any(isinstance(value.get(name), str) for name in ("keys", "secondary_keys"))):
        return value
    both = "keys" in value and "content" in value  # a card's entry with another program's fields beside: those stay there
    own = value.get("extensions")
    extensions = dict(own) if isinstance(own, dict) else {}
    entry: dict[str, Any] = {field: found for field in _SPELLINGS if (found := _found(value, field)) is not None}
    off = any(value.get(name) is True or value.get(name) == 1 for name in _SWITCHES[1:])
    entry["enabled"] = not off and (value.get("enabled") is not False or ("uid" in value and "disable" in value))
    entry["keys"] = entry.get("keys", [])
    entry.setdefault("content", "")
    entry.setdefault("insertion_order", ORDER)
    position = value.get("position")
    entry["position"] = position if isinstance(position, str) else "after_char" if position == 1 else "before_char"
    if isinstance(position, int) and position not in (0, 1):  # at a depth of the chat (4), or in the author's note
        extensions.setdefault("position", position)
    known = {*(name for names in _SPELLINGS.values() for name in names), *_SWITCHES, "position", "extensions"}
    for name in value.keys() - known:
        if name in _EXTRAS:
            extensions.setdefault(_EXTRAS[name], value[name])
        elif both:
            entry[name] = value[name]
        else:
            extensions.setdefault(name, value[name])
    return {**entry, "extensions": dict(sorted(extensions.items()))}


def key_list(value: Any) -> list[Any]:
    """Keys as a list: a text is split at its commas, unless it is one regular expression between slashes."""
    if isinstance(value, str):
        whole = _SLASHED.fullmatch(value.strip())
        return [key for part in ([value] if whole else value.split(",")) if (key := part.strip())]
    return value if isinstance(value, list) else []


def _found(value: dict[str, Any], field: str) -> Any:
    """A field in whichever spelling it has; keys of all spellings together. None without any."""
    there = [value[name] for name in _SPELLINGS[field] if value.get(name) is not None]
    if field in ("keys", "secondary_keys"):
        return list({repr(key): key for one in there for key in key_list(one)}.values()) if there else None
    if field == "constant":
        return any(one is True for one in there) if there else None
    full = [one for one in there if not isinstance(one, str) or one.strip()]
    return full[0] if full else there[0] if there else None


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
    depth: int | None = None  # how many messages from the end it is inserted; 0: after the last one
    role: Role = "system"
    excluded: tuple[str, ...] = ()  # keys that keep it from firing
    always: bool | None = None  # @@activate, @@dont_activate
    after: int = 0  # answers that must have been given
    every: int = 1
    stays: bool = False  # keeps firing once it has fired
    once: bool = False
    expendable: bool = False  # the first to go when there is too much

    @property
    def steady(self) -> bool:
        """Whether it is the same in every prompt, so that it can be at the beginning."""
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
            faults.append(f"Entry {number + 1} of the lorebook is not an entry and was left out.")
    # Some programs write 0 for "not set".
    budget = _whole(raw.get("token_budget"), 0) or TOKEN_BUDGET
    depth = _whole(raw.get("scan_depth"), 0) or SCAN_DEPTH
    recursive = raw.get("recursive_scanning")
    return Book(tuple(entries), depth, budget, RECURSIVE if recursive is None else bool(recursive), tuple(faults))


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
    """The entry with its decorators read and taken off. An unknown one is skipped, and its fallback read."""
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
    match name:
        case "additional_keys":
            return {"keys": entry.keys + listed}
        case "exclude_keys":
            return {"excluded": entry.excluded + listed}
        case "role" if value in ROLES:
            return {"role": value}
        case "position" if value in ("before_desc", "after_desc", "personality", "scenario"):
            return {"place": "before_char" if value == "before_desc" else "after_char"}
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


def shown_book(raw: dict[str, Any]) -> dict[str, Any]:
    """What a page edits: {"scan_depth", "token_budget", "recursive", "entries"}; each entry has _FIELDS and "kept", its
    JSON as it lies in the card, which comes back untouched."""
    book = as_v3(raw)["data"].get("character_book")
    book = book if isinstance(book, dict) else {}
    read = parse_book(book)
    return {"scan_depth": read.scan_depth, "token_budget": read.token_budget, "recursive": read.recursive,
            "entries": [shown_entry(value) for value in raw_entries(book) if isinstance(value, dict)]}


def shown_entry(value: dict[str, Any]) -> dict[str, Any]:
    value = as_character_entry(value)
    text = lambda name: found if isinstance(found := value.get(name), str) else ""
    texts = lambda name: [one for one in found if isinstance(one, str)] if isinstance(found := value.get(name), list) else []
    order = value.get("insertion_order")
    return {"name": text("name") or text("comment"), "keys": texts("keys"), "secondary": texts("secondary_keys"),
            "content": text("content"), "order": order if isinstance(order, int) and not isinstance(order, bool) else ORDER,
            "constant": value.get("constant") is True, "enabled": value.get("enabled") is not False,
            "kept": json.dumps(value, ensure_ascii=False)}


def with_book(raw: dict[str, Any], edited: dict[str, Any], now: float | None = None) -> dict[str, Any]:
    """The V3 form of a card with the edited book. Raises ValueError for what `shown_book` does not give."""
    card = as_v3(raw)
    if edited == shown_book(raw):
        return card
    entries = edited["entries"]
    if not isinstance(entries, list) or len(entries) > MOST_ENTRIES:
        raise ValueError(f"a book on a page has at most {MOST_ENTRIES:,} entries")
    before = card["data"].get("character_book")
    book: dict[str, Any] = copy.deepcopy(before) if isinstance(before, dict) else {"extensions": {}}
    read = parse_book(book)
    for name, known in (("scan_depth", read.scan_depth), ("token_budget", read.token_budget)):
        if int(edited[name]) != known:
            book[name] = max(0, int(edited[name]))
    if bool(edited["recursive"]) != read.recursive:
        book["recursive_scanning"] = bool(edited["recursive"])
    kept = [json.loads(one["kept"]) if one.get("kept") else None for one in entries]
    used = [one["id"] for one in kept if one and isinstance(one.get("id"), int)]
    fresh = itertools.count(max(used, default=-1) + 1)
    blank = {"keys": [], "content": "", "extensions": {}, "enabled": True, "insertion_order": ORDER, "use_regex": False}
    book["entries"] = [_written(one, old or {**blank, "id": next(fresh)}) for one, old in zip(entries, kept, strict=True)]
    if not book["entries"] and not isinstance(before, dict):
        return card
    card["data"]["character_book"] = book
    return touched(card, now)


def _written(one: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    before = shown_entry(kept)
    changed = {name: one[name] for name in _FIELDS if one[name] != before[name]}
    if not all(type(value) is type(before[name]) for name, value in changed.items()):
        raise ValueError("an entry of a book was edited into something else")
    names = {"secondary": "secondary_keys", "order": "insertion_order"}
    entry = {**kept, **{names.get(name, name): value for name, value in changed.items()}}
    if "name" in changed and "comment" in kept:  # SillyTavern shows this one
        entry["comment"] = changed["name"]
    if "secondary" in changed:
        entry["selective"] = bool(changed["secondary"])
    return entry

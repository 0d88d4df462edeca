"""Entries of lorebooks as programs spell them, read as one kind: that of a card's "character_book" (V2 and V3).

SillyTavern's world files say "key" and "disable" where a card says "keys" and "enabled", others have names of their own, and
some files hold two spellings at once. Pure dictionaries in and out; an entry that is a card's already comes back as it is.
"""

import re
from typing import Any

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


def raw_entries(raw: dict[str, Any]) -> list[Any]:
    """The entries of a book as they lie in it, whether in a list or (world files) in an object."""
    entries = raw.get("entries")
    if isinstance(entries, dict):
        return list(entries.values())
    return entries if isinstance(entries, list) else []


def text_of(entry: Any) -> str:
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

    Where one has two spellings of a field, keys are put together, and a text or number that is there wins over none. It is
    switched off if either spelling says so, but what SillyTavern wrote last ("uid" shows it) goes by its own word.
    """
    if _is_own(value):
        return value
    both = "keys" in value and "content" in value  # a card's entry with another program's fields beside: those stay there
    own = value.get("extensions")
    extensions = dict(own) if isinstance(own, dict) else {}
    entry: dict[str, Any] = {field: found for field in _SPELLINGS if (found := _found(value, field)) is not None}
    entry["enabled"] = _is_on(value)
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
    """Keys as a list: a text is parted at its commas, unless it is one regular expression between slashes."""
    if isinstance(value, str):
        whole = _SLASHED.fullmatch(value.strip())
        return [key for part in ([value] if whole else value.split(",")) if (key := part.strip())]
    return value if isinstance(value, list) else []


def _is_own(value: dict[str, Any]) -> bool:
    """Whether all that an entry says is said as a card says it."""
    texts = any(name in value for name in _SPELLINGS["content"][1:]) and "content" not in value
    keys = any(isinstance(value.get(name), str) for name in ("keys", "secondary_keys"))
    return not (value.keys() & _FOREIGN or texts or keys)


def _found(value: dict[str, Any], field: str) -> Any:
    """A field in whichever spelling it has; keys of all spellings together. None without any."""
    there = [value[name] for name in _SPELLINGS[field] if value.get(name) is not None]
    if field in ("keys", "secondary_keys"):
        return list({repr(key): key for one in there for key in key_list(one)}.values()) if there else None
    if field == "constant":
        return any(one is True for one in there) if there else None
    full = [one for one in there if not isinstance(one, str) or one.strip()]
    return full[0] if full else there[0] if there else None


def _is_on(value: dict[str, Any]) -> bool:
    off = any(value.get(name) is True or value.get(name) == 1 for name in _SWITCHES[1:])
    if "uid" in value and "disable" in value:
        return not off
    return value.get("enabled") is not False and not off

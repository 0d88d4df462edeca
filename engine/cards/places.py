"""The other fields of a card in words for its writer: lorebook entries, NPC fields, extensions, assets.

Names places ("Lorebook · “The old mill” · Text"), tells values on lines, and finds out which item of a list became which.
Knows no difference and no page; a key that it does not know is shown as it is, with spaces.
"""

import difflib
import json
from collections.abc import Callable, Sequence
from typing import Any

_WORDS = {
    "character_book": "Lorebook", "insertion_order": "Order", "content": "Text", "enabled": "Switched on",
    "constant": "Always on", "selective": "Needs a secondary key too", "use_regex": "Keys are regular expressions",
    "comment": "Remark", "assets": "Files", "uri": "Address", "ext": "Kind", "persona_studio/npc": "NPC", "big_five": "Big Five",
    "who": "Who", "may_learn": "Who may learn it"}
_SKIPPED = {"data", "entries"}  # places that say nothing to a writer
_TITLES = ("name", "comment", "who", "text", "question")
_LONGEST_TITLE = 50
_ALIKE = 0.6  # difflib's ratio, from which on two items are one that was rewritten
_COMPARED = 1500  # characters of each item that are looked at for that
_MOST_COMPARED = 100  # items
_UNTITLED = "No. 0"

Pair = tuple[int | None, int | None]


def place_of(path: Sequence[str], outside: bool = False) -> str:
    """A path of keys and titles in words. `outside`: it lies beside the card's "data"."""
    parts = list(path)
    if parts and parts[0] == "data":
        parts = parts[1:]
    if len(parts) > 1 and parts[0] == "extensions":
        parts = [parts[1] if parts[1] in _WORDS else f"Extension {parts[1]}", *parts[2:]]
    words = [word_of(part) for part in parts if part not in _SKIPPED]
    return " · ".join([*(["Beside the card"] if outside else []), *words]) or "Everything else"


def word_of(key: str) -> str:
    """A key in words."""
    if key in _WORDS:
        return _WORDS[key]
    return key.replace("_", " ").capitalize() if key.isidentifier() and key.islower() else key


def title_of(item: Any, number: int) -> str:
    """What a writer calls an item of a list: its name or remark, its keys, the beginning of its text, its number."""
    found = ""
    if isinstance(item, dict):
        keys = item.get("keys")
        texts = [item.get(key) for key in _TITLES[:2]] + [", ".join(key for key in keys if isinstance(key, str))
                                                         if isinstance(keys, list) else ""]
        texts += [item.get(key) for key in (*_TITLES[2:], "content")]
        found = next((" ".join(text.split()) for text in texts if isinstance(text, str) and text.strip()), "")
    if not found:
        return f"No. {number}"
    return found if len(found) <= _LONGEST_TITLE else f"{found[:_LONGEST_TITLE].rstrip()}…"


def told(value: Any) -> str:
    """A value for reading: an object line by line without what is empty, a list of plain values with commas, else JSON."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, dict) and value:
        return "\n".join(f"{word_of(key)}: {told(inner)}" for key, inner in filled(value).items()) or json_of(value)
    if isinstance(value, list) and value and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(map(told, value))
    return json_of(value)


def filled(value: dict[str, Any]) -> dict[str, Any]:
    """An object without what is empty in it."""
    return {key: inner for key, inner in value.items() if inner is not None and inner not in ("", [], {})}


def json_of(value: Any) -> str:
    """The JSON of a value: equal texts for equal values, and for no others (for Python, 1 and true are equal)."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def pairs(old: list[Any], new: list[Any]) -> list[Pair]:
    """Which item became which: indices of both sides, None where there is no other side; the order is that of the new list,
    with what was removed where it stood.

    The same item is one that is equal, else one with the same id, else with the same title, else one much like it.
    """
    found: dict[int, int] = {}  # new -> old
    taken: set[int] = set()
    rules: list[Callable[[Any], Any]] = [json_of, _identity, lambda item: title_of(item, 0)]
    for rule in rules:
        waiting: dict[Any, list[int]] = {}
        for index in reversed(range(len(old))):
            if index not in taken and (key := rule(old[index])) not in (None, _UNTITLED):
                waiting.setdefault(key, []).append(index)
        for index, item in enumerate(new):
            if index not in found and (same := waiting.get(rule(item))):
                found[index] = same.pop()
                taken.add(found[index])
    _pair_alike(old, new, found, taken)
    return _in_order(len(old), len(new), found, taken)


def _identity(item: Any) -> Any:
    number = item.get("id", item.get("uid")) if isinstance(item, dict) else None
    return json_of(number) if isinstance(number, int | str) and number != "" else None


def _pair_alike(old: list[Any], new: list[Any], found: dict[int, int], taken: set[int]) -> None:
    """Pair what is left, in its order, where it is much alike; not in lists where that would take long."""
    left = [index for index in range(len(old)) if index not in taken]
    for index in (index for index in range(len(new)) if index not in found):
        for other in left[:1] if len(left) <= _MOST_COMPARED else ():
            if _alike(old[other], new[index]):
                found[index] = left.pop(0)
                taken.add(other)


def _alike(old: Any, new: Any) -> bool:
    """Whether one was rewritten into the other: their texts are alike, and they do not bear different numbers."""
    if None not in (numbers := (_identity(old), _identity(new))) and numbers[0] != numbers[1]:
        return False
    before, after = (" ".join(map(told, item.values())) if isinstance(item, dict) else told(item) for item in (old, new))
    return difflib.SequenceMatcher(None, before[:_COMPARED], after[:_COMPARED], autojunk=False).ratio() >= _ALIKE


def _in_order(before: int, after: int, found: dict[int, int], taken: set[int]) -> list[Pair]:
    removed = [index for index in reversed(range(before)) if index not in taken]
    ordered: list[Pair] = []
    for index in range(after):
        while removed and index in found and removed[-1] < found[index]:
            ordered.append((removed.pop(), None))
        ordered.append((found.get(index), index))
    return [*ordered, *((index, None) for index in reversed(removed))]

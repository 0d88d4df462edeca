"""What changed between two versions of a card, field by field, for showing.

Texts are compared word by word, lists item by item, everything else leaf by leaf, with its place in words
("Lorebook · “The old mill” · Text").
"""

import difflib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.cards.fields import LABELS, LISTS, as_v3

Piece = tuple[str, Literal["same", "added", "removed"]]
Pair = tuple[int | None, int | None]

_WORDS = {
    "character_book": "Lorebook", "insertion_order": "Order", "content": "Text", "enabled": "Switched on",
    "constant": "Always on", "selective": "Needs a secondary key too", "use_regex": "Keys are regular expressions",
    "comment": "Remark", "assets": "Files", "uri": "Address", "ext": "Kind", "persona_studio/npc": "NPC", "big_five": "Big Five",
    "who": "Who", "may_learn": "Who may learn it"}
_SKIPPED = {"data", "entries"}  # places that say nothing to a writer
_TITLES = ("name", "comment", "keys", "who", "text", "question", "content")
_LONGEST_TITLE = 50
_ALIKE = 0.6  # difflib's ratio, from which on two items are one that was rewritten
_COMPARED = 1500  # characters of each item that are looked at for that
_MOST_COMPARED = 100  # items
_UNTITLED = "No. 0"
_SILENT = {"modification_date"}  # changes with every edit
_MOST_TOKENS = 6000  # compared one by one; the time grows with the square of their number
# Space, then a word with its apostrophes, a sign of a script that has no spaces, another sign, or the end.
_WORD = re.compile(r"(\s*)([\u3040-\u30ff\u3400-\u9fff]|(?:(?![\u3040-\u30ff\u3400-\u9fff])\w)+(?:['’]\w+)*|[^\w\s]|\Z)")


@dataclass(frozen=True)
class FieldChange:
    """A changed field. `field` is its key, or "other"; `label` its words for the page, for "other" its place in words.

    The pieces of a text that are not "added" make up the old text, those that are not "removed" the new one. The pieces of a list
    are its items. An object that is new or gone is one piece; values of other kinds are JSON.
    """

    field: str
    label: str
    pieces: list[Piece]
    is_list: bool = False


def difference(old_raw: dict[str, Any], new_raw: dict[str, Any]) -> list[FieldChange]:
    """The fields in which the V3 forms of two cards differ, in the order of the page, other fields last; not the date of change."""
    old, new = as_v3(old_raw), as_v3(new_raw)
    changes = []
    for key, label in LABELS.items():
        before, after = (card["data"].get(key, "") for card in (old, new))
        if before != after:
            pieces = _list_pieces(before, after) if key in LISTS else text_pieces(before, after)
            changes.append(FieldChange(key, label, pieces, key in LISTS))
    return changes + list(_other_changes(_others(old), _others(new), ()))


def _others(card: dict[str, Any]) -> dict[str, Any]:
    """Everything of a card but the editable fields, and copies of these that lie beside "data"."""
    data = {key: value for key, value in card["data"].items() if key not in LABELS and key not in _SILENT}
    outside = {key: value for key, value in card.items() if key not in LABELS and key not in ("spec", "spec_version", "data")}
    return {**outside, "data": data}


def _other_changes(old: Any, new: Any, path: tuple[str, ...]) -> Iterator[FieldChange]:
    """Changes of JSON values, leaf by leaf, an item of a list that is new or gone as a whole; `...` is no value at all."""
    whole = new if old is ... else old if new is ... else None
    if isinstance(whole, dict | list) and whole:  # a book or an extension that is new: entry by entry, without what is empty in it
        whole = (_filled(whole) or whole) if isinstance(whole, dict) else whole
        old, new = (type(whole)(), whole) if old is ... else (whole, type(whole)())
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _other_changes(old.get(key, ...), new.get(key, ...), (*path, key))
    elif isinstance(old, list) and isinstance(new, list):
        kinds = {type(item) for item in [*old, *new]}
        before, after = ([item if kinds == {str} else _json(item) for item in items] for items in (old, new))
        if kinds & {dict, list}:
            yield from _changes_of_items(old, new, path)
        elif before != after:
            yield _other(path, _list_pieces(before, after), is_list=True)
    elif isinstance(old, str) and isinstance(new, str):
        if old != new:
            yield _other(path, text_pieces(old, new))
    elif ... in (old, new) or _json(old) != _json(new):
        shown = _readable if ... in (old, new) else _json  # side by side, the text 1 and the number 1 must look different
        sides: list[tuple[Any, Literal["added", "removed"]]] = [(old, "removed"), (new, "added")]
        yield _other(path, [(shown(value), kind) for value, kind in sides if value is not ...])


def _changes_of_items(old: list[Any], new: list[Any], path: tuple[str, ...]) -> Iterator[FieldChange]:
    """Changes of a list of objects: in each of them, or all of one that is new or gone; and of their order."""
    matched = _pairs(old, new)
    for before, after in matched:
        if after is not None:
            inside = (*path, f"“{_title(new[after], 1 + after)}”")
            if before is not None:
                yield from _other_changes(old[before], new[after], inside)
            else:
                yield _other(inside, [(_readable(new[after]), "added")])
        elif before is not None:
            yield _other((*path, f"“{_title(old[before], 1 + before)}”"), [(_readable(old[before]), "removed")])
    stayed = [before for before, after in matched if before is not None and after is not None]
    if stayed != sorted(stayed):
        titles = [[_title(old[index], 1 + index) for index in order] for order in (sorted(stayed), stayed)]
        yield _other((*path, "sequence"), _list_pieces(*titles), is_list=True)


def _other(path: tuple[str, ...], pieces: list[Piece], is_list: bool = False) -> FieldChange:
    return FieldChange("other", _place(path), pieces, is_list)


def _list_pieces(old: Sequence[str], new: Sequence[str]) -> list[Piece]:
    pieces: list[Piece] = []
    for tag, first, last, begin, stop in _steps(old, new):
        pieces += [(text, "same" if tag == "equal" else "removed") for text in old[first:last]]
        pieces += [(text, "added") for text in new[begin:stop] if tag != "equal"]
    return pieces


def text_pieces(old: str, new: str) -> list[Piece]:
    """Word by word; line by line where that would take too long; old and new as a whole where even that would."""
    for split in (_WORD.findall, lambda text: [("", line) for line in text.splitlines(keepends=True)], lambda text: [("", text)]):
        before, after = split(old), split(new)
        if max(len(before), len(after)) <= _MOST_TOKENS:
            break
    pieces: list[Piece] = []
    for text, kind in _word_pieces(before, after):
        if text and pieces and pieces[-1][1] == kind:
            pieces[-1] = (pieces[-1][0] + text, kind)
        elif text:
            pieces.append((text, kind))
    return pieces


def _word_pieces(old: Sequence[tuple[str, str]], new: Sequence[tuple[str, str]]) -> Iterator[Piece]:
    """Pieces, some of them empty, of two sequences of (space, word). Words alone hold the texts together."""
    for tag, first, last, begin, stop in _steps([word for _, word in old], [word for _, word in new]):
        if tag != "equal":
            yield "".join(space + word for space, word in old[first:last]), "removed"
            yield "".join(space + word for space, word in new[begin:stop]), "added"
            continue
        for (before, word), (after, _) in zip(old[first:last], new[begin:stop], strict=True):
            if before == after:
                yield before + word, "same"
            else:
                yield from ((before, "removed"), (after, "added"), (word, "same"))


def _steps(old: Sequence[str], new: Sequence[str]) -> list[tuple[str, int, int, int, int]]:
    """What difflib calls opcodes. In long texts, very frequent words hold nothing together: that saves most of the time."""
    return list(difflib.SequenceMatcher(None, old, new, autojunk=len(new) > 1000).get_opcodes())


def _place(path: Sequence[str]) -> str:
    """A path of keys and titles in words; one outside of the card's "data" says so."""
    inside = path[0] == "data"
    parts = list(path[1:] if inside else path)
    if len(parts) > 1 and parts[0] == "extensions":
        parts = [parts[1] if parts[1] in _WORDS else f"Extension {parts[1]}", *parts[2:]]
    words = [_word_of(part) for part in parts if part not in _SKIPPED]
    return " · ".join([*([] if inside else ["Beside the card"]), *words]) or "Everything else"


def _word_of(key: str) -> str:
    if key in _WORDS:
        return _WORDS[key]
    return key.replace("_", " ").capitalize() if key.isidentifier() and key.islower() else key


def _title(item: Any, number: int) -> str:
    """What a writer calls an item of a list: its name or remark, its keys, the beginning of its text, its number."""
    parts = dict(item) if isinstance(item, dict) else {}
    if isinstance(parts.get("keys"), list):
        parts["keys"] = ", ".join(key for key in parts["keys"] if isinstance(key, str))
    texts = (" ".join(text.split()) for key in _TITLES if isinstance(text := parts.get(key), str))
    found = next(filter(None, texts), f"No. {number}")
    return found if len(found) <= _LONGEST_TITLE else f"{found[:_LONGEST_TITLE].rstrip()}…"


def _readable(value: Any) -> str:
    """A value for reading: an object line by line without what is empty, a list of plain values with commas, else JSON."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, dict) and value:
        return "\n".join(f"{_word_of(key)}: {_readable(inner)}" for key, inner in _filled(value).items()) or _json(value)
    if isinstance(value, list) and value and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(map(_readable, value))
    return _json(value)


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    return {key: inner for key, inner in value.items() if inner is not None and inner not in ("", [], {})}


def _json(value: Any) -> str:
    """The JSON of a value: equal texts for equal values, and for no others (for Python, 1 and true are equal)."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _pairs(old: list[Any], new: list[Any]) -> list[Pair]:
    """Which item became which: indices of both sides, None for no other side, in the new order, removed ones in their old place.

    The same item is one that is equal, else one with the same id, else with the same title, else one much like it.
    """
    found: dict[int, int] = {}  # new -> old
    taken: set[int] = set()
    rules: list[Callable[[Any], Any]] = [_json, _identity, lambda item: _title(item, 0)]
    for rule in rules:
        waiting: dict[Any, list[int]] = {}
        for index in reversed(range(len(old))):
            if index not in taken and (key := rule(old[index])) not in (None, _UNTITLED):
                waiting.setdefault(key, []).append(index)
        for index, item in enumerate(new):
            if index not in found and (same := waiting.get(rule(item))):
                found[index] = same.pop()
                taken.add(found[index])
    left = [index for index in range(len(old)) if index not in taken]
    for index in (index for index in range(len(new)) if index not in found):  # what is left, in its order
        if 0 < len(left) <= _MOST_COMPARED and _alike(old[left[0]], new[index]):
            found[index] = left.pop(0)
            taken.add(found[index])
    removed = [index for index in reversed(range(len(old))) if index not in taken]
    ordered: list[Pair] = []
    for index in range(len(new)):
        while removed and index in found and removed[-1] < found[index]:
            ordered.append((removed.pop(), None))
        ordered.append((found.get(index), index))
    return [*ordered, *((index, None) for index in reversed(removed))]


def _identity(item: Any) -> Any:
    number = item.get("id", item.get("uid")) if isinstance(item, dict) else None
    return _json(number) if isinstance(number, int | str) and number != "" else None


def _alike(old: Any, new: Any) -> bool:
    if None not in (numbers := (_identity(old), _identity(new))) and numbers[0] != numbers[1]:
        return False
    before, after = (" ".join(map(_readable, item.values())) if isinstance(item, dict) else _readable(item) for item in (old, new))
    return difflib.SequenceMatcher(None, before[:_COMPARED], after[:_COMPARED], autojunk=False).ratio() >= _ALIKE

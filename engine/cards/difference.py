"""What changed between two versions of a card, field by field: pure, for showing and not for patching.

Texts are compared word by word, lists item by item, everything else by its
place in the JSON. Does not decide what a change means.
"""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.cards.editing import LABELS, LISTS, as_v3

Piece = tuple[str, Literal["same", "added", "removed"]]

_SILENT = {"modification_date"}  # changes with every edit
_MOST_TOKENS = 6000  # compared one by one; the time grows with the square of their number
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Space, then a word with its apostrophes, a sign of a script that has no spaces, another sign, or the end.
_WORD = re.compile(r"(\s*)([\u3040-\u30ff\u3400-\u9fff]|(?:(?![\u3040-\u30ff\u3400-\u9fff])\w)+(?:['’]\w+)*|[^\w\s]|\Z)")


@dataclass(frozen=True)
class FieldChange:
    """A changed field. `field` is its key, or "other"; `label` its words for the page, for "other" its JSON path.

    The pieces of a text that are not "added" make up the old text, those that are not "removed" the new one. The
    pieces of a list are its items. The pieces of another field are JSON, or the text where both sides are texts.
    """

    field: str
    label: str
    pieces: list[Piece]


def difference(old_raw: dict[str, Any], new_raw: dict[str, Any]) -> list[FieldChange]:
    """The fields in which two V1, V2 or V3 cards differ, in the order of the page, other fields last by their path.

    What V3 merely requires to be there (empty texts, empty lists) is no difference, and neither is the date of the
    change.
    """
    old, new = as_v3(old_raw), as_v3(new_raw)
    changes = []
    for key, label in LABELS.items():
        before, after = (card["data"].get(key, "") for card in (old, new))
        if before != after:
            pieces = _list_pieces(before, after) if key in LISTS else _text_pieces(before, after)
            changes.append(FieldChange(key, label, pieces))
    return changes + list(_other_changes(_others(old), _others(new), ""))


def _others(card: dict[str, Any]) -> dict[str, Any]:
    """Everything of a card but the editable fields, and copies of these that lie beside "data"."""
    data = {key: value for key, value in card["data"].items() if key not in LABELS and key not in _SILENT}
    outside = {key: value for key, value in card.items() if key not in LABELS and key not in ("spec", "spec_version", "data")}
    return {**outside, "data": data}


def _other_changes(old: Any, new: Any, path: str) -> Iterator[FieldChange]:
    """Changes of JSON values, leaf by leaf; `...` stands for a value that is not there."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _other_changes(old.get(key, ...), new.get(key, ...), _below(path, key))
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            before, after = (values[index] if index < len(values) else ... for values in (old, new))
            yield from _other_changes(before, after, f"{path}[{index}]")
    elif isinstance(old, str) and isinstance(new, str):
        if old != new:
            yield FieldChange("other", path, _text_pieces(old, new))
    elif _json(old) != _json(new):
        removed: list[Piece] = [] if old is ... else [(_json(old), "removed")]
        added: list[Piece] = [] if new is ... else [(_json(new), "added")]
        yield FieldChange("other", path, removed + added)


def _below(path: str, key: str) -> str:
    if not _NAME.fullmatch(key):
        return f"{path}[{json.dumps(key, ensure_ascii=False)}]"
    return f"{path}.{key}" if path else key


def _json(value: Any) -> str:
    return "" if value is ... else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _list_pieces(old: Sequence[str], new: Sequence[str]) -> list[Piece]:
    pieces: list[Piece] = []
    for tag, first, last, begin, stop in _steps(old, new):
        if tag == "equal":
            pieces += [(text, "same") for text in old[first:last]]
        else:
            pieces += [(text, "removed") for text in old[first:last]]
            pieces += [(text, "added") for text in new[begin:stop]]
    return pieces


def _text_pieces(old: str, new: str) -> list[Piece]:
    """Word by word; line by line where that would take too long; old and new as a whole where even that would."""
    for split in (_WORD.findall, _lines, lambda text: [("", text)]):
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


def _lines(text: str) -> list[tuple[str, str]]:
    return [("", line) for line in text.splitlines(keepends=True)]


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

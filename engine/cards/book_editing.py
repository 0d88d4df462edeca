"""A lorebook as a writer edits it: entries with plain fields out, the card with them put back in.

Only what was changed is written; every other field of an entry, known or not, stays as it came. Knows no page.
"""

import copy
import itertools
import json
import time
from typing import Any

from engine.cards.book import parse_book
from engine.cards.editing import as_v3
from engine.cards.entries import ORDER, as_character_entry, raw_entries

MOST = 20_000  # entries that a page takes: more than a card of 1 MB holds
_FIELDS = ("name", "keys", "secondary", "content", "order", "constant", "enabled")


def shown_book(raw: dict[str, Any]) -> dict[str, Any]:
    """What a page edits: {"scan_depth", "token_budget", "recursive", "entries"}; each entry has _FIELDS and "kept", its
    JSON as it lies in the card, which comes back untouched."""
    book = as_v3(raw)["data"].get("character_book")
    book = book if isinstance(book, dict) else {}
    read = parse_book(book)
    return {"scan_depth": read.scan_depth, "token_budget": read.token_budget, "recursive": read.recursive,
            "entries": [shown_entry(value) for value in raw_entries(book) if isinstance(value, dict)]}


def shown_entry(value: dict[str, Any]) -> dict[str, Any]:
    """One entry of a book as a page edits it."""
    value = as_character_entry(value)
    text = lambda name: found if isinstance(found := value.get(name), str) else ""
    texts = lambda name: [one for one in value.get(name) or [] if isinstance(one, str)] if isinstance(
        value.get(name), list) else []
    order = value.get("insertion_order")
    return {"name": text("name") or text("comment"), "keys": texts("keys"), "secondary": texts("secondary_keys"),
            "content": text("content"), "order": order if isinstance(order, int) and not isinstance(order, bool) else ORDER,
            "constant": value.get("constant") is True, "enabled": value.get("enabled") is not False,
            "kept": json.dumps(value, ensure_ascii=False)}


def with_book(raw: dict[str, Any], edited: dict[str, Any], now: float | None = None) -> dict[str, Any]:
    """The V3 form of a card with the edited book; the card as it was where nothing differs. Raises ValueError for what
    `shown_book` does not give."""
    card = as_v3(raw)
    if edited == shown_book(raw):
        return card
    entries = edited["entries"]
    if not isinstance(entries, list) or len(entries) > MOST:
        raise ValueError(f"a book on a page has at most {MOST:,} entries")
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
    book["entries"] = [_written(one, old or _new_entry(next(fresh))) for one, old in zip(entries, kept, strict=True)]
    if not book["entries"] and not isinstance(before, dict):
        return card
    card["data"]["character_book"] = book
    card["data"]["modification_date"] = int(time.time() if now is None else now)
    return card


def _new_entry(number: int) -> dict[str, Any]:
    return {"keys": [], "content": "", "extensions": {}, "enabled": True, "insertion_order": ORDER, "use_regex": False,
            "id": number}


def _written(one: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """The entry of a card from one of a page: what was kept of it, with what the writer changed."""
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

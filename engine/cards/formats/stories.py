"""Saved stories and their lorebooks: NovelAI, and KoboldAI with its successors United and Lite.

NovelAI after public files of versions 1 to 6: lorebooks (.lorebook), and those within its scenarios and stories; keys are
plain words or /regular expressions/, "a & b" asks for both. KoboldAI after the files that it saves: "worldinfo" is a list
(keys as a text with commas), United's "worldinfo_v2" an object. Memory and author's note become entries that always fire.
"""

from typing import Any

from engine.cards.book import as_character_entry, entry_text, key_list
from engine.cards.formats.kinds import Format, Read, always, dict_of, entries_of, left_out, new_book, objects, text, without

_CONTEXT = ("Memory", "Author's note")  # what lies in the list "context", in this order
_AND_ALL = 3  # SillyTavern's number for "all of the secondary keys"


def _book(raw: Any) -> Read:
    off = [one["id"] for one in objects(raw.get("categories")) if one.get("enabled") is False and one.get("id")]
    entries = [_entry(one, off) for one in entries_of(raw)]
    joined = sum(any(isinstance(key, str) and " & " in key for key in one["keys"]) for one in entries)
    notes = (f"{joined} of its entries join keys by “&”, which are read here as they are written.",) if joined else ()
    return Read(new_book("novelai", raw, entries), notes)


def _entry(raw: dict[str, Any], off: list[Any]) -> dict[str, Any]:
    rank = dict_of(raw.get("contextConfig")).get("budgetPriority")
    keys = key_list(raw.get("keys"))
    rest = without(raw, "text", "displayName", "keys", "enabled", "forceActivation", "id")
    entry: dict[str, Any] = {
        "keys": keys, "content": text(raw.get("text")), "name": text(raw.get("displayName")),
        "constant": raw.get("forceActivation") is True,
        "enabled": raw.get("enabled") is not False and raw.get("category") not in off,
        "extensions": {"novelai": rest} if rest else {}}
    if isinstance(rank, int | float) and not isinstance(rank, bool):
        entry |= {"insertion_order": int(rank), "priority": int(rank)}
    if raw.get("id") is not None:
        entry["id"] = raw["id"]
    if len(keys) == 1 and isinstance(keys[0], str) and " & " in keys[0] and not keys[0].startswith("/"):
        first, *more = [part.strip() for part in keys[0].split(" & ")]
        entry |= {"keys": [first], "secondary_keys": more, "selective": True}
        entry["extensions"]["selectiveLogic"] = _AND_ALL
    return entry


def _story(raw: Any) -> Read:
    inner = raw["content"] if isinstance(raw.get("content"), dict) else raw  # of a scenario or a story
    lorebook = inner.get("lorebook")
    book = _book(lorebook if isinstance(lorebook, dict) else {"entries": []})
    context = [always(text(one.get("text")), name) for name, one in zip(_CONTEXT, objects(inner.get("context")), strict=False)]
    book.raw["entries"] = [*filter(entry_text, context), *book.raw["entries"]]
    story = inner.get("prompt") or inner.get("story")
    return Read(book.raw, (*book.notes, *left_out({"story": 1 if story else 0})))


_ALWAYS = {"memory": "Memory", "authorsnote": "Author's note", "current_memory": "Memory", "current_anote": "Author's note"}


def _kobold_entry(raw: dict[str, Any]) -> dict[str, Any]:
    entry = as_character_entry({**raw, "key": raw.get("key", raw.get("keys", "")), "selective": raw.get("selective") is True})
    extensions = {"match_whole_words": False, **entry["extensions"]}  # its keys are found within words
    if not entry["content"] and text(raw.get("manual_text")):
        entry = {**entry, "content": raw["manual_text"]}
    if (anti := key_list(raw.get("keyanti"))) and entry["content"]:  # words that keep it from firing
        entry = {**entry, "content": f"@@exclude_keys {', '.join(map(str, anti))}\n{entry['content']}"}
    return {**entry, "extensions": extensions}


def _save(raw: Any) -> Read:
    listed = objects(raw.get("worldinfo"))
    found = listed or entries_of(raw.get("worldinfo_v2"))
    notes = [always(raw[name], words) for name, words in _ALWAYS.items() if text(raw.get(name)).strip()]
    story = 1 if text(raw.get("prompt")).strip() or raw.get("actions") else 0
    return Read(new_book("kobold", {}, [*notes, *map(_kobold_entry, found)]), left_out({"story": story}))


FORMATS = (
    Format("lorebook", "a lorebook of NovelAI", lambda raw: "entries" in raw and ("lorebookVersion" in raw or any(
        "text" in one and "displayName" in one for one in entries_of(raw))), _book),
    Format("lorebook", "a story of NovelAI", lambda raw: "scenarioVersion" in raw or "storyContainerVersion" in raw, _story),
    Format("lorebook", "a saved story of KoboldAI", lambda raw: (
        isinstance(raw.get("worldinfo_v2"), dict) or isinstance(raw.get("worldinfo"), list)
        or {"gamestarted", "actions", "prompt"} <= raw.keys()), _save),
)

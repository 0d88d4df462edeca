"""KoboldAI, its successor United, and KoboldAI Lite: the world of a saved story, with its memory and author's note.

After the files that they save: "worldinfo" is a list (keys as a text with commas), United's "worldinfo_v2" an object.
"""

from typing import Any

from engine.cards.entries import as_character_entry, key_list
from engine.cards.formats.kinds import Format, Read, entries_of, left_out, new_book, objects, text

_ALWAYS = {"memory": "Memory", "authorsnote": "Author's note", "current_memory": "Memory", "current_anote": "Author's note"}


def _is_save(raw: Any) -> bool:
    return isinstance(raw, dict) and (isinstance(raw.get("worldinfo_v2"), dict) or isinstance(raw.get("worldinfo"), list)
                                      or {"gamestarted", "actions", "prompt"} <= raw.keys())


def _entry(raw: dict[str, Any]) -> dict[str, Any]:
    entry = as_character_entry({**raw, "key": raw.get("key", raw.get("keys", "")), "selective": raw.get("selective") is True})
    extensions = {"match_whole_words": False, **entry["extensions"]}  # its keys are found within words
    if not entry["content"] and text(raw.get("manual_text")):
        entry = {**entry, "content": raw["manual_text"]}
    if (anti := key_list(raw.get("keyanti"))) and entry["content"]:  # words that keep it from firing
        entry = {**entry, "content": f"@@exclude_keys {', '.join(map(str, anti))}\n{entry['content']}"}
    return {**entry, "extensions": extensions}


def _book(raw: Any) -> Read:
    listed = objects(raw.get("worldinfo"))
    found = listed or entries_of(raw.get("worldinfo_v2"))
    always = [{"keys": [], "content": raw[name], "name": words, "constant": True, "extensions": {}, "enabled": True,
               "insertion_order": 0} for name, words in _ALWAYS.items() if text(raw.get(name)).strip()]
    story = 1 if text(raw.get("prompt")).strip() or raw.get("actions") else 0
    return Read(new_book("kobold", {}, [*always, *map(_entry, found)]), left_out({"story": story}))


FORMATS = (Format("lorebook", "a saved story of KoboldAI", _is_save, _book),)

"""SillyTavern's world files, the same on its own as a card has it (V2, V3's "lorebook_v3"), and its chats."""

from typing import Any

from engine.cards.entries import as_character_book, is_entry
from engine.cards.formats.kinds import Format, Read, entries_of

_OF_A_CHARACTER = {"first_mes", "personality", "scenario", "mes_example", "persona", "greeting"}


def _is_world(raw: Any) -> bool:
    if not isinstance(raw, dict):
        return False
    if raw.get("spec") == "lorebook_v3":
        return True
    held = raw.get("entries")
    return isinstance(held, dict | list) and not raw.keys() & _OF_A_CHARACTER and (not held or any(map(is_entry, entries_of(raw))))


def _world(raw: Any) -> Read:
    inner = raw["data"] if raw.get("spec") == "lorebook_v3" and isinstance(raw.get("data"), dict) else raw
    return Read(as_character_book(inner))


def _is_chat(raw: Any) -> bool:
    return isinstance(raw, dict) and {"user_name", "character_name"} <= raw.keys()


FORMATS = (Format("lorebook", "a lorebook", _is_world, _world),
           Format("other", "a chat of SillyTavern", _is_chat, instead="export the character there instead"))

"""Lorebooks that are a bare list of entries: JanitorAI's export, story cards of AI Dungeon."""

from typing import Any

from engine.cards.entries import as_character_book, is_entry
from engine.cards.formats.kinds import Format, Read


def _is_list(raw: Any) -> bool:
    return isinstance(raw, list) and any(map(is_entry, raw))


def _book(raw: Any) -> Read:
    return Read(as_character_book({"entries": raw}))


FORMATS = (Format("lorebook", "a list of lorebook entries", _is_list, _book),)

"""Websites of characters: Agnai, JanitorAI and Chub, as they export or serve characters and memory books.

Agnai after its types (common/types/library.ts, memory.ts). At JanitorAI and Chub, "personality" is what the model reads,
and "description" the text for readers.
"""

from typing import Any

from engine.cards.book import as_character_book
from engine.cards.formats.kinds import Format, Read, dict_of, entries_of, new_book, new_card, renamed, text, without

# Agnai's name of a field, and the card's.
_AGNAI = {"name": "name", "greeting": "first_mes", "sampleChat": "mes_example", "scenario": "scenario",
           "description": "creator_notes", "systemPrompt": "system_prompt", "postHistoryInstructions": "post_history_instructions",
           "alternateGreetings": "alternate_greetings", "creator": "creator", "characterVersion": "character_version",
           "tags": "tags"}
_OF_THE_SITE = ("kind", "_id", "userId", "createdAt", "updatedAt", "deletedAt", "folder", "favorite")


def _agnai(raw: Any) -> Read:
    fields = renamed(raw, _AGNAI)
    fields["description"] = _persona(raw.get("persona"))
    fields["extensions"] = dict_of(raw.get("extensions"))
    note = raw.get("insert")
    if isinstance(note, dict) and text(note.get("prompt")).strip():
        fields["extensions"].setdefault("depth_prompt", {"role": "system", **note})
    notes: tuple[str, ...] = ()
    if isinstance(raw.get("characterBook"), dict):
        book = _memory(raw["characterBook"])
        fields["character_book"], notes = book.raw, book.notes
    rest = without(raw, *_AGNAI, *_OF_THE_SITE, "extensions", "insert", "characterBook")
    if isinstance(raw.get("persona"), dict) and raw["persona"].get("kind") == "text":
        rest.pop("persona")  # it says nothing that the description does not
    return Read(new_card("agnai", fields, rest), notes)


def _persona(persona: Any) -> str:
    """The description: a text as it is, attributes as a line each."""
    attributes = persona.get("attributes") if isinstance(persona, dict) else None
    if isinstance(persona, str):
        return persona
    if not isinstance(attributes, dict):
        return ""
    values = {name: value if isinstance(value, list) else [value] for name, value in attributes.items()}
    if persona.get("kind") == "text":
        return "\n".join(text(part) for part in values.get("text", []))
    return "\n".join(f"{name}: {', '.join(map(str, parts))}" for name, parts in values.items() if parts)


def _memory(raw: Any) -> Read:
    settings = {ours: raw[theirs] for theirs, ours in (("scanDepth", "scan_depth"), ("tokenBudget", "token_budget"),
                                                       ("recursiveScanning", "recursive_scanning")) if raw.get(theirs) is not None}
    book = new_book("agnai", raw, entries_of(raw), (*_OF_THE_SITE, "extensions", "scanDepth", "tokenBudget", "recursiveScanning"))
    return Read({**book, **settings, "extensions": {**dict_of(raw.get("extensions")), **book["extensions"]}})


_MARKS = {"is_nsfw", "is_public", "showdefinition", "creator_id", "tavern_personality"}  # elsewhere, a description is one
_FIELDS = {"name": "name", "personality": "description", "tavern_personality": "personality", "scenario": "scenario",
           "first_message": "first_mes", "example_dialogs": "mes_example", "description": "creator_notes",
           "system_prompt": "system_prompt", "post_history_instructions": "post_history_instructions",
           "alternate_greetings": "alternate_greetings", "tags": "tags", "creator_name": "creator", "extensions": "extensions"}


def _inner(raw: Any) -> dict[str, Any]:
    """The object with the fields: Chub's lies in "node" and "definition"."""
    for name in ("node", "definition"):
        raw = raw[name] if isinstance(raw.get(name), dict) else raw
    return raw


def _is_character(raw: Any) -> bool:
    inner = _inner(raw)
    return {"name", "personality", "first_message"} <= inner.keys() and (inner is not raw or bool(inner.keys() & _MARKS))


def _character(raw: Any) -> Read:
    inner = _inner(raw)
    fields = renamed(inner, _FIELDS)
    first = inner.get("first_messages")
    if not text(fields["first_mes"]) and isinstance(first, list) and first:
        fields["first_mes"], fields["alternate_greetings"] = first[0], first[1:]
    if isinstance(inner.get("embedded_lorebook"), dict):
        fields["character_book"] = as_character_book(inner["embedded_lorebook"])
    return Read(new_card("site", fields, without(inner, *_FIELDS, "embedded_lorebook", "first_messages")))


FORMATS = (
    Format("character", "a character of Agnai", lambda raw: raw.get("kind") in ("character", "library-character") or (
        {"name", "persona", "greeting", "sampleChat"} <= raw.keys()), _agnai),
    Format("lorebook", "a memory book of Agnai", lambda raw: raw.get("kind") == "memory" or any(
        "entry" in one and one.keys() & {"keywords", "name"} for one in entries_of(raw)), _memory),
    Format("character", "a character of JanitorAI or Chub", _is_character, _character),
)

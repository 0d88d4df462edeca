"""Characters as the interfaces of JanitorAI and Chub give them: there, "personality" is what the model reads, and
"description" the text for readers."""

from typing import Any

from engine.cards.entries import as_character_book
from engine.cards.formats.kinds import Format, Read, new_card, text

_MARKS = {"is_nsfw", "is_public", "showdefinition", "creator_id", "tavern_personality"}  # elsewhere, a description is one
_FIELDS = {"name": "name", "personality": "description", "tavern_personality": "personality", "scenario": "scenario",
           "first_message": "first_mes", "example_dialogs": "mes_example", "description": "creator_notes",
           "system_prompt": "system_prompt", "post_history_instructions": "post_history_instructions",
           "alternate_greetings": "alternate_greetings", "tags": "tags", "creator_name": "creator", "extensions": "extensions"}


def _inner(raw: Any) -> dict[str, Any]:
    """The object with the fields: Chub's lies in "node" and "definition"."""
    for name in ("node", "definition"):
        inner = raw.get(name) if isinstance(raw, dict) else None
        raw = inner if isinstance(inner, dict) else raw
    return raw if isinstance(raw, dict) else {}


def _is_character(raw: Any) -> bool:
    inner = _inner(raw)
    return {"name", "personality", "first_message"} <= inner.keys() and (inner is not raw or bool(inner.keys() & _MARKS))


def _character(raw: Any) -> Read:
    inner = _inner(raw)
    fields = {ours: inner.get(theirs) for theirs, ours in _FIELDS.items()}
    first = inner.get("first_messages")
    if not text(fields["first_mes"]) and isinstance(first, list) and first:
        fields["first_mes"], fields["alternate_greetings"] = first[0], first[1:]
    if isinstance(inner.get("embedded_lorebook"), dict):
        fields["character_book"] = as_character_book(inner["embedded_lorebook"])
    rest = {name: value for name, value in inner.items() if name not in (*_FIELDS, "embedded_lorebook", "first_messages")}
    return Read(new_card("site", fields, rest))


FORMATS = (Format("character", "a character of JanitorAI or Chub", _is_character, _character),)

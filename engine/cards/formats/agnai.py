"""Agnai (agnai.chat): characters and memory books, as it exports them. After its types: common/types/library.ts, memory.ts."""

from typing import Any

from engine.cards.formats.kinds import Format, Read, dict_of, entries_of, new_book, new_card, text

# Agnai's name of a field, and the card's.
_FIELDS = {"name": "name", "greeting": "first_mes", "sampleChat": "mes_example", "scenario": "scenario",
           "description": "creator_notes", "systemPrompt": "system_prompt", "postHistoryInstructions": "post_history_instructions",
           "alternateGreetings": "alternate_greetings", "creator": "creator", "characterVersion": "character_version",
           "tags": "tags"}
_OF_THE_SITE = ("kind", "_id", "userId", "createdAt", "updatedAt", "deletedAt", "folder", "favorite")


def _is_character(raw: Any) -> bool:
    if not isinstance(raw, dict):
        return False
    return raw.get("kind") in ("character", "library-character") or {"name", "persona", "greeting", "sampleChat"} <= raw.keys()


def _is_book(raw: Any) -> bool:
    return isinstance(raw, dict) and (raw.get("kind") == "memory" or any(
        "entry" in one and one.keys() & {"keywords", "name"} for one in entries_of(raw)))


def _character(raw: Any) -> Read:
    fields: dict[str, Any] = {ours: raw.get(theirs) for theirs, ours in _FIELDS.items()}
    fields["description"] = _persona(raw.get("persona"))
    fields["extensions"] = dict_of(raw.get("extensions"))
    note = raw.get("insert")
    if isinstance(note, dict) and text(note.get("prompt")).strip():
        fields["extensions"].setdefault("depth_prompt", {"role": "system", **note})
    notes: tuple[str, ...] = ()
    if isinstance(raw.get("characterBook"), dict):
        book = _book(raw["characterBook"])
        fields["character_book"], notes = book.raw, book.notes
    taken = (*_FIELDS, *_OF_THE_SITE, "extensions", "insert", "characterBook")
    rest = {name: value for name, value in raw.items() if name not in taken}
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


def _book(raw: Any) -> Read:
    settings = {ours: raw[theirs] for theirs, ours in (("scanDepth", "scan_depth"), ("tokenBudget", "token_budget"),
                                                       ("recursiveScanning", "recursive_scanning")) if raw.get(theirs) is not None}
    book = new_book("agnai", raw, entries_of(raw), (*_OF_THE_SITE, "extensions", "scanDepth", "tokenBudget", "recursiveScanning"))
    return Read({**book, **settings, "extensions": {**dict_of(raw.get("extensions")), **book["extensions"]}})


FORMATS = (Format("character", "a character of Agnai", _is_character, _character),
           Format("lorebook", "a memory book of Agnai", _is_book, _book))

"""Small formats: text-generation-webui, SillyTavern's worlds, bare lists of entries; and what can be read as neither.

text-generation-webui (YAML, or the same as JSON) after its modules/chat.py. Worlds are the same on their own as a card has
them (V2, V3's "lorebook_v3"). Lists come from JanitorAI and as story cards of AI Dungeon. For what people take for a
character or a lorebook, `instead` says what to export.
"""

from typing import Any

from engine.cards.book import as_character_book, is_entry
from engine.cards.formats.kinds import Format, Read, entries_of, new_card, text

_TEXTGEN = {"name": "name", "context": "description", "greeting": "first_mes", "example_dialogue": "mes_example"}
_TEMPLATE = {"turn_template", "instruction_template"}


def _is_character(raw: Any) -> bool:
    return isinstance(raw, dict) and bool(raw.keys() & {"name", "bot"}) and "description" not in raw and isinstance(
        raw.get("context"), str) and (not raw.keys() & _TEMPLATE or "greeting" in raw)


def _is_template(raw: Any) -> bool:
    return isinstance(raw, dict) and bool(raw.keys() & _TEMPLATE) and "greeting" not in raw


def _character(raw: Any) -> Read:
    fields = {ours: raw.get(theirs) for theirs, ours in _TEXTGEN.items()}
    fields["name"] = raw.get("name", raw.get("bot"))
    for name in ("personality", "scenario", "tags", "creator"):
        fields[name] = raw.get(name)
    rest = {name: value for name, value in raw.items() if name not in (*_TEXTGEN, *fields, "bot")}
    if not text(fields["first_mes"]).strip() or text(fields["first_mes"]).strip() == "None":
        fields["first_mes"] = ""
    return Read(new_card("text-generation-webui", fields, rest))


_NOT_IN_A_WORLD = {"first_mes", "personality", "scenario", "mes_example", "persona", "greeting"}


def _is_world(raw: Any) -> bool:
    if not isinstance(raw, dict):
        return False
    if raw.get("spec") == "lorebook_v3":
        return True
    held = raw.get("entries")
    return isinstance(held, dict | list) and not raw.keys() & _NOT_IN_A_WORLD and (not held or any(map(is_entry, entries_of(raw))))


def _world(raw: Any) -> Read:
    inner = raw["data"] if raw.get("spec") == "lorebook_v3" and isinstance(raw.get("data"), dict) else raw
    return Read(as_character_book(inner))


def _is_chat(raw: Any) -> bool:
    return isinstance(raw, dict) and {"user_name", "character_name"} <= raw.keys()


def _is_list(raw: Any) -> bool:
    return isinstance(raw, list) and any(map(is_entry, raw))


def _listed(raw: Any) -> Read:
    return Read(as_character_book({"entries": raw}))


_OF_A_PROGRAM = {"version", "main", "scripts", "dependencies", "devDependencies", "repository", "license", "engines", "permissions",
                 "manifest_version", "entry", "homepage", "keywords"}
_OF_A_CHARACTER = {"spec", "personality", "scenario", "first_mes", "mes_example", "system_prompt", "greeting", "persona"}


def _keys(raw: Any) -> set[str]:
    return set(raw) if isinstance(raw, dict) else set()


FORMATS = (
    Format("character", "a character of text-generation-webui", _is_character, _character),
    Format("other", "an instruction template of text-generation-webui", _is_template,
                  instead="its characters lie in user_data/characters"),
    Format("lorebook", "a lorebook", _is_world, _world),
    Format("other", "a chat of SillyTavern", _is_chat, instead="export the character there instead"),
    Format("lorebook", "a list of lorebook entries", _is_list, _listed),
    Format("other", "a list of regex scripts of RisuAI", lambda raw: isinstance(raw, dict) and raw.get("type") == "regex",
    instead="export the character or its lorebook there instead"),
    Format("other", "a chat", lambda raw: "messages" in _keys(raw) and not _keys(raw) & {"description", "persona", "data"},
    instead="export the character instead"),
    Format("other", "a manifest of a program", lambda raw: len(_keys(raw) & _OF_A_PROGRAM) > 1 and not _keys(raw) & _OF_A_CHARACTER,
    instead="nothing in it speaks about a character"),
    Format("other", "a preset of sampling or prompt settings",
    lambda raw: bool(_keys(raw) & {"input_sequence", "temp", "temperature", "story_string", "prompts"})
    and not _keys(raw) & {"description", "first_mes", "persona", "data"},
    instead="export the character instead"),
)

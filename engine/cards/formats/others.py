"""Small formats: text-generation-webui, SillyTavern's worlds, bare lists of entries; and what can be read as neither.

text-generation-webui (YAML, or the same as JSON) after its modules/chat.py. Worlds are as in a card (V2, V3's "lorebook_v3").
Lists come from JanitorAI and as story cards of AI Dungeon.
"""

from typing import Any

from engine.cards.book import as_character_book, is_entry
from engine.cards.formats.kinds import Format, Read, entries_of, new_card, renamed, text, without

_TEXTGEN = {"name": "name", "context": "description", "greeting": "first_mes", "example_dialogue": "mes_example",
            **{name: name for name in ("personality", "scenario", "tags", "creator")}}
_TEMPLATE = {"turn_template", "instruction_template"}


def _character(raw: Any) -> Read:
    fields = renamed(raw, _TEXTGEN)
    fields["name"] = raw.get("name", raw.get("bot"))
    if not text(fields["first_mes"]).strip() or text(fields["first_mes"]).strip() == "None":
        fields["first_mes"] = ""
    return Read(new_card("text-generation-webui", fields, without(raw, *_TEXTGEN, *fields, "bot")))


_NOT_IN_A_WORLD = {"first_mes", "personality", "scenario", "mes_example", "persona", "greeting"}


def _is_world(raw: Any) -> bool:
    if raw.get("spec") == "lorebook_v3":
        return True
    held = raw.get("entries")
    return isinstance(held, dict | list) and not raw.keys() & _NOT_IN_A_WORLD and (not held or any(map(is_entry, entries_of(raw))))


_OF_A_PROGRAM = {"version", "main", "scripts", "dependencies", "devDependencies", "repository", "license", "engines", "permissions",
                 "manifest_version", "entry", "homepage", "keywords"}
_OF_A_CHARACTER = {"spec", "personality", "scenario", "first_mes", "mes_example", "system_prompt", "greeting", "persona"}

FORMATS = (
    Format("character", "a character of text-generation-webui",
           lambda raw: raw.keys() & {"name", "bot"} and "description" not in raw and isinstance(raw.get("context"), str) and (
               not raw.keys() & _TEMPLATE or "greeting" in raw), _character),
    Format("other", "an instruction template of text-generation-webui",
           lambda raw: raw.keys() & _TEMPLATE and "greeting" not in raw,
           instead="its characters are in user_data/characters"),
    Format("lorebook", "a lorebook", _is_world, lambda raw: Read(as_character_book(
        raw["data"] if raw.get("spec") == "lorebook_v3" and isinstance(raw.get("data"), dict) else raw)), is_own=True),
    Format("other", "a chat of SillyTavern", lambda raw: {"user_name", "character_name"} <= raw.keys(),
           instead="export the character there instead"),
    Format("lorebook", "a list of lorebook entries", lambda raw: any(map(is_entry, raw)),
           lambda raw: Read(as_character_book({"entries": raw})), is_list=True),
    Format("other", "a list of regex scripts of RisuAI", lambda raw: raw.get("type") == "regex",
           instead="export the character or its lorebook there instead"),
    Format("other", "a chat", lambda raw: "messages" in raw and not raw.keys() & {"description", "persona", "data"},
           instead="export the character instead"),
    Format("other", "a manifest of a program", lambda raw: len(raw.keys() & _OF_A_PROGRAM) > 1 and not raw.keys() & _OF_A_CHARACTER,
           instead="nothing in it describes a character"),
    Format("other", "a preset of sampling or prompt settings",
           lambda raw: raw.keys() & {"input_sequence", "temp", "temperature", "story_string", "prompts"}
           and not raw.keys() & {"description", "first_mes", "persona", "data"},
           instead="export the character instead"),
)

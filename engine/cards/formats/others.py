"""What people take for a character or a lorebook, and what to export instead: files that cannot be read as either."""

from typing import Any

from engine.cards.formats.kinds import Format

_OF_A_PROGRAM = {"version", "main", "scripts", "dependencies", "devDependencies", "repository", "license", "engines", "permissions",
                 "manifest_version", "entry", "homepage", "keywords"}
_OF_A_CHARACTER = {"spec", "personality", "scenario", "first_mes", "mes_example", "system_prompt", "greeting", "persona"}


def _keys(raw: Any) -> set[str]:
    return set(raw) if isinstance(raw, dict) else set()


FORMATS = (
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

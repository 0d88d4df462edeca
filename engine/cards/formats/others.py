"""What people take for a character or a lorebook, and what to export instead: files that cannot be read as either."""

from typing import Any

from engine.cards.formats.kinds import Format


def _keys(raw: Any) -> set[str]:
    return set(raw) if isinstance(raw, dict) else set()


FORMATS = (
    Format("other", "a list of regex scripts of RisuAI", lambda raw: isinstance(raw, dict) and raw.get("type") == "regex",
           instead="export the character or its lorebook there instead"),
    Format("other", "a chat", lambda raw: "messages" in _keys(raw) and not _keys(raw) & {"description", "persona", "data"},
           instead="export the character instead"),
    Format("other", "a preset of sampling or prompt settings",
           lambda raw: bool(_keys(raw) & {"input_sequence", "temp", "temperature", "story_string", "prompts"})
           and not _keys(raw) & {"description", "first_mes", "persona", "data"},
           instead="export the character instead"),
)

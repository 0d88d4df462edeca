"""text-generation-webui: characters as YAML (or the same as JSON). After its modules/chat.py and the characters it brings."""

from typing import Any

from engine.cards.formats.kinds import Format, Read, new_card, text

_FIELDS = {"name": "name", "context": "description", "greeting": "first_mes", "example_dialogue": "mes_example"}
_TEMPLATE = {"turn_template", "instruction_template"}


def _is_character(raw: Any) -> bool:
    return isinstance(raw, dict) and bool(raw.keys() & {"name", "bot"}) and "description" not in raw and isinstance(
        raw.get("context"), str) and (not raw.keys() & _TEMPLATE or "greeting" in raw)


def _is_template(raw: Any) -> bool:
    return isinstance(raw, dict) and bool(raw.keys() & _TEMPLATE) and "greeting" not in raw


def _character(raw: Any) -> Read:
    fields = {ours: raw.get(theirs) for theirs, ours in _FIELDS.items()}
    fields["name"] = raw.get("name", raw.get("bot"))
    for name in ("personality", "scenario", "tags", "creator"):
        fields[name] = raw.get(name)
    rest = {name: value for name, value in raw.items() if name not in (*_FIELDS, *fields, "bot")}
    if not text(fields["first_mes"]).strip() or text(fields["first_mes"]).strip() == "None":
        fields["first_mes"] = ""
    return Read(new_card("text-generation-webui", fields, rest))


FORMATS = (Format("character", "a character of text-generation-webui", _is_character, _character),
           Format("other", "an instruction template of text-generation-webui", _is_template,
                  instead="its characters lie in user_data/characters"))

"""The fields of a card, in one table, and cards as a writer edits them: raw dictionaries in, new raw dictionaries out.

To add a field, add it to FIELDS: reading, editing, the differences of two versions and the Draft form follow. One that the
prompt needs is also an attribute of `Card`. Unknown fields, extensions and files are kept as they are.
"""

import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Section = Literal["who", "where", "words", "model", "about"]


@dataclass(frozen=True)
class Field:
    """A field that a writer edits: a text or, with `is_list`, a list of texts.

    `key`: its name in V2 and V3. `attribute`: that of `Card`; "" where no prompt has it. `section`, `hint`, `example` and `lines`
    (at first, at most) are for the form; `beside`: it shares a line with its neighbours; `item`: one of a list.
    `optional`: left out of a card where it is empty; V3 requires all others.
    """

    key: str
    label: str
    section: Section
    attribute: str = ""
    is_list: bool = False
    hint: str = ""
    example: str = ""
    lines: tuple[int, int] = (1, 1)
    beside: bool = False
    item: str = ""
    optional: bool = False


# In the order of the page.
FIELDS = (
    Field("name", "Name", "who", "name", example="The full name", beside=True),
    Field("nickname", "Nickname", "who", "nickname", example="A short name, if they have one", beside=True,
          optional=True),
    Field("description", "Description", "who", "description", lines=(7, 30),
          hint="Who they are, how they talk, what they want. {{char}} and {{user}} stand for the names of the character and the "
               "player.",
          example="Three sentences are enough to begin with.\n\nMara keeps the lighthouse of a harbour that no ship visits any "
                  "more. She talks in short, dry sentences and answers questions with questions. She wants to know who has been "
                  "lighting the other lamp."),
    Field("personality", "Personality", "who", "personality", hint="A few words or a sentence.",
          example="Dry, patient, secretly sentimental", lines=(2, 12)),
    Field("scenario", "Scenario", "where", "scenario", hint="Where the two of you meet, and what has just happened.",
          example="A storm has closed the coast road. {{user}} knocks at the lighthouse after midnight.", lines=(3, 12)),
    Field("first_mes", "Greeting", "words", "greeting", lines=(4, 20),
          hint="What the character says first. Answers tend to become as long as this.",
          example="*She opens the door a hand's width.* You're late. Nobody is ever late here."),
    Field("alternate_greetings", "Other greetings", "words", "alternate_greetings", is_list=True, item="Greeting",
          hint="Other ways to begin. The player chooses one."),
    Field("mes_example", "Example dialogue", "words", "example_dialogue", lines=(6, 30),
          hint="Begin each dialogue with <START> on a line of its own. This shapes the voice more than anything else.",
          example="<START>\n{{user}}: Do you like it here?\n{{char}}: Like? The lamp turns. I turn with it."),
    Field("system_prompt", "Instructions", "model", "system_prompt", lines=(3, 20),
          hint="How to play the role. When empty, the studio's own sentence is used; {{original}} puts it in here."),
    Field("post_history_instructions", "Closing instructions", "model", "post_history_instructions", lines=(2, 12),
          hint="The last thing that the model reads about the character."),
    Field("tags", "Tags", "about", is_list=True, hint="Separated by commas.", example="fantasy, keeper, mystery"),
    Field("creator", "Author", "about", beside=True),
    Field("character_version", "Version of the card", "about", beside=True,
          hint="Your own name for it. The studio counts its versions by itself."),
    Field("creator_notes", "Notes for readers", "about", hint="For people who use the card. The model never reads them.",
          lines=(3, 20)),
    Field("group_only_greetings", "Greetings in groups", "about", is_list=True, item="Group greeting",
          hint="Used only where several characters talk together."),
)
LABELS = {field.key: field.label for field in FIELDS}
LISTS = tuple(field.key for field in FIELDS if field.is_list)
TEXTS = tuple(field.key for field in FIELDS if not field.is_list)

_V2, _V3 = "chara_card_v2", "chara_card_v3"
_ONLY_V3 = ("nickname", "assets", "creator_notes_multilingual", "source", "group_only_greetings", "creation_date",
            "modification_date")
KEPT_IN_V2 = "persona_studio/v3"  # the extension of a V2 card that holds what only V3 has a field for
# What programs call the fields of a flat card. Those of the time before V1, as Pygmalion's tools and text-generation-webui
# wrote them, are still about; others are in camel case.
_OTHER_NAMES = {"char_name": "name", "char_persona": "description", "char_greeting": "first_mes", "world_scenario": "scenario",
                "example_dialogue": "mes_example", "desc": "description", "persona": "description", "context": "description",
                "greeting": "first_mes", "first_message": "first_mes", "firstMessage": "first_mes", "firstMes": "first_mes",
                "example_dialogs": "mes_example", "example_dialogues": "mes_example", "exampleDialogue": "mes_example",
                "exampleMessage": "mes_example", "mesExample": "mes_example", "systemPrompt": "system_prompt",
                "postHistoryInstructions": "post_history_instructions", "alternateGreetings": "alternate_greetings",
                "creatorNotes": "creator_notes", "creatorcomment": "creator_notes", "characterVersion": "character_version",
                "characterBook": "character_book"}


def data_of(raw: Any) -> Mapping[str, Any]:
    """The fields of a card of any version: "data" of V2 and V3, the whole of V1; {} where that is no object."""
    found = raw.get("data") if isinstance(raw, Mapping) and raw.get("spec") is not None else raw
    return found if isinstance(found, Mapping) else {}


def extensions_of(raw: Any) -> Mapping[str, Any]:
    """The extensions of a card of any version; {} where they are no object."""
    found = data_of(raw).get("extensions")
    return found if isinstance(found, Mapping) else {}


def blank_card(name: str) -> dict[str, Any]:
    """A V3 card with a name alone."""
    card = touched(as_v3({"name": _whole_characters(name)}), None)
    card["data"]["creation_date"] = card["data"]["modification_date"]
    return card


def as_v3(raw: dict[str, Any]) -> dict[str, Any]:
    """The V3 form of a V1, V2 or V3 card, as a copy: every field that V3 requires is there, every other one is kept.

    Values of the wrong type become texts, lists and books; what `to_v2` put into an extension comes back. Raises ValueError
    where a V2 or V3 card has no object as "data".
    """
    outside: dict[str, Any] = {}
    fields: Any
    if raw.get("spec") is None:  # V1 is flat, so that its unknown fields lie beside the known ones
        fields = {key: copy.deepcopy(value) for key, value in modern_names(raw).items() if key not in ("spec", "spec_version")}
    else:
        outside = {key: copy.deepcopy(value) for key, value in raw.items() if key != "data"}
        fields = copy.deepcopy(raw.get("data"))
    if not isinstance(fields, dict):
        raise ValueError('a card needs an object as "data"')
    kept_version = _taken_back(fields)
    version = raw.get("spec_version") if raw.get("spec") == _V3 else kept_version
    fields |= values_of(fields)
    _drop_empty(fields)
    fields["extensions"] = fields.get("extensions") or {}
    book = fields.get("character_book", {})
    if book is None or book is False or book in ([], ""):  # optional, but never null
        del fields["character_book"]
    elif isinstance(book, list):
        fields["character_book"] = {"extensions": {}, "entries": book}
    return {**outside, "spec": _V3, "spec_version": version if isinstance(version, str) else "3.0", "data": fields}


def to_v2(raw: dict[str, Any]) -> dict[str, Any]:
    """The V2 form of a card, with nothing lost: `as_v3` of it is `as_v3` of `raw`.

    What only V3 has a field for moves into the extension KEPT_IN_V2, with the "spec_version" where it is not "3.0": by the V2
    specification no program may drop an extension. A card whose extensions are no object keeps these fields in place.
    """
    card = as_v3(raw)
    fields, extensions = card["data"], card["data"]["extensions"]
    if isinstance(extensions, dict):
        if not fields["group_only_greetings"]:  # V3 only requires it to be there
            del fields["group_only_greetings"]
        moved = {key: fields.pop(key) for key in _ONLY_V3 if key in fields}
        if card["spec_version"] != "3.0":
            moved["spec_version"] = card["spec_version"]
        if moved:
            before = extensions.get(KEPT_IN_V2)
            extensions[KEPT_IN_V2] = {**before, **moved} if isinstance(before, dict) else moved
    return {**card, "spec": _V2, "spec_version": "2.0"}


def modern_names(raw: dict[str, Any]) -> dict[str, Any]:
    """A flat card with the specification's names for its fields; other programs have others (`other_names`)."""
    names = other_names(raw)
    return {names.get(key, key): value for key, value in raw.items() if key not in names.values()} if names else raw


def other_names(raw: dict[str, Any]) -> dict[str, str]:
    """Which fields of a flat card have another name, and the right ones: where that one is missing or empty."""
    found: dict[str, str] = {}
    for name, right in _OTHER_NAMES.items():
        full = raw.get(name) if right == "character_book" else text_of(raw.get(name)).strip() if name in raw else None
        fits = isinstance(raw.get(name), dict if right == "character_book" else list if right in LISTS else str)
        if full and fits and raw.get(right) in (None, "", []) and right not in found.values():
            found[name] = right
    return found


def values_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """FIELDS as texts and lists of texts, from any JSON values."""
    return {key: texts_of(key, fields.get(key)) if key in LISTS else text_of(fields.get(key)) for key in LABELS}


def fields_of(raw: dict[str, Any]) -> dict[str, Any]:
    """The editable fields (LABELS, in that order) of any card: texts, and lists of texts."""
    return values_of(as_v3(raw)["data"])


def with_fields(raw: dict[str, Any], *, now: float | None = None, **changes: str | Sequence[str]) -> dict[str, Any]:
    """The V3 form of a card with some editable fields changed, dated `now` (Unix seconds). Raises ValueError for unknown ones."""
    card = as_v3(raw)
    fields = card["data"]
    before = copy.deepcopy(fields)
    for key, value in changes.items():
        if key not in LABELS:
            raise ValueError(f"{key!r} is no editable field of a card")
        if isinstance(value, str) != (key in TEXTS):
            raise ValueError(f"{key!r} takes {'a text' if key in TEXTS else 'a list of texts'}")
        fields[key] = _whole_characters(value) if isinstance(value, str) else [_whole_characters(text) for text in value]
    _drop_empty(fields)
    if fields == before:
        return card
    for key in changes.keys() & card.keys():  # some programs repeat V1's fields beside "data" and read them there
        card[key] = copy.deepcopy(fields.get(key, ""))
    return touched(card, now)


def touched(card: dict[str, Any], now: float | None) -> dict[str, Any]:
    """The V3 card, dated `now`."""
    card["data"]["modification_date"] = int(time.time() if now is None else now)
    return card


def _taken_back(fields: dict[str, Any]) -> Any:
    """Move what `to_v2` put into an extension back to empty fields. Returns the specification's version from there."""
    extensions = fields.get("extensions")
    kept = extensions.get(KEPT_IN_V2) if isinstance(extensions, dict) else None
    if not isinstance(kept, dict):
        return None
    for key in kept.keys() & set(_ONLY_V3):
        if key == "nickname" and not isinstance(kept[key], str):  # what no program of ours wrote
            continue
        value = kept.pop(key)
        if fields.get(key) in (None, "", []):
            fields[key] = value
    version = kept.pop("spec_version", None)
    if not kept:
        del fields["extensions"][KEPT_IN_V2]
    return version


def _drop_empty(fields: dict[str, Any]) -> None:
    """Leave out empty optional fields: an empty nickname would make {{char}} empty in programs that only look if it is there."""
    for one in FIELDS:
        if one.optional and not "".join(fields.get(one.key, "")).strip():
            fields.pop(one.key, None)


def text_of(value: Any) -> str:
    """A text field from any JSON value: a list of texts is joined, what is empty becomes ""."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return "" if value is None or value is False or value == {} else json.dumps(value, ensure_ascii=False)


def texts_of(key: str, value: Any) -> list[str]:
    """A list field from any JSON value: a text is a list of one (tags are split at commas), null is none."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")] if key == "tags" else [value]
        return [part for part in parts if part.strip()]
    values = value if isinstance(value, list) else [value]
    return [text_of(entry) for entry in values if entry is not None]


def _whole_characters(text: str) -> str:
    """The text with halves of characters (lone surrogates, which no file can hold) replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

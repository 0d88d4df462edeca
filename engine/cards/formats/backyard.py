"""Backyard AI (once Faraday): its archives (.byaf), and the JSON that its older pictures hold.

After the specification of BYAF 1.0 (manifest.json names one character.json and the scenarios) and the types of the older
exports (versions 1 to 4). Its texts say {character} and {user}, its dialogues mark speakers with "#".
"""

import posixpath
import re
from collections.abc import Callable, Iterable
from typing import Any

from engine.cards.book import key_list
from engine.cards.formats.kinds import Format, Read, dict_of, left_out, new_card, objects, text, without
from engine.cards.reading import CardFault, short

MANIFEST = "manifest.json"
_NAMES = re.compile(r"#?\$?(?<!\{)\{(character|user)\}(?!\})", re.IGNORECASE)
_SPEAKER = re.compile(r"\s*\{\{(?:char|user)\}\}\s*:", re.IGNORECASE)
_PICTURES = ("png", "jpg", "jpeg", "webp", "gif")

Files = Callable[[str], Any]  # the JSON of a file in the archive by its path


def read_archive(paths: Iterable[str], json_of: Files) -> Read:
    """The card of an archive; its pictures are named by their paths in the archive. Raises CardFault."""
    there = set(paths)
    manifest = _object(json_of(MANIFEST), MANIFEST)
    named = [path for path in manifest.get("characters") or [] if isinstance(path, str)]
    if not named or not there.issuperset(named):
        raise CardFault("is an archive of Backyard AI without its character")
    character = _object(json_of(named[0]), named[0])
    scenarios = [_object(json_of(path), path) for path in manifest.get("scenarios") or [] if path in there]
    raw = _card(character, scenarios, manifest.get("author"))
    raw["data"]["assets"] = _assets(posixpath.dirname(named[0]), character, there)
    chats = [one for one in scenarios if one.get("messages")]
    notes = left_out({"chat": chats, "further character": named[1:]})
    more = len(scenarios) - 1
    if more > 0:
        notes += (f"It has {more + 1} scenarios: the first one was taken, with the greetings of all; the others are kept in "
                  "its extensions.",)
    return Read(raw, notes)


def _card(character: dict[str, Any], scenarios: list[dict[str, Any]], author: Any) -> dict[str, Any]:
    first = scenarios[0] if scenarios else {}
    greetings = [said for one in scenarios for message in objects(one.get("firstMessages"))
                 if (said := _macros(message.get("text"))).strip()]
    own, examples = character.get("id"), []
    for message in objects(first.get("exampleMessages")):
        said = _macros(message.get("text"))
        speaker = "{{char}}: " if message.get("characterID", own) == own else "{{user}}: "
        examples.append(said if _SPEAKER.match(said) else speaker + said)
    fields = _fields(character, "displayName", "name", character.get("persona"), first.get("narrative"),
                     first.get("formattingInstructions"), greetings, "\n".join(examples))
    fields["creator"] = author.get("name") if isinstance(author, dict) else None
    rest: dict[str, Any] = {name: character[name] for name in ("id", "isNSFW", "createdAt", "updatedAt") if name in character}
    rest["scenarios"] = [without(one, "messages") for one in scenarios]
    return new_card("backyard", fields, rest)


def _older(raw: Any) -> Read:
    inner = raw["character"]
    greeting = _macros(inner.get("firstMessage"))
    fields = _fields(inner, "aiDisplayName", "aiName", inner.get("aiPersona"), inner.get("scenario"), inner.get("basePrompt"),
                     [greeting] if greeting else [], _macros(inner.get("customDialogue")))
    rest = without(inner, "aiDisplayName", "aiName", "aiPersona", "scenario", "basePrompt", "firstMessage", "customDialogue",
                   "loreItems", "Chat")
    chats = [one for one in objects(inner.get("Chat")) if one.get("ChatItems")]
    return Read(new_card("backyard", fields, rest), left_out({"chat": chats}))


def _fields(character: dict[str, Any], full: str, short_name: str, persona: Any, scenario: Any, instructions: Any,
            greetings: list[str], examples: str) -> dict[str, Any]:
    name, nickname = (text(character.get(key)).strip() for key in (full, short_name))
    entries = [{"keys": key_list(text(one.get("key"))), "content": _macros(one.get("value")), "enabled": True, "extensions": {},
                "insertion_order": 100} for one in objects(character.get("loreItems"))]
    return {"name": name or nickname, "nickname": nickname if nickname != name else None, "description": _macros(persona),
            "scenario": _macros(scenario), "system_prompt": _macros(instructions), "first_mes": greetings[0] if greetings else "",
            "alternate_greetings": greetings[1:], "mes_example": examples,
            "character_book": {"extensions": {}, "entries": entries} if entries else None}


def _macros(value: Any) -> str:
    return _NAMES.sub(lambda name: "{{char}}" if name[1].lower() == "character" else "{{user}}", text(value))


def _assets(folder: str, character: dict[str, Any], there: set[str]) -> list[dict[str, Any]]:
    """The pictures that the character lists and the archive has; the first one is the icon."""
    found: list[dict[str, Any]] = []
    for image in objects(character.get("images")):
        path = posixpath.join(folder, text(image.get("path")))
        ending = path.rpartition(".")[2].lower()
        if path in there and ending in _PICTURES:
            label = text(image.get("label")) or posixpath.basename(path)
            found.append({"type": "icon", "uri": f"embeded://{path}", "name": label if found else "main", "ext": ending})
    return found


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CardFault(f"is a damaged archive of Backyard AI (its file {short(path)} holds no object)")
    return value


FORMATS = (Format("character", "a character of Backyard AI", lambda raw: "aiPersona" in dict_of(raw.get("character")), _older),)

"""What other programs make of a card: what they drop, and what they keep without using it.

A pure look at the card; nothing is asked of any program. The facts, read in November 2026:

- SillyTavern: its sources. src/endpoints/characters.js (charaFormatData begins with the card as it came, so fields that it
  does not know stay; it saves as V2), src/charx.js (of an archive's files it takes pictures, by their endings),
  public/scripts/world-info.js (convertCharacterBook takes over keys, secondary keys, text, constant, selective, order and
  position of an entry, and nothing of the book itself; keys are regular expressions only between slashes;
  KNOWN_DECORATORS are @@activate and @@dont_activate).
- text-generation-webui: its source modules/chat.py. check_tavern_character reads the PNG's text "chara" and nothing else;
  upload_tavern_character takes name, description, first_mes, mes_example and scenario of it.
- Chub: is not public. After a third party's comparison of May 2026 (tavernai.cards, "V3 fields lost on Chub" and "compat"),
  it keeps cards as V2: V3's own fields, decorators and use_regex go, foreign extensions stay unused. Least certain of all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from engine.cards.fields import as_v3
from engine.cards.files import path_of

Fate = Literal["lost", "unused"]
HOSTS = ("SillyTavern", "Chub", "text-generation-webui")
_OWN = "persona_studio/"
_ST_DECORATORS = ("@@activate", "@@dont_activate", "@@@activate", "@@@dont_activate")
_ST_PICTURES = {"png", "jpg", "jpeg", "webp", "gif", "apng", "avif", "bmp", "jfif"}
_ONLY_V3 = {"nickname": "The nickname", "group_only_greetings": "Greetings in groups", "source": "Where the card comes from",
            "creator_notes_multilingual": "Notes in other languages"}


@dataclass(frozen=True)
class Finding:
    """One thing that a host drops ("lost") or keeps in the file without using it ("unused"), as a sentence."""

    host: str
    fate: Fate
    sentence: str


def findings(raw: dict[str, Any], files: int = 0) -> list[Finding]:
    """What each of HOSTS would not use of a card that brings this many files; in the order of HOSTS, losses first.

    Only what the card has is told of.
    """
    fields = as_v3(raw)["data"]
    rules: dict[str, Callable[[dict[str, Any], int], Iterator[tuple[Fate, str]]]] = {
        "SillyTavern": _sillytavern, "Chub": _chub, "text-generation-webui": _textgen}
    return [Finding(host, fate, sentence) for host in HOSTS
            for fate, sentence in sorted(rules[host](fields, files), key=lambda told: told[0])]


def _sillytavern(fields: dict[str, Any], files: int) -> Iterator[tuple[Fate, str]]:
    if fields.get("nickname"):
        yield "unused", "The nickname: {{char}} becomes the full name."
    for key in ("creator_notes_multilingual", "source"):
        if fields.get(key):
            yield "unused", f"{_ONLY_V3[key]}."
    book, entries = _book(fields)
    if any(not line.startswith(_ST_DECORATORS) for line in _decorators(entries)):
        yield "unused", "Decorators of the lorebook, but for @@activate and @@dont_activate."
    if any(entry.get("use_regex") is True and not all(_in_slashes(key) for key in _keys(entry)) for entry in entries):
        yield "unused", ("Regular expressions among the lorebook's keys that do not stand between slashes: they are read as "
                         "plain words.")
    if any(entry.get("priority") is not None for entry in entries):
        yield "unused", "Priorities in the lorebook: its order alone counts."
    if any(book.get(key) is not None for key in ("scan_depth", "token_budget", "recursive_scanning")):
        yield "unused", "The lorebook's own depth, budget and recursion: those of the user's settings count."
    yield from _own_extensions(fields)
    if files:
        yield "lost", "The card's files, in every form but the archive."
        if any(_ending(entry) not in _ST_PICTURES for entry in _embedded(fields)):
            yield "lost", "Files that are no pictures, such as sounds, also from the archive."


def _chub(fields: dict[str, Any], files: int) -> Iterator[tuple[Fate, str]]:
    for key, words in _ONLY_V3.items():
        if fields.get(key):
            yield "lost", f"{words}{': {{char}} becomes the full name' if key == 'nickname' else ''}."
    if files or _embedded(fields):
        yield "lost", "All files but the portrait."
    _, entries = _book(fields)
    if any(True for _ in _decorators(entries)):
        yield "unused", "Decorators of the lorebook: the model may see them as text."
    if any(entry.get("use_regex") is True for entry in entries):
        yield "unused", "Regular expressions among the lorebook's keys: they are read as plain words."
    yield from _own_extensions(fields)


def _textgen(fields: dict[str, Any], files: int) -> Iterator[tuple[Fate, str]]:
    yield "lost", "Everything, unless it gets the picture (PNG): it reads cards from nothing else."
    names = {"personality": "The personality", "system_prompt": "The instructions",
             "post_history_instructions": "The closing instructions", "alternate_greetings": "Other greetings",
             **_ONLY_V3, "creator_notes": "Notes for readers", "creator": "The author", "tags": "Tags"}
    for key, words in names.items():
        if fields.get(key):
            yield "lost", f"{words}."
    if _book(fields)[1]:
        yield "lost", "The lorebook."
    if fields.get("extensions"):
        yield "lost", "Extensions, among them those of this studio." if _own(fields) else "Extensions."
    if files or _embedded(fields):
        yield "lost", "All files but the portrait."


def _own_extensions(fields: dict[str, Any]) -> Iterator[tuple[Fate, str]]:
    if _own(fields):
        yield "unused", "This studio's own fields (goals, secrets and the like): the model is not told of them."


def _own(fields: dict[str, Any]) -> bool:
    extensions = fields.get("extensions")
    return isinstance(extensions, dict) and any(key.startswith(_OWN) for key in extensions)


def _book(fields: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    book = fields.get("character_book")
    book = book if isinstance(book, dict) else {}
    entries = book.get("entries")
    return book, [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _decorators(entries: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of decorators with which the entries' texts begin."""
    for entry in entries:
        content = entry.get("content")
        for line in content.splitlines() if isinstance(content, str) else []:
            if not line.startswith("@@"):
                break
            yield line


def _keys(entry: dict[str, Any]) -> list[str]:
    lists = (keys for name in ("keys", "secondary_keys") if isinstance(keys := entry.get(name), list))
    return [key for keys in lists for key in keys if isinstance(key, str)]


def _in_slashes(key: str) -> bool:
    return len(key) > 2 and key.startswith("/") and "/" in key[2:]


def _embedded(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries for files in the archive."""
    assets = fields.get("assets")
    return [entry for entry in assets if isinstance(entry, dict) and path_of(entry.get("uri"))] if isinstance(assets, list) else []


def _ending(entry: dict[str, Any]) -> str:
    ending = entry.get("ext")
    path = path_of(entry.get("uri")) or ""
    return (ending if isinstance(ending, str) and ending else path.rpartition(".")[2]).lower().lstrip(".")

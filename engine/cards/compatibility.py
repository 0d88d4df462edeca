"""What other programs drop of a card, and what they keep without using it. The facts, read in November 2026:

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

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from engine.cards.book import parse_book, raw_entries
from engine.cards.fields import LABELS, as_v3
from engine.cards.files import assets_of, path_of
from engine.cards.keys import is_pattern

Fate = Literal["lost", "unused"]
Report = Iterator[tuple[Fate, str]]
_OWN = "persona_studio/"
_ST_DECORATORS = ("@@activate", "@@dont_activate", "@@@activate", "@@@dont_activate")
_ST_PICTURES = {"png", "jpg", "jpeg", "webp", "gif", "apng", "avif", "bmp", "jfif"}
_SOURCES = {"source": "Where the card comes from", "creator_notes_multilingual": "Notes in other languages"}
_ONLY_V3 = {"nickname": "Nickname: {{char}} becomes the full name", "group_only_greetings": LABELS["group_only_greetings"],
            **_SOURCES}
_NOT_IN_TEXTGEN = (*(key for key in LABELS if key not in ("name", "description", "first_mes", "mes_example", "scenario",
                                                          "character_version")), *_SOURCES)


@dataclass(frozen=True)
class Finding:
    """One thing that a program drops ("lost") or keeps in the file without using it ("unused"), as a sentence."""

    program: str
    fate: Fate
    sentence: str


def findings(raw: dict[str, Any], files: int = 0) -> list[Finding]:
    """What each of PROGRAMS would not use of a card with this many files; in the order of PROGRAMS, losses first."""
    fields = as_v3(raw)["data"]
    return [Finding(program, fate, sentence) for program, rule in _RULES.items()
            for fate, sentence in sorted(rule(fields, files), key=lambda found: found[0])]


def _sillytavern(fields: dict[str, Any], files: int) -> Report:
    if fields.get("nickname"):
        yield "unused", f"{_ONLY_V3['nickname']}."
    for key, words in _SOURCES.items():
        if fields.get(key):
            yield "unused", f"{words}."
    book, entries = fields.get("character_book"), _entries(fields)
    if any(not line.startswith(_ST_DECORATORS) for line in _decorators(entries)):
        yield "unused", "Decorators of the lorebook, but for @@activate and @@dont_activate."
    if any(one.use_regex and not all(map(is_pattern, (*one.keys, *one.secondary))) for one in parse_book(book).entries):
        yield "unused", ("Regular expressions among the lorebook's keys that are not written between slashes: they are read "
                         "as plain words.")
    if any(entry.get("priority") is not None for entry in entries):
        yield "unused", "Priorities in the lorebook: its order alone counts."
    if isinstance(book, dict) and any(book.get(key) is not None for key in ("scan_depth", "token_budget", "recursive_scanning")):
        yield "unused", "The lorebook's own depth, budget and recursion: those of the user's settings count."
    yield from _own_extensions(fields)
    if files:
        yield "lost", "The card's files, in every form but the archive."
        endings = [str(entry.get("ext") or (path_of(entry) or "").rpartition(".")[2]) for entry in _embedded(fields)]
        if any(ending.lower().lstrip(".") not in _ST_PICTURES for ending in endings):
            yield "lost", "Files that are no pictures, such as sounds, also from the archive."


def _chub(fields: dict[str, Any], files: int) -> Report:
    for key, words in _ONLY_V3.items():
        if fields.get(key):
            yield "lost", f"{words}."
    if files or _embedded(fields):
        yield "lost", "All files but the portrait."
    entries = _entries(fields)
    if any(True for _ in _decorators(entries)):
        yield "unused", "Decorators of the lorebook: the model may see them as text."
    if any(entry.get("use_regex") is True for entry in entries):
        yield "unused", "Regular expressions among the lorebook's keys: they are read as plain words."
    yield from _own_extensions(fields)


def _textgen(fields: dict[str, Any], files: int) -> Report:
    yield "lost", "Everything, unless it gets the picture (PNG): it reads cards from nothing else."
    for key in _NOT_IN_TEXTGEN:
        if fields.get(key):
            yield "lost", f"{LABELS.get(key) or _SOURCES[key]}."
    if _entries(fields):
        yield "lost", "The lorebook."
    if fields.get("extensions"):
        yield "lost", "Extensions, among them those of this studio." if any(_own_extensions(fields)) else "Extensions."
    if files or _embedded(fields):
        yield "lost", "All files but the portrait."


_RULES: dict[str, Callable[[dict[str, Any], int], Report]] = {
    "SillyTavern": _sillytavern, "Chub": _chub, "text-generation-webui": _textgen}
PROGRAMS = tuple(_RULES)


def _own_extensions(fields: dict[str, Any]) -> Report:
    if isinstance(fields["extensions"], dict) and any(key.startswith(_OWN) for key in fields["extensions"]):
        yield "unused", "This studio's own fields (goals, secrets and the like): they never reach the model."


def _entries(fields: dict[str, Any]) -> list[dict[str, Any]]:
    book = fields.get("character_book")
    return [entry for entry in raw_entries(book) if isinstance(entry, dict)] if isinstance(book, dict) else []


def _decorators(entries: list[dict[str, Any]]) -> Iterator[str]:
    for entry in entries:
        content = entry.get("content")
        yield from itertools.takewhile(lambda line: line.startswith("@@"), content.splitlines() if isinstance(content, str) else [])


def _embedded(fields: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in assets_of(fields) if path_of(entry)]

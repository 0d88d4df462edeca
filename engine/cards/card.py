"""Character cards: untrusted bytes in, a `Card` out.

Reads the JSON of V1 (flat), V2 and V3 cards; `Card.raw` keeps the whole, so that
unknown fields survive a round trip. What json.loads lets pass or dies of is refused:
duplicate keys, NaN, 1e999, lone surrogates, deep nesting. Does not know PNG and
CHARX files, books, or any macro beyond the two names.
"""

import json
import math
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.base.errors import UserError

CHARACTERS = Path(__file__).resolve().parents[2] / "characters"
MAX_BYTES = 1_000_000  # of a card's JSON
MAX_DEPTH = 32  # objects and lists inside each other
MAX_DIGITS = 300  # of one whole number
MAX_NAME = 200  # characters: a long name times many macros would fill the memory

_NEEDS = "a card needs a name and a description, personality, scenario or example dialogue"
_TITLES = {"the", "a", "an", "mr", "mrs", "ms", "miss", "dr", "sir", "lady", "lord", "captain"}
# A whole string (escapes included, possessive: linear time) or one bracket.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_NAME_MACRO = re.compile(r"\{\{(?:char|user)\}\}|<(?:bot|user)>", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Card:
    """The fields of a card that the engine uses, macros still in them; `raw` is the whole card as it came."""

    name: str
    nickname: str
    description: str
    personality: str
    scenario: str
    greeting: str  # first_mes
    example_dialogue: str  # mes_example, dialogues behind <START>
    system_prompt: str
    post_history_instructions: str
    alternate_greetings: tuple[str, ...]
    tags: tuple[str, ...]
    raw: dict[str, Any] = field(repr=False, hash=False)

    @property
    def char(self) -> str:
        """What {{char}} stands for: the nickname, else the name (V3 specification)."""
        return self.nickname or self.name

    @property
    def names(self) -> tuple[str, ...]:
        """Name, nickname and first name (titles, articles and initials passed over), without duplicates."""
        words = (word.strip(".,") for word in self.name.split())
        first = next((word for word in words if len(word) > 1 and word.casefold() not in _TITLES), "")
        return tuple(dict.fromkeys(name for name in (self.name, self.nickname, first) if name))


class _Fault(Exception):
    """What is wrong with a card, as the end of a sentence that begins with the file's name."""


def parse_card(data: bytes, origin: str) -> Card:
    """The card in `data`, UTF-8 JSON of at most MAX_BYTES. `origin` names the source in errors.

    Raises UserError, one sentence, for everything that is not a usable V1, V2 or V3 card.
    """
    try:
        return _card(_strict_json(data))
    except _Fault as fault:
        raise UserError(f"{printable(origin)} {fault}.") from fault


def read_card(path: Path | str) -> Card:
    """The card in a JSON file, or a bundled card by its bare slug ("pim-tuckett") where no such file exists.

    The size is checked before anything is read. Raises UserError for what cannot be read or is no card.
    """
    file = Path(path)
    if str(path) in _bundled_files() and not file.is_file():
        return find_bundled(str(path))
    try:
        return parse_card(_read_bytes(file), str(file))
    except _Fault as fault:
        raise UserError(f"{printable(str(file))} {fault}.") from fault


def bundled_cards() -> list[Card]:
    """The cards that come with the studio (characters/*.json), sorted by file name."""
    return [read_card(file) for file in _bundled_files().values()]


def find_bundled(slug: str) -> Card:
    """The bundled card of characters/<slug>.json. Raises UserError, which lists the slugs, when there is none."""
    files = _bundled_files()
    if slug not in files:
        raise UserError(f"There is no bundled character {_short(slug)}; there are {', '.join(files)}.")
    return read_card(files[slug])


def with_name_macros(text: str, card: Card, user: str) -> str:
    """Replace {{char}} and <BOT>, {{user}} and <USER>, in any case; a name put in is not expanded again."""
    return _NAME_MACRO.sub(lambda macro: user if "user" in macro[0].lower() else card.char, text)


def _bundled_files() -> dict[str, Path]:
    return {file.stem: file for file in sorted(CHARACTERS.glob("*.json"))}


def _read_bytes(file: Path) -> bytes:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device would never end
            raise _Fault("is a folder" if stat.S_ISDIR(status.st_mode) else "is not an ordinary file")
        _check_size(status.st_size)
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)  # the file may have grown since; parse_card checks again
    except FileNotFoundError:
        raise _Fault("is neither a file nor the name of a bundled character") from None
    except OSError as error:
        raise _Fault(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # a zero byte or a lone surrogate in the path
        raise _Fault("cannot be the name of a file") from error


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise _Fault(f"is too large for a character card ({size:,} bytes of JSON; at most {MAX_BYTES:,})")


def _strict_json(data: bytes) -> Any:
    """The JSON value of `data`. Raises _Fault for all that json.loads lets pass or dies of."""
    _check_size(len(data))
    if not data.strip():
        raise _Fault("is empty")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        what = "a PNG picture" if data.startswith(b"\x89PNG") else "not UTF-8 text"
        raise _Fault(f"is not a character card in JSON (it is {what})") from None
    _check_depth(text)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_whole, parse_float=_finite,
                           parse_constant=_finite)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise _Fault(f"is not a character card in JSON ({place})") from None
    except UnicodeEncodeError:
        raise _Fault(r"contains half of a character (a lone surrogate such as \ud800)") from None
    return value


def _check_depth(text: str) -> None:
    """Refuse nesting beyond MAX_DEPTH by one linear scan, before a recursive parser sees the text."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth > MAX_DEPTH:
            raise _Fault(f"is nested too deeply (more than {MAX_DEPTH} levels)")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Fault(f"has the key {_short(key)} twice in one object")
        found[key] = value
    return found


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) <= MAX_DIGITS:
        return int(digits)
    raise _Fault(f"contains a whole number of more than {MAX_DIGITS} digits")


def _finite(digits: str) -> float:
    if math.isfinite(number := float(digits)):
        return number
    raise _Fault(f"contains {digits[:40]}, which is not a finite number")


def _card(raw: Any) -> Card:
    fields = _fields(raw)
    name, nickname = (" ".join(_text(fields, key).split()) for key in ("name", "nickname"))
    if max(len(name), len(nickname)) > MAX_NAME:
        raise _Fault(f"has a name of more than {MAX_NAME} characters")
    card = Card(name, nickname, _text(fields, "description"), _text(fields, "personality"), _text(fields, "scenario"),
                greeting=_text(fields, "first_mes"), example_dialogue=_text(fields, "mes_example"),
                system_prompt=_text(fields, "system_prompt"),
                post_history_instructions=_text(fields, "post_history_instructions"),
                alternate_greetings=_texts(fields, "alternate_greetings"), tags=_texts(fields, "tags"), raw=raw)
    if not name:
        raise _Fault(f"has no name: {_NEEDS}")
    if not any(map(str.strip, (card.description, card.personality, card.scenario, card.example_dialogue))):
        raise _Fault(f"says nothing about its character: {_NEEDS}")
    return card


def _fields(raw: Any) -> dict[str, Any]:
    """The object that holds the card's fields: `data` of V2 and V3, the whole of V1."""
    if not isinstance(raw, dict):
        raise _Fault(f"is not a character card (its JSON is {_kind(raw)} instead of an object)")
    specification = raw.get("spec")
    if specification is None:
        if "name" in raw:
            return raw
        raise _Fault('is JSON, but not a character card (it has neither "spec" nor "name")')
    if specification not in ("chara_card_v2", "chara_card_v3"):
        what = _short(specification) if isinstance(specification, str) else _kind(specification)
        raise _Fault(f"follows an unknown specification ({what}; known are V1, chara_card_v2 and chara_card_v3)")
    if not isinstance(raw.get("data"), dict):
        raise _Fault(f'has {_kind(raw.get("data"))} as "data", where the card\'s fields should be')
    return raw["data"]


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise _Fault(f'has {_kind(value)} as "{key}", where a text should be')
    return value or ""


def _texts(fields: dict[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts; blank and null entries are left out."""
    values = fields.get(key)
    if values is not None and not isinstance(values, list):
        raise _Fault(f'has {_kind(values)} as "{key}", where a list of texts should be')
    return tuple(text for value in values or [] if (text := _text({key: value}, key)).strip())


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")


def _short(text: str) -> str:
    """Untrusted text for an error: quoted, escaped, at most 40 characters of it."""
    return ascii(text[:40] + ("..." if len(text) > 40 else ""))


def printable(origin: str) -> str:
    """The name of a source for an error: what cannot be printed becomes a question mark."""
    return "".join(sign if sign.isprintable() else "?" for sign in origin)

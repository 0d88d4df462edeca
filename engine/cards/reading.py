"""Untrusted bytes as a JSON value: strict JSON, or the YAML in which some programs keep characters.

Refused are duplicate keys, NaN, 1e999, lone surrogates, deep nesting, endless numbers and more than MAX_BYTES.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from engine.base.errors import UserError

MAX_BYTES = 1_000_000  # of a card's JSON
MAX_DEPTH = 32  # objects and lists inside each other
MAX_DIGITS = 300  # of one whole number
# A whole string (escapes included, possessive: linear time) or one bracket.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
MAX_YAML = 100_000  # bytes: a pure Python parser reads about 30 kB a second
_KEY_LINE = re.compile(r"""(?:\s*(?:\#[^\n]*)?\n|---[^\n]*\n)*["']?[A-Za-z_][\w -]{0,40}["']?[ ]*:(?:[ ]|\r?\n|$)""")
_RISU_MODULE = b"o\0"  # magic number and version of a packed module


class CardFault(Exception):
    """What is wrong with a file, as the end of a sentence that begins with the file's name."""


@contextmanager
def named(origin: str, hint: str = "") -> Iterator[None]:
    """Turn a CardFault into a UserError that begins with `origin`, the name of the source."""
    try:
        yield
    except CardFault as fault:
        raise UserError(f"{printable(origin)} {fault}.", hint) from fault


def printable(origin: str) -> str:
    """The name of a source for an error: what cannot be printed becomes a question mark."""
    return "".join(sign if sign.isprintable() else "?" for sign in origin)


def short(text: str) -> str:
    """Untrusted text for an error: quoted, escaped, at most 40 characters of it."""
    return ascii(text[:40] + ("..." if len(text) > 40 else ""))


def kind_of(value: Any) -> str:
    """What JSON calls a value, with its article."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")


def load_json(data: bytes) -> Any:
    """The JSON value of `data`, UTF-8 with or without a byte order mark. Raises CardFault."""
    check_size(len(data))
    if not data.strip():
        raise CardFault("is empty")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        what = "a PNG picture" if data.startswith(b"\x89PNG") else "not UTF-8 text"
        raise CardFault(f"is not a character card in JSON (it is {what})") from None
    check_depth(text)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise CardFault(f"is not a character card in JSON ({place})") from None
    except UnicodeEncodeError:
        raise CardFault(r"contains half of a character (a lone surrogate such as \ud800)") from None
    return value


def check_size(size: int) -> None:
    """Raise CardFault for more than MAX_BYTES."""
    if size > MAX_BYTES:
        raise CardFault(f"is too large for a character card ({size:,} bytes of JSON; at most {MAX_BYTES:,})")


def check_depth(text: str) -> None:
    """Refuse nesting beyond MAX_DEPTH by one linear scan, before a recursive parser sees the text. Raises CardFault."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth > MAX_DEPTH:
            raise CardFault(f"is nested too deeply (more than {MAX_DEPTH} levels)")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise CardFault(f"has the key {short(key)} twice in one object")
        found[key] = value
    return found


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) <= MAX_DIGITS:
        return int(digits)
    raise CardFault(f"contains a whole number of more than {MAX_DIGITS} digits")


def _finite(digits: str) -> float:
    if math.isfinite(number := float(digits)):
        return number
    raise CardFault(f"contains {digits[:40]}, which is not a finite number")


def load(data: bytes) -> tuple[Any, tuple[str, ...]]:
    """The value of a file, and what was repaired in it. Raises CardFault."""
    if data.startswith(_RISU_MODULE):
        raise CardFault("is a packed module of RisuAI, which cannot be read (export its lorebook as JSON there instead)")
    check_size(len(data))
    whole = data.rstrip(b"\0")
    notes = ("A zero byte at its end was ignored.",) if whole != data and whole else ()
    text = whole.decode("utf-8-sig", "replace")
    if _KEY_LINE.match(text) and not text.lstrip().startswith(("{", "[")):
        return _yaml(whole), notes
    first, _, more = text.partition("\n")
    if '"user_name"' in first[:2000] and more.lstrip().startswith("{"):  # lines of JSON
        raise CardFault("is a chat of SillyTavern, not a character (export the character there instead)")
    return load_json(whole), notes


def _yaml(data: bytes) -> Any:
    """YAML of texts, lists and objects alone; aliases are refused. Raises CardFault."""
    if len(data) > MAX_YAML:
        raise CardFault(f"is too large for a character in YAML ({len(data):,} bytes; at most {MAX_YAML:,})")
    try:
        text = data.decode("utf-8-sig")
        _check_events(text)
        value = yaml.load(text, Loader=_Texts)
    except UnicodeDecodeError:
        raise CardFault("is not a character card (it is not UTF-8 text)") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise CardFault(f"is not a character card in YAML ({place}{_plain(error.problem)})") from None
    except (yaml.YAMLError, ValueError) as error:
        raise CardFault(f"is not a character card in YAML ({_plain(str(error))})") from None
    return load_json(json.dumps(value).encode())  # the same rules as for JSON: lone surrogates


def _check_events(text: str) -> None:
    """Refuse aliases (a few lines of them can become gigabytes), deep nesting and several documents before all is built."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent):
            raise CardFault("uses aliases of YAML, which a character does not need")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if depth > MAX_DEPTH:
            raise CardFault(f"is nested too deeply (more than {MAX_DEPTH} levels)")
        if documents > 1:
            raise CardFault("holds several documents of YAML, and a character is one")


class _Texts(yaml.BaseLoader):
    """Every value as a text ("No" and 2.10 stay as written), "null" and "~" as none."""


def _object(loader: _Texts, node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise CardFault("is not a character card in YAML (a name in it is not text)")
        if name.value in found:
            raise CardFault(f"has the key {short(name.value)} twice in one object")
        found[name.value] = loader.construct_object(value, deep=True)
    return found


_Texts.add_constructor("tag:yaml.org,2002:map", _object)
_Texts.add_constructor("tag:yaml.org,2002:str", lambda _loader, node: (
    None if node.style is None and node.value in ("null", "Null", "NULL", "~", "") else str(node.value)))


def _plain(problem: str | None) -> str:
    return " ".join((problem or "it cannot be read").split()).replace(". ", ", ").rstrip(".")[:100]

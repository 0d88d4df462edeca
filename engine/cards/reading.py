"""The text of a card or lorebook file as a JSON value: strict JSON, or the YAML in which some programs keep characters.

What is mended on the way is said in sentences. Knows no card.
"""

import json
import re
from typing import Any

import yaml

from engine.cards import strict_json
from engine.cards.faults import CardFault, short

MAX_YAML = 100_000  # bytes: a pure Python parser reads about 30 kB a second
_KEY_LINE = re.compile(r"""(?:\s*(?:\#[^\n]*)?\n|---[^\n]*\n)*["']?[A-Za-z_][\w -]{0,40}["']?[ ]*:(?:[ ]|\r?\n|$)""")
_RISU_MODULE = b"o\0"  # magic number and version of a packed module


def load(data: bytes) -> tuple[Any, tuple[str, ...]]:
    """The value of a file, and what was mended in it. Raises CardFault."""
    if data.startswith(_RISU_MODULE):
        raise CardFault("is a packed module of RisuAI, which cannot be read (export its lorebook as JSON there instead)")
    strict_json.check_size(len(data))
    whole = data.rstrip(b"\0")
    notes = ("A zero byte at its end was passed over.",) if whole != data and whole else ()
    text = whole.decode("utf-8-sig", "replace")
    if _KEY_LINE.match(text) and not text.lstrip().startswith(("{", "[")):
        return _yaml(whole), notes
    _check_lines(text)
    return strict_json.load(whole), notes


def _check_lines(text: str) -> None:
    """Refuse a file of JSON lines by name: SillyTavern keeps its chats so."""
    first, _, more = text.partition("\n")
    if '"user_name"' in first[:2000] and more.lstrip().startswith("{"):
        raise CardFault("is a chat of SillyTavern, not a character (export the character there instead)")


def _yaml(data: bytes) -> Any:
    """YAML of texts, lists and objects alone: every value stays the text that it is, aliases are refused. Raises CardFault."""
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
    return strict_json.load(json.dumps(value).encode())  # the same rules as for JSON: lone surrogates


def _check_events(text: str) -> None:
    """Refuse aliases (a few lines of them can stand for gigabytes), deep nesting and several documents before all is built."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent):
            raise CardFault("uses aliases of YAML, which a character does not need")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if depth > strict_json.MAX_DEPTH:
            raise CardFault(f"is nested too deeply (more than {strict_json.MAX_DEPTH} levels)")
        if documents > 1:
            raise CardFault("holds several documents of YAML, and a character is one")


class _Texts(yaml.BaseLoader):
    """Every value as a text ("No" and 2.10 stay as written), "null" and "~" as none; a key that is there twice is refused."""


def _object(loader: _Texts, node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise CardFault("is not a character card in YAML (a name in it is no text)")
        if name.value in found:
            raise CardFault(f"has the key {short(name.value)} twice in one object")
        found[name.value] = loader.construct_object(value, deep=True)
    return found


def _text(_loader: _Texts, node: yaml.ScalarNode) -> str | None:
    return None if node.style is None and node.value in ("null", "Null", "NULL", "~", "") else str(node.value)


_Texts.add_constructor("tag:yaml.org,2002:map", _object)
_Texts.add_constructor("tag:yaml.org,2002:str", _text)


def _plain(problem: str | None) -> str:
    """What the parser says on one line, without a full stop in it."""
    return " ".join((problem or "it cannot be read").split()).replace(". ", ", ").rstrip(".")[:100]

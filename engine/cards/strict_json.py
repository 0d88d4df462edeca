"""JSON from strangers: what json.loads lets pass or dies of is refused.

That is duplicate keys, NaN, 1e999, lone surrogates, deep nesting, endless
numbers, and more than MAX_BYTES. Knows no cards.
"""

import json
import math
import re
from typing import Any

from engine.cards.faults import CardFault, short

MAX_BYTES = 1_000_000  # of a card's JSON
MAX_DEPTH = 32  # objects and lists inside each other
MAX_DIGITS = 300  # of one whole number

# A whole string (escapes included, possessive: linear time) or one bracket.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


def load(data: bytes) -> Any:
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
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_whole, parse_float=_finite,
                           parse_constant=_finite)
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

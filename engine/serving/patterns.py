"""Regular expressions in a schema: those that llama.cpp's llguidance, Python and JSON Schema read in the same way."""

import re
from typing import Any

LONGEST = 200  # characters
MOST_REPEATS = 400  # the counts of a pattern, multiplied: beyond them, llguidance may give up in the middle of a reply

# One piece of a pattern; what counts is also looked at by itself. Python and Rust read these in the same way. Characters that JSON
# escapes can only be excluded: llguidance lets a text end after one of them.
_SIGN = r"\\[!#-/:;=?@\[\]^_`{-~]"
_ESCAPE, _IN_CLASS = rf"{_SIGN}|\\[dwsDWS]", rf"{_SIGN}|\\[dws]"
_INSIDE = r"(?!--|&&|~~)[^\[\]\\\"\x00-\x1f]"
_PIECE = re.compile(
    rf"{_ESCAPE}|\[(?:{_IN_CLASS}|{_INSIDE})+\]|\[\^(?:{_IN_CLASS}|{_INSIDE}|\\[\\\"ntr]|\")+\]|\((?:\?:)?(?!\?)|\)|\||"
    r"(?:[*+?]|\{(\d{1,3})(,?)(\d{0,3})\})\??(?![*+?{])|[^\\()\[\]{}*+?|^$\"\x00-\x1f]")
_CLASS = re.compile(r"\[(?:\\.|[^\]\\])*\]|\\.", re.DOTALL)
_ASCII = {"\\d": "0-9", "\\w": "A-Za-z0-9_", "\\D": "^0-9", "\\W": "^A-Za-z0-9_"}


def pattern_fault(pattern: Any) -> str:
    """What is wrong with a pattern, to follow a comma; "" for nothing."""
    if not isinstance(pattern, str) or len(pattern) > LONGEST:
        return f"it must be a text of at most {LONGEST} characters"
    body = pattern.removeprefix("^")
    anchored = body != pattern
    if body.endswith("$") and not body.endswith("\\$"):
        body, anchored = body[:-1], True
    place, level, repeats = 0, 0, 1
    while place < len(body):
        piece = _PIECE.match(body, place)
        if piece is None:
            return (f"“{body[place:place + 12]}” in the pattern cannot be enforced; what can is texts, classes, groups, "
                    "|, * + ? {m,n}, \\d \\w \\s, ^ at the beginning and $ at the end; quotes, backslashes and line ends "
                    "in [^...] alone")
        level += (piece[0] in ("(", "(?:")) - (piece[0] == ")")
        if piece[0] == "|" and not level and anchored:
            return "beside ^ or $, alternatives must be in a group: ^(a|b)$"
        repeats *= max(1, *(int(count or 0) for count in (piece[1], piece[3])))
        place = piece.end()
    if repeats > MOST_REPEATS:
        return f"its counts multiply to {repeats:,}, and can to {MOST_REPEATS}"
    try:
        re.compile(pattern)
    except re.error as error:
        return f"it is no regular expression ({error})"
    return ""


def plain_pattern(pattern: str) -> str:
    """The pattern with \\d and \\w as the ASCII classes that they are in JSON Schema, whatever an engine makes of them."""
    def plain(found: re.Match[str]) -> str:
        text = found[0]
        if text[0] == "[":
            return _CLASS.sub(lambda one: _ASCII.get(one[0], one[0]), text[1:-1]).join("[]")
        return f"[{_ASCII[text]}]" if text in _ASCII else text

    return _CLASS.sub(plain, pattern)

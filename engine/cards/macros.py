"""Macros in a card's texts: the ones that work, the misspelt ones, the ones that this version does not know.

Looks at text alone and changes nothing. What a name macro stands for is
decided in card.py, {{original}} in prompt.py.
"""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["misspelt", "elsewhere", "unknown"]

_DOUBLE = re.compile(r"\{\{([^{}\n]{0,200})\}\}")
_NAME = r"(?:char|user|bot|character|player)"
# One brace too few on either side: {char}, {{char}, {char}}.
_BRACES = re.compile(rf"(?<!\{{)\{{\s*({_NAME})\s*\}}{{1,2}}(?!\}})|\{{\{{\s*({_NAME})\s*\}}(?!\}})", re.IGNORECASE | re.ASCII)
_TAGS = re.compile(r"<(char|character|usr|player)>", re.IGNORECASE | re.ASCII)
_CHAR = {"char", "chr", "cahr", "chra", "chara", "chars", "char_name", "charname", "character", "charater", "bot"}
_USER = {"user", "usr", "uesr", "suer", "usre", "users", "user_name", "username", "player"}
_V3_ONLY = ("random:", "pick:", "roll:", "//", "hidden_key:", "comment:", "reverse:")  # of the V3 specification


@dataclass(frozen=True)
class Finding:
    """A macro that will not do what its writer expects; `meant` is the right spelling of a misspelt one."""

    text: str
    kind: Kind
    meant: str = ""


def find_macros(text: str, original: bool = False) -> list[Finding]:
    """The macros of a text that do not work, each spelling once, in the order of the text.

    `original`: whether {{original}} works here (in the two fields for instructions). Kinds: "misspelt", "elsewhere"
    (known to other programs or fields, not here), "unknown".
    """
    found: dict[int, Finding] = {}
    for match in _DOUBLE.finditer(text):
        if finding := _double(match[0], match[1], original):
            found[match.start()] = finding
    for match in _BRACES.finditer(text):
        found[match.start()] = Finding(match[0], "misspelt", _name(match[1] or match[2]))
    for match in _TAGS.finditer(text):
        found[match.start()] = Finding(match[0], "misspelt", _name(match[1]))
    return list(dict.fromkeys(found[place] for place in sorted(found)))


def _double(whole: str, inside: str, original: bool) -> Finding | None:
    word = inside.strip().lower()
    if inside.lower() in ("char", "user") or (inside.lower() == "original" and original):
        return None
    if word in _CHAR | _USER:
        return Finding(whole, "misspelt", _name(word))
    if word == "original" and original:
        return Finding(whole, "misspelt", "{{original}}")
    known = word == "original" or word.startswith(_V3_ONLY)
    return Finding(whole, "elsewhere" if known else "unknown")


def _name(word: str) -> str:
    return "{{user}}" if word.strip().lower() in _USER else "{{char}}"

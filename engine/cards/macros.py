"""Macros in a card's texts: carries out those of the V3 specification, finds the misspelt and the unknown ones.

Chance comes from a seed, so the same text, names and seed always give the same
result. {{original}} is decided in prompt.py.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Literal

from engine.cards.card import Card

Kind = Literal["misspelt", "elsewhere", "unknown"]

_DOUBLE = re.compile(r"\{\{([^{}\n]{0,200})\}\}")
_NAME = r"(?:char|user|bot|character|player)"
# One brace too few on either side: {char}, {{char}, {char}}.
_BRACES = re.compile(rf"(?<!\{{)\{{\s*({_NAME})\s*\}}{{1,2}}(?!\}})|\{{\{{\s*({_NAME})\s*\}}(?!\}})", re.IGNORECASE | re.ASCII)
_TAGS = re.compile(r"<(char|character|usr|player)>", re.IGNORECASE | re.ASCII)
_CHAR = {"char", "chr", "cahr", "chra", "chara", "chars", "char_name", "charname", "character", "charater", "bot"}
_USER = {"user", "usr", "uesr", "suer", "usre", "users", "user_name", "username", "player"}
_SILENT = ("//", "comment:", "hidden_key:")  # the model never sees them; keys of a lorebook may stand in the last one
_WORKING = ("random:", "pick:", "reverse:", *_SILENT)
_DICE = re.compile(r"\s*(?:(\d{0,2})d)?(\d{1,6})\s*([+-]\s*\d{1,6})?\s*", re.IGNORECASE | re.ASCII)
# One macro in double braces, in which up to 100 others may stand (without a limit, a hostile text takes quadratic time), or
# a name in angle brackets.
_MACRO = re.compile(r"\{\{((?:[^{}]++|\{\{[^{}]*+\}\}){0,200}+)\}\}|<(bot|user)>", re.IGNORECASE | re.ASCII)
_PIECES = re.compile(r"\\,|\{\{[^{}]*+\}\}|,|[^,\\{]++|.", re.DOTALL)
_HIDDEN = re.compile(r"\{\{hidden_key:([^{}]*)\}\}", re.IGNORECASE)
_SILENT_LINE = re.compile(r"^[ \t]*\{\{(?://|comment:|hidden_key:)[^{}]*\}\}[ \t]*\n", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """A macro that will not do what its writer expects; `meant` is the right spelling of a misspelt one."""

    text: str
    kind: Kind
    meant: str = ""


def expand_macros(text: str, card: Card, user: str, seed: int = 0) -> str:
    """The text with its macros carried out, in any case (V3 specification); unknown ones stay as they are.

    {{char}}, <BOT>, {{user}} and <USER> become names, which are not expanded again. {{random:a,b}} and {{roll:2d6+1}} are
    drawn by `seed`, the text and the place in it; {{pick:a,b}} by `seed` and the options alone, so that it is the same
    throughout a chat. {{// }}, {{comment: }} and {{hidden_key: }} leave nothing, nor a line of their own.
    {{reverse:abc}} is turned round. A comma inside an option is written "\\,".
    """
    whole = _digest(text).hex()

    def expand(part: str, depth: int) -> str:
        def replace(macro: re.Match[str]) -> str:
            if macro[2]:
                return user if macro[2].lower() == "user" else card.char
            return carry_out(macro[1], f"{depth}:{macro.start()}", depth)

        return _MACRO.sub(replace, part)

    def carry_out(inside: str, place: str, depth: int) -> str:
        word, (kind, _, rest) = inside.lower(), inside.partition(":")
        if word in ("char", "user"):
            return user if word == "user" else card.char
        if word.startswith(_SILENT):
            return ""
        match kind.lower():
            case "random":
                return expand(chance(seed, whole, place).choice(_options(rest)), depth + 1)
            case "pick":
                return expand(chance(seed, rest).choice(_options(rest)), depth + 1)
            case "reverse":
                return rest[::-1]
            case "roll" if dice := _DICE.fullmatch(rest):
                return _rolled(dice, chance(seed, whole, place))
        return "{{" + expand(inside, depth + 1) + "}}"

    return expand(_SILENT_LINE.sub("", text), 0)


def _options(listed: str) -> list[str]:
    """The options of {{random:a,b}}, or of {{random::a::b}}, as some hosts write it; a macro inside one is one piece."""
    if listed.startswith(":"):
        return [option.strip() for option in listed[1:].split("::")]
    options = [""]
    for piece in _PIECES.findall(listed):
        if piece == ",":
            options.append("")
        else:
            options[-1] += "," if piece == "\\," else piece
    return [option.strip() for option in options]


def _rolled(dice: re.Match[str], generator: random.Random) -> str:
    count, sides, more = int(dice[1] or 1), int(dice[2]), int((dice[3] or "0").replace(" ", ""))
    return str(sum(generator.randint(1, max(1, sides)) for _ in range(count)) + more)


def hidden_keys(text: str) -> str:
    """The words of all {{hidden_key:...}} of a text, which a lorebook finds and the model never sees."""
    return " ".join(_HIDDEN.findall(text))


def chance(seed: int, *key: str) -> random.Random:
    """A source of chance for one thing: the same in every process and version of Python's hash."""
    return random.Random(int.from_bytes(_digest("\0".join([str(seed), *key])), "big"))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


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
    if inside.lower().startswith(_WORKING) or (word.startswith("roll:") and _DICE.fullmatch(inside.partition(":")[2])):
        return None
    if word in _CHAR | _USER:
        return Finding(whole, "misspelt", _name(word))
    if word == "original" and original:
        return Finding(whole, "misspelt", "{{original}}")
    return Finding(whole, "elsewhere" if word == "original" else "unknown")


def _name(word: str) -> str:
    return "{{user}}" if word.strip().lower() in _USER else "{{char}}"

"""Macros in a card's texts: carries out those of the V3 specification, finds the misspelt and the unknown ones.

Chance comes from a seed and the time is always MOMENT, so that the same text, names and seed give the same result on any day.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Literal

from engine.cards.card import Card

Kind = Literal["misspelt", "elsewhere", "foreign", "unknown"]

MOMENT = "Friday, July 26, 2024, 12:00 PM"  # for every macro of time: what the time is may not change what a model reads
_PLAIN = {"newline": "\n", "noop": "", "time": "12:00 PM", "date": "July 26, 2024", "weekday": "Friday", "isotime": "12:00",
          "isodate": "2024-07-26"}  # spelled as SillyTavern spells them
TIMES = frozenset(_PLAIN) - {"newline", "noop"}
# SillyTavern's macros that are not carried out here: by their whole names, or (with an argument) by how they begin.
_FOREIGN = {"persona", "description", "personality", "scenario", "mesexamples", "mesexamplesraw", "charprompt", "charinstruction",
            "charjailbreak", "charversion", "char_version", "charfirstmessage", "chardepthprompt", "charcreatornotes", "group",
            "charifnotgroup", "groupnotmuted", "notchar", "model", "input", "pipe", "summary", "authorsnote", "lastmessage",
            "lastusermessage", "lastcharmessage", "lastmessageid", "firstincludedmessageid", "firstdisplayedmessageid",
            "currentswipeid", "lastswipeid", "lastgenerationtype", "idle_duration", "idleduration", "maxprompt", "ismobile",
            "systemprompt", "defaultsystemprompt", "chatstart", "exampleseparator", "else", "/if", "/trim", "allchatrange"}
_FOREIGN_STEMS = re.compile(r"(?:datetimeformat|time_utc|timediff|banned|bias|(?:get|set|add|inc|dec|has|delete)(?:global)?var"
                            r"|var|outlet|#?if|instruct\w*|hasextension|space|newline|trim|input)\b", re.ASCII)
_TRIM = re.compile(r"(?:(?<!\n)\n++)?+\{\{trim\}\}\n*+", re.IGNORECASE)
_DOUBLE = re.compile(r"\{\{([^{}\n]{0,200})\}\}")
_NAME = r"(?:char|user|bot|character|player)"
# One brace too few on either side: {char}, {{char}, {char}}.
_BRACES = re.compile(rf"(?<!\{{)\{{\s*({_NAME})\s*\}}{{1,2}}(?!\}})|\{{\{{\s*({_NAME})\s*\}}(?!\}})", re.IGNORECASE | re.ASCII)
_TAGS = re.compile(r"<(char|character|usr|player)>", re.IGNORECASE | re.ASCII)
_CHAR = {"char", "chr", "cahr", "chra", "chara", "chars", "char_name", "charname", "character", "charater", "bot"}
_USER = {"user", "usr", "uesr", "suer", "usre", "users", "user_name", "username", "player"}
_SILENT = ("//", "comment:", "hidden_key:")  # the model never sees them; the last one may hold keys of a lorebook
_WORKING = ("random:", "pick:", "reverse:", *_SILENT)
_DICE = re.compile(r"\s*(?:(\d{0,2})d)?(\d{1,6})\s*([+-]\s*\d{1,6})?\s*", re.IGNORECASE | re.ASCII)
# One macro in double braces, which may hold up to 100 others (without a limit, a hostile text takes quadratic time), or
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
    {{reverse:abc}} is turned round. A comma inside an option is written "\\,". Of SillyTavern's own: {{newline}}, {{noop}},
    {{trim}} (takes the line breaks around it along), {{roll 2d6}}, and the macros of time, all at MOMENT.
    """
    if "{{" not in text and "<" not in text:
        return text
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
        if word in _PLAIN:
            return _PLAIN[word]
        if word.startswith("roll "):
            kind, rest = "roll", inside[5:]
        match kind.lower():
            case "random":
                return expand(chance(seed, whole, place).choice(_options(rest)), depth + 1)
            case "pick":
                return expand(chance(seed, rest).choice(_options(rest)), depth + 1)
            case "reverse":
                return rest[::-1]
            case "roll" if dice := _DICE.fullmatch(rest):
                dealt, sides = chance(seed, whole, place), max(1, int(dice[2]))
                return str(sum(dealt.randint(1, sides) for _ in range(int(dice[1] or 1))) + int((dice[3] or "0").replace(" ", "")))
        return "{{" + expand(inside, depth + 1) + "}}"

    expanded = expand(_SILENT_LINE.sub("", text), 0)
    return _TRIM.sub("", expanded) if "{{trim}}" in text.lower() else expanded


def _options(listed: str) -> list[str]:
    """The options of {{random:a,b}}, or of {{random::a::b}}, as some programs write it; a macro inside one is one piece."""
    if listed.startswith(":"):
        return [option.strip() for option in listed[1:].split("::")]
    options = [""]
    for piece in _PIECES.findall(listed):
        if piece == ",":
            options.append("")
        else:
            options[-1] += "," if piece == "\\," else piece
    return [option.strip() for option in options]


def other_macros(text: str) -> list[str]:
    """The macros of a text that do not stand for a name: of chance and time, comments, unknown ones."""
    return [one[0] for one in _MACRO.finditer(text) if one[1] and one[1].lower() not in ("char", "user")]


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

    `original`: whether {{original}} works here (in the two fields for instructions). Kinds: "misspelt", "elsewhere" (works in
    other fields), "foreign" (works in SillyTavern), "unknown".
    """
    found = {match.start(): _double(match[0], match[1], original) for match in _DOUBLE.finditer(text)}
    found |= {match.start(): Finding(match[0], "misspelt", _name(match[1] or match[2])) for match in _BRACES.finditer(text)}
    found |= {match.start(): Finding(match[0], "misspelt", _name(match[1])) for match in _TAGS.finditer(text)}
    return list(dict.fromkeys(finding for _, finding in sorted(found.items(), key=lambda one: one[0]) if finding))


def _double(whole: str, inside: str, original: bool) -> Finding | None:
    word = inside.strip().lower()
    if inside.lower() in ("char", "user", "trim", *_PLAIN) or (inside.lower() == "original" and original):
        return None
    if inside.lower().startswith(_WORKING) or (word.startswith(("roll:", "roll ")) and _DICE.fullmatch(inside.strip()[5:])):
        return None
    if word in _CHAR | _USER:
        return Finding(whole, "misspelt", _name(word))
    if word == "original" and original:
        return Finding(whole, "misspelt", "{{original}}")
    if word == "original":
        return Finding(whole, "elsewhere")
    return Finding(whole, "foreign" if word in _FOREIGN or _FOREIGN_STEMS.match(word) else "unknown")


def reads_the_clock(text: str) -> bool:
    """Whether a text asks for the time or the date."""
    return any(match[1].lower() in TIMES for match in _DOUBLE.finditer(text))


def _name(word: str) -> str:
    return "{{user}}" if word.strip().lower() in _USER else "{{char}}"

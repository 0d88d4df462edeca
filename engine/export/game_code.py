"""A character as source code for games: texts as literals, names as identifiers. Knows no engine."""

import json
import re

_BREAKS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029\u200b\ufeff"}  # would end a line, or hide, in source


def literal(text: str, indent: str) -> str:
    """A text as string literals, one for each of its lines, joined by +; for C# and GDScript, whose escapes are JSON's."""
    parts = text.splitlines(keepends=True) or [""]
    return f" +\n{indent}".join(json.dumps(part, ensure_ascii=False).translate(_BREAKS) for part in parts)


def class_name(slug: str) -> str:
    """A type's name from a slug: "pim-tuckett" as PimTuckett."""
    name = "".join(word[:1].upper() + word[1:] for word in re.split(r"[^a-z0-9]+", slug) if word)
    return name if name[:1].isalpha() else f"Character{name}"


def lore_note(entries: int) -> str:
    """What a guide says of the entries of a lorebook that come up by the player's words; "" for none."""
    if not entries:
        return ""
    what = "1 entry that comes" if entries == 1 else f"{entries} entries that come"
    return (f"\nThe card's lorebook has {what} up by the player's words. The script leaves that to you: look for the keys in the "
            "line, and put the entry's text in brackets before it.\n")

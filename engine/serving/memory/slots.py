"""The slots of facts: of those that share one, only the newest can be true. English only; a fact may have none."""

import re

_SLOTS = [(re.compile(pattern, re.IGNORECASE), slot) for pattern, slot in (
    (r"the player's (?:real |full |first )?name (?:is|was)\b", "name"),
    (r"the player (?:is|was) (?:called|named)\b", "name"),
    (r"the player's (?P<of>[\w' -]+?)(?:'s name is| is (?:called|named)) ", "name of"),
    (r"the player's (?P<of>favou?rite [\w' -]+?) (?:is|are) ", ""),
    (r"the player lives (?!with\b)", "home"),
    (r"the player (?:comes from|is from|was born in) ", "origin"),
    (r"the player works as ", "trade"),
    (r"the player (?:is [\w-]+ years old|is \d+\b)", "age"),
    (r"the player (?:(?:does not|doesn't) (?:like|love|enjoy)|(?:dis)?likes|loves|enjoys|adores|hates|cannot stand|can't stand) "
     r"(?P<of>[^.,]+)", "taste:"),
    (r"the player (?:has no|has (?:a|an|\w+)|(?:does not|doesn't) have (?:a|an|any)) (?P<of>[\w-]+)[.]?$", "has"),
)]
_NAME = re.compile(r"The player is (?!.*(?:ish|ese|ian|ean|ic|ch)\.)[A-Z][\w'-]+(?: (?:of |the )*[A-Z][\w'-]+)*\.?")


def slot_of(text: str) -> str:
    """The slot of a fact in the third person, as "name", "home" or "taste: apples"; "" where it has none."""
    if _NAME.fullmatch(text):
        return "name"
    for pattern, slot in _SLOTS:
        if found := pattern.match(text):
            of = found.groupdict().get("of") or ""
            return f"{slot} {of.lower().strip()}".strip()
    return ""

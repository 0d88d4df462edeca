"""Characters and lorebooks of other programs: what a JSON value is, and what it becomes as a card (V3) or a card's book.

Each file has its `FORMATS`; name a new one in `_PROGRAMS`; the first format that knows a value wins. What has no place in a card
is kept in its extensions, under the program's name; what is left out, a note says.
"""

from typing import Any

from engine.cards.formats import backyard, others, risu, sites, stories
from engine.cards.formats.kinds import Format

_PROGRAMS = (sites, stories, risu, backyard, others)
FORMATS: tuple[Format, ...] = tuple(one for program in _PROGRAMS for one in program.FORMATS)


def find(raw: Any) -> Format | None:
    """The format of another program that a JSON value has; None for a card of V1 to V3, and for anything unknown."""
    if isinstance(raw, dict) and raw.get("spec") in ("chara_card_v2", "chara_card_v3"):
        return None
    return next((one for one in FORMATS if isinstance(raw, list if one.is_list else dict) and one.knows(raw)), None)

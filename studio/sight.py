"""What an open page itself says that it shows, so that a room can tell when what it painted never came to be seen.

A page that is being built while updates come in can lose some of them, and the server is told nothing of it: on a busy
machine a room then stays half painted. So each painting carries a stamp, and the page's timer sends back the stamp that
stands on the page, and which of the parts that matter are visible. Knows no room.
"""

import html
import json


def marked(painting: str, room: str, stamp: str) -> str:
    """The painting (HTML) with its stamp on it."""
    return f'{painting}<i data-sight="{room}" data-stamp="{html.escape(stamp)}"></i>'


def look(room: str, *parts: str) -> str:
    """JavaScript for a timer: replaces its last input with what the page shows. `parts`: ids whose visibility counts.

    "" instead while the page is still changing, between two looks that differ.
    """
    return f"(...asked) => [...asked.slice(0, -1), window.personaStudioSight?.('{room}', {json.dumps(parts)}) ?? '']"


def is_lost(seen: str, stamp: str, *visible: bool) -> bool:
    """Whether a page that shows `seen` (from `look`) lacks what was painted: the stamp, and its parts' visibility in turn."""
    return seen != "" and seen != json.dumps([stamp, *visible], separators=(",", ":"))

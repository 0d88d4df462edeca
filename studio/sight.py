"""What an open page itself says that it shows, so that a room can tell when what it painted never came to be seen.

A page that is being built while updates come in can lose some of them, and the server is told nothing of it: on a busy
machine a room then stays half painted. So each painting carries a stamp, and the page's timer sends back the stamp that
stands on the page. Whether somebody speaks stands in the painting too, and the style sheet shows Send or Stop by it: a
button's own visibility would be one more update to lose. Knows no room.
"""

import html


def marked(painting: str, room: str, stamp: str, speaks: bool = False) -> str:
    """The painting (HTML) with its stamp on it. `speaks`: an answer is under way, which can be stopped."""
    return f'{painting}<i data-sight="{room}" data-stamp="{html.escape(stamp)}"{" data-speaks" if speaks else ""}></i>'


def look(room: str) -> str:
    """JavaScript for a timer: replaces its last input with the stamp that the page shows.

    "none" where it shows none, "" while the page is still changing, between two looks that differ.
    """
    return f"(...asked) => [...asked.slice(0, -1), window.personaStudioSight?.('{room}') ?? '']"


def is_lost(seen: str, stamp: str) -> bool:
    """Whether a page that shows `seen` (from `look`) lacks what was painted under `stamp`."""
    return seen not in ("", stamp)

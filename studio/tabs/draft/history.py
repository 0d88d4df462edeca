"""The versions of a character: their list, and what changed between any two. Knows no page."""

import html
import time

from engine.cards.difference import FieldChange, Piece, difference
from studio.store import characters
from studio.store.characters import Version
from studio.store.database import Store

_ORIGINS = {"bundled": "came with the studio"}
_LONGEST = 240  # characters of unchanged text shown between two changes
_WORDS = {"added": ("added", "ins", "+"), "removed": ("removed", "del", "−")}


def version_choices(store: Store, character: str, now: float | None = None) -> list[tuple[str, int]]:
    """(label, number) of all versions, newest first."""
    found = characters.versions(store, character)
    return [(version_label(one, one is found[0], now), one.number) for one in found]


def version_label(version: Version, newest: bool, now: float | None = None) -> str:
    """Number, time and what is special about a version."""
    remark = version.note or _ORIGINS.get(version.origin, "")
    parts = [f"Version {version.number}", when(version.made, now), "newest" if newest else "",
             "damaged: it cannot be read" if version.damaged else "", remark]
    return " · ".join(filter(None, parts))


def when(made: float, now: float | None = None) -> str:
    """A time of this machine's clock in words."""
    then, present = time.localtime(made), time.localtime(time.time() if now is None else now)
    if then[:3] == present[:3]:
        return time.strftime("today, %H:%M", then)
    return f"{then.tm_mday} {time.strftime('%b %Y, %H:%M', then)}"


def changes_html(store: Store, character: str, first: int, second: int) -> str:
    """What changed from the older to the newer of two versions, as HTML with everything escaped."""
    old, new = (characters.version(store, character, number) for number in sorted((first, second)))
    parts = [_change_html(change) for change in difference(old.card, new.card)]
    if old.portrait != new.portrait:
        word = "added" if not old.portrait else "removed" if not new.portrait else "replaced"
        parts.insert(0, f"<section><h4>Portrait</h4><p>The portrait was {word}.</p></section>")
    title = f"<p class=quiet>From version {old.number} to version {new.number}</p>"
    if not parts:
        return title + "<p>Nothing differs.</p>"
    return title + "".join(parts)


def _change_html(change: FieldChange) -> str:
    if change.is_list:
        body = "<ul>" + "".join(f"<li>{_piece_html(piece, sign=True)}</li>" for piece in change.pieces) + "</ul>"
    else:
        body = "<p>" + "".join(_piece_html(piece) for piece in change.pieces) + "</p>"
    return f"<section><h4>{html.escape(change.label)}</h4>{body}</section>"


def _piece_html(piece: Piece, sign: bool = False) -> str:
    text, kind = piece
    if kind == "same":
        return f"<span>{html.escape(_shortened(text))}</span>"
    word, tag, mark = _WORDS[kind]
    shown = f"{mark} " if sign else ""
    return (f'<{tag}><span class="visually-hidden">[{word}: </span>{shown}{html.escape(text)}'
            f'<span class="visually-hidden">]</span></{tag}>')


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    beginning, end = text[:_LONGEST // 2].rsplit(None, 1)[0], text[-_LONGEST // 2:].split(None, 1)[-1]
    trailing = text[len(text.rstrip()):]
    return f"{beginning} … {end.rstrip()}{trailing}"


def partner(numbers: list[int], chosen: int) -> int:
    """What a chosen version is best compared with: the newest one, or the one before where that is the chosen one."""
    return numbers[0] if chosen != numbers[0] else numbers[min(1, len(numbers) - 1)]

"""The files that a card brings along: what its list `assets` says about them, and the portrait among them.

A file is known by its path in the archive, and the card names it as embeded://PATH (the V3 specification's spelling;
embedded:// is understood as well). No address is ever followed: http://, file:// and all others stay texts.
"""

import copy
from collections.abc import Iterator
from typing import Any

from engine.cards.editing import as_v3
from engine.cards.portraits import icon_portrait

PORTRAIT = "assets/icon/images/portrait.png"  # where the writer's own portrait lies in an archive
_EMBEDDED = ("embeded://", "embedded://")
_IN_PNG = "__asset:"  # V3's scheme for a text chunk of a PNG file
_DEFAULT = "ccdefault:"


def path_of(uri: Any) -> str | None:
    """The path of an embedded file; None for every other address."""
    if isinstance(uri, str):
        for start in _EMBEDDED:
            if uri.strip().lower().startswith(start):
                return uri.strip()[len(start):]
    return None


def with_embedded(raw: dict[str, Any], found: dict[str, bytes]) -> dict[str, Any]:
    """The card with the addresses of a PNG's own chunks (__asset:PATH) turned into embeded://PATH where `found` has them."""
    changed = copy.deepcopy(raw)
    for entry in _entries(changed):
        uri = entry["uri"]
        if isinstance(uri, str) and uri.startswith(_IN_PNG) and uri.removeprefix(_IN_PNG) in found:
            entry["uri"] = _EMBEDDED[0] + uri.removeprefix(_IN_PNG)
    return changed


def main_icon(raw: dict[str, Any], files: dict[str, bytes]) -> str | None:
    """The path of the character's icon: the one that is called "main", else the first one that is among the files."""
    icons = [(entry.get("name"), path) for entry in _entries(raw)
             if entry.get("type") == "icon" and (path := path_of(entry["uri"])) in files]
    return next((path for name, path in icons if isinstance(name, str) and name.lower() == "main"),
                icons[0][1] if icons else None)


def portrait_of(raw: dict[str, Any], files: dict[str, bytes]) -> bytes | None:
    """The portrait among the files; None where there is none that the studio can show."""
    path = main_icon(raw, files)
    return icon_portrait(files[path]) if path is not None else None


def with_portrait(raw: dict[str, Any], files: dict[str, bytes], portrait: bytes | None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Card (V3) and files as they go into an archive, `portrait` (PNG) being the icon.

    Where that is the icon already, both stay as they are. Else the portrait takes the icon's place, and the former icon
    leaves with its file, unless something else names it; so it does where the writer removed the portrait.
    """
    card, kept = as_v3(raw), dict(files)
    listed = card["data"].get("assets")
    shown = portrait_of(card, kept)
    if portrait == shown or not isinstance(listed, list | None):  # a list of assets that is none stays as it came
        return card, kept
    former = main_icon(card, kept)
    entries = [entry for entry in listed or [] if not (former and _is_icon(entry, former))]
    if shown and former and former not in {path_of(entry["uri"]) for entry in _entries({"data": {"assets": entries}})}:
        del kept[former]
    if not shown:  # an icon that the studio cannot show stays, as one among others
        entries = [entry for entry in listed or [] if not _is_default_icon(entry)]
    if portrait:
        kept[PORTRAIT] = portrait
        entries.insert(0, {"type": "icon", "uri": _EMBEDDED[0] + PORTRAIT, "name": "main", "ext": "png"})
    card["data"]["assets"] = entries
    return card, kept


def _entries(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The entries of a card's list of assets that have an address."""
    fields = raw.get("data") if isinstance(raw.get("data"), dict) else raw
    listed = fields.get("assets") if isinstance(fields, dict) else None
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and "uri" in entry:
            yield entry


def _is_icon(entry: Any, path: str) -> bool:
    return isinstance(entry, dict) and entry.get("type") == "icon" and path_of(entry.get("uri")) == path


def _is_default_icon(entry: Any) -> bool:
    """An icon that means the picture of the file itself, which an archive does not have."""
    return isinstance(entry, dict) and entry.get("type") == "icon" and entry.get("uri") == _DEFAULT

"""Cards as files: whatever form one has, it is read whole; and every form can be written.

| form  | holds                                              | leaves behind                     |
|-------|----------------------------------------------------|-----------------------------------|
| json  | the card as V3                                     | the portrait, the card's files    |
| v2    | the card as V2, V3's own fields in an extension    | the portrait, the card's files    |
| png   | the card as V3 and as V2, the portrait             | the card's files                  |
| charx | the card as V3, the portrait, the card's files     | nothing                           |

Told apart by content, and never larger in memory than what is read. Knows no library.
"""

import io
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

from engine.cards import charx, images, png, strict_json
from engine.cards.assets import path_of, portrait_of, with_portrait
from engine.cards.card import Card, bundled_files, converted, find_bundled, parse_card
from engine.cards.editing import as_v3, to_v2
from engine.cards.faults import CardFault, named
from engine.cards.formats import backyard
from engine.cards.portraits import MAX_FILE

Form = Literal["json", "v2", "png", "charx"]
FORMS: tuple[Form, ...] = get_args(Form)
ENDINGS: dict[Form, str] = {"json": ".json", "v2": ".v2.json", "png": ".png", "charx": ".charx"}

_JPEG = b"\xff\xd8\xff"
_CANNOT_HOLD = "picture, which cannot hold a character (cards are PNG pictures, JSON files or CHARX archives)"
_OTHER_FILES = {_JPEG: f"is a JPEG {_CANNOT_HOLD}", b"RIFF": f"is a WebP {_CANNOT_HOLD}", b"GIF8": f"is a GIF {_CANNOT_HOLD}"}


@dataclass(frozen=True)
class CardFile:
    """What a file brings: the card, its portrait (PNG) if any, and its files by their paths."""

    card: Card
    portrait: bytes | None
    files: dict[str, bytes]


def read_card(path: Path | str) -> Card:
    """The card in a file of any form, or a bundled card by its bare slug ("pim-tuckett") where no such file exists.

    Raises UserError for what cannot be read or is no card.
    """
    file = Path(path)
    if str(path) in bundled_files() and not file.is_file():
        return find_bundled(str(path))
    return read_file(file).card


def read_file(file: Path, origin: str | None = None) -> CardFile:
    """The card in a file of any form, with all that it brings. `origin`: its name in errors, by default the path.

    The size is checked before anything is read. Raises UserError for what cannot be read or is no card.
    """
    name = str(file) if origin is None else origin
    with named(name):
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device would never end
                raise CardFault("is a folder" if stat.S_ISDIR(status.st_mode) else "is not an ordinary file")
            with file.open("rb") as stream:
                return _read(stream, status.st_size, name)
        except FileNotFoundError:
            raise CardFault("is neither a file nor the name of a bundled character") from None
        except OSError as error:
            raise CardFault(f"cannot be read ({error.strerror})") from error
        except ValueError as error:  # a zero byte or a lone surrogate in the path
            raise CardFault("cannot be the name of a file") from error


def parse_file(data: bytes, origin: str) -> CardFile:
    """`read_file` for a file in memory."""
    with named(origin):
        return _read(io.BytesIO(data), len(data), origin)


def write_file(form: Form, raw: dict[str, Any], portrait: bytes | None = None, files: dict[str, bytes] | None = None) -> bytes:
    """A card of any version as a file of this form.

    Raises UserError for a card that could not be read back; as JSON, an unfinished one is written all the same.
    """
    if form in ("json", "v2"):
        return _readable(as_v3(raw) if form == "json" else to_v2(raw))
    if form == "png":
        return images.write_png_card(raw, portrait)
    card, others = with_portrait(raw, files or {}, portrait)
    with named("The archive"):
        images.checked_json(card)
        return charx.write(_readable(card), others)


def _readable(card: dict[str, Any]) -> bytes:
    return (json.dumps(card, ensure_ascii=False, indent=2) + "\n").encode()


def _read(stream: IO[bytes], size: int, origin: str) -> CardFile:
    start = stream.read(8)
    if start == png.SIGNATURE:
        _check_size(size, MAX_FILE, "a character's picture")
        return CardFile(*images.read_png_card(start + stream.read(MAX_FILE), origin))
    if charx.is_archive(start) or (start.startswith(_JPEG) and charx.has_archive(stream, size)):
        return _from_archive(charx.Archive(stream, size), origin)
    for beginning, fault in _OTHER_FILES.items():
        if start.startswith(beginning):
            raise CardFault(fault)
    strict_json.check_size(size)
    return CardFile(parse_card(start + stream.read(strict_json.MAX_BYTES), origin), None, {})


def _from_archive(archive: charx.Archive, origin: str) -> CardFile:
    """The card of a CHARX archive, or of one of Backyard AI with the pictures that it lists."""
    if charx.CARD in archive.paths or backyard.MANIFEST not in archive.paths:
        card = parse_card(archive.card(), origin)
        files = archive.others()
    else:
        read = backyard.read_archive(archive.paths, lambda path: strict_json.load(archive.text(path)))
        card = converted(read.raw, ("It was an archive of Backyard AI.", *read.notes))
        files = {path: archive.file(path) for one in card.raw["data"]["assets"] if (path := path_of(one["uri"]))}
    return CardFile(card, portrait_of(card.raw, files), files)


def _check_size(size: int, limit: int, what: str) -> None:
    if size > limit:
        raise CardFault(f"is too large for {what} ({size / 1e6:,.1f} MB; at most {limit / 1e6:,.1f} MB)")

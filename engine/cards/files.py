"""Cards as files: every form is read whole, and every form can be written.

| form  | holds                                              | leaves out                        |
|-------|----------------------------------------------------|-----------------------------------|
| json  | the card as V3                                     | the portrait, the card's files    |
| v2    | the card as V2, V3's own fields in an extension    | the portrait, the card's files    |
| png   | the card as V3 and as V2, the portrait             | the card's files                  |
| charx | the card as V3, the portrait, the card's files     | nothing                           |

Forms are recognised by content. A PNG file holds a V3 card as base64 of its JSON in the text `ccv3`, a V1 or V2 card in `chara`
(older pictures of Backyard AI in the camera data), and files of the card in `chara-ext-asset_:PATH` (V3 specification,
"Embedding Methods": to be read, no longer to be written). A card names its files as embeded://PATH (the specification's
spelling; embedded:// is understood as well). No other address is followed: they stay texts.
"""

import base64
import binascii
import copy
import io
import json
import re
import stat
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, get_args

from PIL import Image

from engine.cards import charx, pictures
from engine.cards.baked import is_baked, unbake
from engine.cards.card import Card, bundled_files, card_of, converted, find_bundled, parse_card
from engine.cards.charx import check_path
from engine.cards.fields import as_v3, data_of, fields_of, to_v2
from engine.cards.formats import backyard
from engine.cards.pictures import MAX_FILE, Chunk, check_file_size, check_pixels, clean_portrait, icon_portrait, plain_portrait
from engine.cards.reading import MAX_BYTES, CardFault, check_size, load, load_json, named

Form = Literal["json", "v2", "png", "charx"]
FORMS: tuple[Form, ...] = get_args(Form)
ENDINGS: dict[Form, str] = {"json": ".json", "v2": ".v2.json", "png": ".png", "charx": ".charx"}
PORTRAIT = "assets/icon/images/portrait.png"  # where the writer's own portrait lies in an archive

_EMBEDDED = re.compile(r"embedd?ed://(.*)", re.IGNORECASE | re.DOTALL)
_IN_PNG = "__asset:"  # V3's scheme for a text chunk of a PNG file
_MAX_BASE64 = MAX_BYTES * 3 // 2  # base64 takes 4 bytes for 3, and some programs put line ends in
_EXIF, _USER_COMMENT = 0x8769, 0x9286  # tags
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)?")
_MOST = 4  # texts of one keyword that are tried
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
    """The card in a file of any form, or a bundled card by its slug where no such file exists. Errors as `read_file`."""
    file = Path(path)
    if str(path) in bundled_files() and not file.is_file():
        return find_bundled(str(path))
    return read_file(file).card


def read_file(file: Path, origin: str | None = None) -> CardFile:
    """The card in a file of any form, with all that it brings. `origin`: its name in errors. Raises UserError."""
    name = str(file) if origin is None else origin
    with named(name):
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device would never end
                raise CardFault("is a folder" if stat.S_ISDIR(status.st_mode) else "is not an ordinary file")
            with file.open("rb") as stream:
                return _unbaked(_read(stream, status.st_size, name))
        except FileNotFoundError:
            raise CardFault("is neither a file nor the name of a bundled character") from None
        except OSError as error:
            raise CardFault(f"cannot be read ({error.strerror})") from error
        except ValueError as error:  # a zero byte or a lone surrogate in the path
            raise CardFault("cannot be the name of a file") from error


def parse_file(data: bytes, origin: str) -> CardFile:
    """`read_file` for a file in memory."""
    with named(origin):
        return _unbaked(_read(io.BytesIO(data), len(data), origin))


def _unbaked(found: CardFile) -> CardFile:
    """What a file brings, without the mark of the baked model whose folder it may have come from."""
    return replace(found, card=unbake(found.card)) if is_baked(found.card) else found


def write_file(form: Form, raw: dict[str, Any], portrait: bytes | None = None, files: dict[str, bytes] | None = None) -> bytes:
    """A card of any version as a file. Raises UserError for a card that could not be read back, except as JSON."""
    if form in ("json", "v2"):
        return _readable(as_v3(raw) if form == "json" else to_v2(raw))
    if form == "png":
        return write_png_card(raw, portrait)
    card, others = _with_portrait(raw, files or {}, portrait)
    with named("The archive"):
        checked_json(card)
        return charx.write(_readable(card), others)


def _readable(card: dict[str, Any]) -> bytes:
    return (json.dumps(card, ensure_ascii=False, indent=2) + "\n").encode()


def _read(stream: IO[bytes], size: int, origin: str) -> CardFile:
    start = stream.read(8)
    if start == pictures.SIGNATURE:
        check_file_size(size)
        return CardFile(*read_png_card(start + stream.read(MAX_FILE), origin))
    if charx.is_archive(start) or (start.startswith(_JPEG) and charx.has_archive(stream, size)):
        return _from_archive(charx.Archive(stream, size), origin)
    for beginning, fault in _OTHER_FILES.items():
        if start.startswith(beginning):
            raise CardFault(fault)
    check_size(size)
    return CardFile(parse_card(start + stream.read(MAX_BYTES), origin), None, {})


def _from_archive(archive: charx.Archive, origin: str) -> CardFile:
    """The card of a CHARX archive, or of one of Backyard AI with the pictures that it lists."""
    if charx.CARD in archive.sizes or backyard.MANIFEST not in archive.sizes:
        card = parse_card(archive.text(charx.CARD), origin)
        files = {path: archive.file(path) for path in archive.sizes if path != charx.CARD}
    else:
        read = backyard.read_archive(archive.sizes, lambda path: load_json(archive.text(path)))
        card = converted(read.raw, ("It was an archive of Backyard AI.", *read.notes))
        files = {path: archive.file(path) for path in map(path_of, assets_of(card.raw)) if path}
    return CardFile(card, _portrait_of(card.raw, files), files)


def read_png_card(data: bytes, origin: str) -> tuple[Card, bytes, dict[str, bytes]]:
    """The card in a PNG file (`ccv3` before `chara`), the file's picture as a PNG without any texts, the card's files.

    `origin` names the source in errors. Raises UserError for more than 8 MB, 16 megapixels or 1 MB of JSON, for a damaged or
    animated picture, for one without a card, and for what `parse_card` refuses.
    """
    with named(origin):
        check_file_size(len(data))
        chunks = pictures.read_chunks(data)
        card = _card_in(chunks)
        files = _files(chunks)
        portrait = check_pixels(chunks)  # last: pixels take the most memory
    return (replace(card, raw=_with_embedded(card.raw, files)) if files else card), portrait, files


def write_png_card(raw: dict[str, Any], portrait: bytes | None) -> bytes:
    """A PNG file that holds a card as V3 (`ccv3`) and as V2 (`chara`), in `portrait` (PNG) or in a plain picture.

    All other texts of the portrait are left out, and so are the card's files. The file has at most 8 MB. Raises UserError for a
    card that could not be read back, and for a portrait that is no still PNG.
    """
    texts = [pictures.text_chunk(keyword, base64.b64encode(checked_json(card)))
             for keyword, card in (("chara", to_v2(raw)), ("ccv3", as_v3(raw)))]
    picture = portrait or plain_portrait(fields_of(raw)["name"])
    if len(picture) + sum(len(body) + 12 for _, body in texts) > MAX_FILE:
        picture = clean_portrait(picture)
    with named("The portrait", "Choose another picture for the character."):
        chunks = pictures.pixels_only(pictures.read_chunks(picture))
        check_pixels(chunks)
    return pictures.build([chunks[0], *texts, *chunks[1:]])  # before the pixels, where every reader finds them


def checked_json(card: dict[str, Any]) -> bytes:
    """The JSON of a card on one line. Raises UserError for what `parse_card` would refuse."""
    data = json.dumps(card, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
    parse_card(data, "The card")
    return data


def _card_in(chunks: list[Chunk]) -> Card:
    """The first usable card: in `ccv3`, `chara`, then the camera data. Raises CardFault, that of the first text, without any."""
    faults: list[tuple[str, CardFault]] = []
    texts = [(keyword, one) for keyword in ("ccv3", "chara") for one in pictures.find_texts(chunks, keyword)[:_MOST]]
    for keyword, chunk in texts:
        try:
            text = pictures.text_in(chunk, _MAX_BASE64)
            value, repaired = load(_from_base64(text, "holds a character card that is damaged (its text is not base64)"))
            passed = [f"A card in it ({name}) is broken and was skipped: it {fault}." for name, fault in faults]
            return card_of(value, (*passed, *repaired))
        except CardFault as fault:
            faults.append((keyword, fault))
    if faults:
        raise faults[0][1]
    if comment := _user_comment(chunks):
        value, repaired = load(comment)
        return card_of(value, repaired)
    if pictures.find_texts(chunks, "naidata"):
        raise CardFault("is a picture with a lorebook of NovelAI, not a character (export it as a .lorebook file there, and bring "
                        "that in under Lorebook in Draft)")
    raise CardFault("is a plain picture without a character in it")


def _user_comment(chunks: list[Chunk]) -> bytes:
    """What the camera data of a picture (EXIF) hold as the user's comment: older programs kept characters there."""
    data = next((body for kind, body in chunks if kind == b"eXIf"), b"")
    if not data or len(data) > _MAX_BASE64:
        return b""
    try:
        with warnings.catch_warnings(action="ignore"):
            exif = Image.Exif()
            exif.load(data)
            comment = exif.get_ifd(_EXIF).get(_USER_COMMENT)
    except Exception:  # a picture whose camera data Pillow cannot read is a plain picture
        return b""
    text = bytes(comment[8:] if isinstance(comment, bytes) else b"").strip(b"\0 ")  # after eight bytes that name an encoding
    return text if text.startswith(b"{") or not text else base64.b64decode(text) if _BASE64.fullmatch(text) else b""


def _files(chunks: list[Chunk]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path, text in pictures.texts_under(chunks, "chara-ext-asset_:", MAX_FILE):
        check_path(path)
        found[path] = _from_base64(text, "holds a file that is damaged (its text is not base64)")
    return found


def _from_base64(text: bytes, fault: str) -> bytes:
    plain = b"".join(text.split()).rstrip(b"\0")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise CardFault(fault) from error


def assets_of(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of a card's list of files that have an address."""
    listed = data_of(raw).get("assets")
    return [entry for entry in listed if isinstance(entry, dict) and "uri" in entry] if isinstance(listed, list) else []


def path_of(entry: dict[str, Any]) -> str | None:
    """The path of an embedded file; None for every other address."""
    uri = entry["uri"]
    found = _EMBEDDED.fullmatch(uri.strip()) if isinstance(uri, str) else None
    return found[1] if found else None


def _with_embedded(raw: dict[str, Any], found: dict[str, bytes]) -> dict[str, Any]:
    """The card with the addresses of a PNG's own chunks (__asset:PATH) turned into embeded://PATH where `found` has them."""
    changed = copy.deepcopy(raw)
    for entry in assets_of(changed):
        uri = entry["uri"]
        if isinstance(uri, str) and uri.startswith(_IN_PNG) and uri.removeprefix(_IN_PNG) in found:
            entry["uri"] = f"embeded://{uri.removeprefix(_IN_PNG)}"
    return changed


def _main_icon(raw: dict[str, Any], files: dict[str, bytes]) -> str | None:
    """The path of the character's icon among the files: that of the name "main", else the first one."""
    icons = [(str(entry.get("name")).lower() != "main", path) for entry in assets_of(raw)
             if entry.get("type") == "icon" and (path := path_of(entry)) in files]
    return min(icons, key=lambda one: one[0])[1] if icons else None


def _portrait_of(raw: dict[str, Any], files: dict[str, bytes]) -> bytes | None:
    path = _main_icon(raw, files)
    return icon_portrait(files[path]) if path is not None else None


def _with_portrait(raw: dict[str, Any], files: dict[str, bytes], portrait: bytes | None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Card (V3) and files for an archive, with `portrait` (PNG) as the icon.

    The portrait takes the place of an icon that the studio shows, whose file goes unless something else names it (so it does
    where the writer removed the portrait). Other icons stay, except one that means the picture of the file itself.
    """
    card, kept = as_v3(raw), dict(files)
    listed = card["data"].get("assets")
    shown = _portrait_of(card, kept)
    if portrait == shown or not isinstance(listed, list | None):  # a list of assets that is none stays as it came
        return card, kept
    former = _main_icon(card, kept) if shown else None
    icons = [entry for entry in assets_of(card) if entry.get("type") == "icon" and (
        path_of(entry) == former if former else entry["uri"] == "ccdefault:")]
    entries = [entry for entry in listed or [] if entry not in icons]
    card["data"]["assets"] = entries
    if former and former not in map(path_of, assets_of(card)):
        del kept[former]
    if portrait:
        kept[PORTRAIT] = portrait
        entries.insert(0, {"type": "icon", "uri": f"embeded://{PORTRAIT}", "name": "main", "ext": "png"})
    return card, kept

"""Character cards in pictures: a PNG file with the card's JSON in its texts.

The text `ccv3` holds a V3 card, `chara` a V1 or V2 one, both as base64 of
UTF-8 JSON (older pictures of Backyard AI keep theirs in the camera data);
`chara-ext-asset_:PATH` holds a file of the card (V3 specification, "Embedding
Methods"; it asks new programs to read these and not to write them).
Pictures come from strangers; sizes are checked before anything is unpacked.
"""

import base64
import binascii
import json
import re
import warnings
from dataclasses import replace
from typing import Any

from PIL import Image

from engine.cards import png, reading
from engine.cards.assets import with_embedded
from engine.cards.card import Card, card_of, parse_card
from engine.cards.charx import check_path
from engine.cards.editing import as_v3, fields_of, to_v2
from engine.cards.faults import CardFault, named
from engine.cards.png import Chunk
from engine.cards.portraits import MAX_FILE, check_file_size, check_pixels, clean_portrait, plain_portrait
from engine.cards.strict_json import MAX_BYTES

_MAX_BASE64 = MAX_BYTES * 3 // 2  # base64 takes 4 bytes for 3, and some programs put line ends in
_EXIF, _USER_COMMENT = 0x8769, 0x9286  # tags
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)?")
_MOST = 4  # texts of one keyword that are tried
_ASSET = "chara-ext-asset_:"


def read_png_card(data: bytes, origin: str) -> tuple[Card, bytes, dict[str, bytes]]:
    """The card in a PNG file (`ccv3` before `chara`), the file's picture as a PNG without any texts, the card's files.

    `origin` names the source in errors. Raises UserError, one sentence: for more than 8 MB, 16 megapixels or 1 MB
    of JSON, for a damaged or animated picture, for one without a card, for what `parse_card` refuses.
    """
    with named(origin):
        check_file_size(data)
        chunks = png.read_chunks(data)
        card = _card(chunks)
        files = _files(chunks)
        portrait = check_pixels(chunks)  # last: pixels take the most memory
    return (replace(card, raw=with_embedded(card.raw, files)) if files else card), portrait, files


def write_png_card(raw: dict[str, Any], portrait: bytes | None) -> bytes:
    """A PNG file that holds a card as V3 (`ccv3`) and as V2 (`chara`), in `portrait` (PNG) or in a plain picture.

    All other texts of the portrait are left out, and so are the card's files: an archive holds those. A portrait that
    would make the file larger than 8 MB is made smaller. Raises UserError for a card that could not be read back, and
    for a portrait that is no still PNG.
    """
    texts = [png.text_chunk(keyword, base64.b64encode(checked_json(card)))
             for keyword, card in (("chara", to_v2(raw)), ("ccv3", as_v3(raw)))]
    picture = portrait or plain_portrait(fields_of(raw)["name"])
    if len(picture) + sum(len(body) + 12 for _, body in texts) > MAX_FILE:
        picture = clean_portrait(picture)
    with named("The portrait", "Choose another picture for the character."):
        chunks = png.pixels_only(png.read_chunks(picture))
        check_pixels(chunks)
    return png.build([chunks[0], *texts, *chunks[1:]])  # before the pixels, where every reader finds them


def checked_json(card: dict[str, Any]) -> bytes:
    """The JSON of a card on one line. Raises UserError for what `parse_card` would refuse."""
    data = json.dumps(card, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
    parse_card(data, "The card")
    return data


def _card(chunks: list[Chunk]) -> Card:
    """The card of the first text that holds a usable one: `ccv3`, `chara`, then Backyard's place in the camera data.

    A broken one is passed over for a good one and told of. Raises CardFault, that of the first text, where none is usable.
    """
    faults: list[tuple[str, CardFault]] = []
    texts = [(keyword, one) for keyword in ("ccv3", "chara") for one in png.find_texts(chunks, keyword)[:_MOST]]
    for keyword, chunk in texts:
        try:
            text = png.text_of(chunk, _MAX_BASE64)
            value, mended = reading.load(_decoded(text, "holds a character card that is damaged (its text is not base64)"))
            passed = [f"A card in it ({name}) is broken and was passed over: it {fault}." for name, fault in faults]
            return card_of(value, (*passed, *mended))
        except CardFault as fault:
            faults.append((keyword, fault))
    if faults:
        raise faults[0][1]
    if comment := _user_comment(chunks):
        value, mended = reading.load(comment)
        return card_of(value, mended)
    if png.find_texts(chunks, "naidata"):
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
    except Exception:  # whatever Pillow trips over: a picture with odd camera data is a plain picture
        return b""
    text = bytes(comment[8:] if isinstance(comment, bytes) else b"").strip(b"\0 ")  # behind eight bytes that name a code
    return text if text.startswith(b"{") or not text else base64.b64decode(text) if _BASE64.fullmatch(text) else b""


def _files(chunks: list[Chunk]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path, text in png.texts_under(chunks, _ASSET, MAX_FILE):
        check_path(path)
        found[path] = _decoded(text, "holds a file that is damaged (its text is not base64)")
    return found


def _decoded(text: bytes, fault: str) -> bytes:
    plain = b"".join(text.split()).rstrip(b"\0")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise CardFault(fault) from error

"""Character cards in pictures: a PNG file with the card's JSON in its texts.

The text `ccv3` holds a V3 card, `chara` a V1 or V2 one, both as base64 of
UTF-8 JSON. Pictures come from strangers; sizes are checked before anything is
unpacked. Does not know CHARX archives.
"""

import base64
import binascii
import json
from typing import Any

from engine.base.errors import UserError
from engine.cards import png
from engine.cards.card import MAX_BYTES, Card, parse_card, printable
from engine.cards.editing import as_v3, fields_of, to_v2
from engine.cards.png import Chunk, PngFault
from engine.cards.portraits import MAX_FILE, check_file_size, check_pixels, clean_portrait, plain_portrait

__all__ = ["clean_portrait", "parse_any", "plain_portrait", "read_png_card", "write_png_card"]

_MAX_BASE64 = MAX_BYTES * 3 // 2  # base64 takes 4 bytes for 3, and some programs put line ends in
_OTHER_FILES = {
    b"\xff\xd8\xff": "is a JPEG picture, which cannot hold a character (cards are PNG pictures or JSON files)",
    b"RIFF": "is a WebP picture, which cannot hold a character (cards are PNG pictures or JSON files)",
    b"GIF8": "is a GIF picture, which cannot hold a character (cards are PNG pictures or JSON files)",
    b"PK\x03\x04": "is an archive, which this version cannot read (cards are PNG pictures or JSON files)",
}


def parse_any(data: bytes, origin: str) -> tuple[Card, bytes | None]:
    """The card in a PNG or JSON file, told apart by content, and its portrait as `read_png_card` gives it, or None.

    `origin` names the source in errors. Raises UserError, one sentence, for everything that is not a usable card.
    """
    if data.startswith(png.SIGNATURE):
        return read_png_card(data, origin)
    for start, fault in _OTHER_FILES.items():
        if data.startswith(start):
            raise UserError(f"{printable(origin)} {fault}.")
    return parse_card(data, origin), None


def read_png_card(data: bytes, origin: str) -> tuple[Card, bytes]:
    """The card in a PNG file (`ccv3` before `chara`), and the file's picture as a PNG without any texts.

    `origin` names the source in errors. Raises UserError, one sentence: for more than 8 MB, 16 megapixels or 1 MB
    of JSON, for a damaged or animated picture, for one without a card, for what `parse_card` refuses.
    """
    try:
        check_file_size(data)
        chunks = png.read_chunks(data)
        text = _card_json(chunks)
        portrait = check_pixels(chunks)
    except PngFault as fault:
        raise UserError(f"{printable(origin)} {fault}.") from fault
    return parse_card(text, origin), portrait


def write_png_card(raw: dict[str, Any], portrait: bytes | None) -> bytes:
    """A PNG file that holds a card as V3 (`ccv3`) and as V2 (`chara`), in `portrait` (PNG) or in a plain picture.

    All other texts of the portrait are left out. One that would make the file larger than 8 MB is made smaller.
    Raises UserError for a card that could not be read back, and for a portrait that is no still PNG.
    """
    texts = [png.text_chunk(keyword, base64.b64encode(_checked_json(card)))
             for keyword, card in (("chara", to_v2(raw)), ("ccv3", as_v3(raw)))]
    picture = portrait or plain_portrait(fields_of(raw)["name"])
    if len(picture) + sum(len(body) + 12 for _, body in texts) > MAX_FILE:
        picture = clean_portrait(picture)
    try:
        chunks = png.pixels_only(png.read_chunks(picture))
        check_pixels(chunks)
    except PngFault as fault:
        raise UserError(f"The portrait {fault}.", "Choose another picture for the character.") from fault
    return png.build([chunks[0], *texts, *chunks[1:]])  # before the pixels, where every reader finds them


def _card_json(chunks: list[Chunk]) -> bytes:
    text = png.find_text(chunks, "ccv3", _MAX_BASE64)
    if text is None:
        text = png.find_text(chunks, "chara", _MAX_BASE64)
    if text is None:
        raise PngFault("is a plain picture without a character in it")
    plain = b"".join(text.split())
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise PngFault("holds a character card that is damaged (its text is not base64)") from error


def _checked_json(card: dict[str, Any]) -> bytes:
    data = json.dumps(card, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
    parse_card(data, "The card")
    return data

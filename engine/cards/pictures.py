"""PNG files and portraits: the container of a card in a picture, and its pixels checked and made small.

Chunks and texts are read here, since Pillow leaves out long texts without a word; Pillow decodes the pixels after the size check.
"""

import hashlib
import io
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from engine.base.errors import UserError
from engine.cards.reading import CardFault

SIGNATURE = b"\x89PNG\r\n\x1a\n"
Chunk = tuple[bytes, bytes]  # type, data

_MOTION = {b"acTL", b"fcTL", b"fdAT"}
_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"IDAT", b"IEND"}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
MAX_FILE = 8 * 1024 * 1024  # bytes of a picture file
MAX_PIXELS = 16 * 1024 * 1024
LONGEST_SIDE = 1024  # pixels, of a portrait that the studio makes
_PLAIN_SIZE = (400, 600)  # pixels, of a portrait without a picture


def read_chunks(data: bytes) -> list[Chunk]:
    """All chunks of a PNG file, IHDR to IEND; what follows IEND is left out. Raises CardFault."""
    if not data.startswith(SIGNATURE):
        raise CardFault("is not a PNG picture")
    chunks: list[Chunk] = []
    place = len(SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        kind, end = data[place + 4:place + 8], place + 12 + int.from_bytes(data[place:place + 4])
        if end > len(data):
            raise CardFault("is a PNG picture that breaks off before its end")
        body = data[place + 8:end - 4]
        if zlib.crc32(kind + body) != int.from_bytes(data[end - 4:end]):
            raise CardFault("is a damaged PNG picture (a checksum in it is wrong)")
        if kind in _MOTION:
            raise CardFault("moves, and a character needs a still picture")
        chunks.append((kind, body))
        place = end
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise CardFault("is a damaged PNG picture (it does not begin with its size)")
    return chunks


def pixels_only(chunks: list[Chunk]) -> list[Chunk]:
    """The chunks that make up the picture: no texts, times, camera data; of each type but IDAT the first one."""
    first = dict(reversed(chunks))
    return [(kind, body) for kind, body in chunks if kind in _PIXELS and (kind == b"IDAT" or first.pop(kind, None) is not None)]


def find_texts(chunks: list[Chunk], keyword: str) -> list[Chunk]:
    """The chunks of the texts under `keyword` (any case)."""
    return [(kind, body) for kind, body in chunks
            if kind in _TEXTS and b"\0" in body and body.partition(b"\0")[0].decode("latin-1").lower() == keyword]


def text_in(chunk: Chunk, limit: int) -> bytes:
    """The bytes of a text. Raises CardFault for one of more than `limit` bytes and for a damaged one."""
    kind, body = chunk
    text = _unpacked(kind, body.partition(b"\0")[2], limit)
    if len(text) > limit:
        raise CardFault(f"holds a text that is too large for a character card (more than {limit:,} bytes)")
    return text


def texts_under(chunks: list[Chunk], start: str, limit: int) -> Iterator[tuple[str, bytes]]:
    """(rest of the keyword, text) of every text whose keyword begins with `start`, `limit` bytes in all. Raises CardFault."""
    seen: set[str] = set()
    for kind, body in chunks:
        name, separator, rest = body.partition(b"\0")
        if kind not in _TEXTS or not separator or not name.startswith(start.encode("latin-1")):
            continue
        try:
            key = name[len(start):].decode()
        except UnicodeDecodeError:
            key = name[len(start):].decode("latin-1")
        text = _unpacked(kind, rest, limit)
        limit -= len(text)
        if limit < 0 or key in seen:
            raise CardFault("holds files that are too large" if limit < 0 else "holds a file twice")
        seen.add(key)
        yield key, text


def text_chunk(keyword: str, text: bytes) -> Chunk:
    """A tEXt chunk; `text` is Latin-1 without zero bytes."""
    return b"tEXt", keyword.encode("latin-1") + b"\0" + text


def build(chunks: Iterable[Chunk]) -> bytes:
    """The file of some chunks, which must begin with IHDR and end with IEND."""
    parts = [SIGNATURE]
    for kind, body in chunks:
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body))]
    return b"".join(parts)


def _unpacked(kind: bytes, rest: bytes, limit: int) -> bytes:
    """The text after a keyword: plain in tEXt, compressed in zTXt, either in iTXt (after two flags and two names)."""
    packed, method = kind == b"zTXt", rest[:1]
    if kind == b"iTXt":
        packed, method = rest[:1] == b"\1", rest[1:2]
        parts = rest[2:].split(b"\0", 2)
        rest = b"\0" + parts[2] if len(parts) == 3 else b""
    if not packed:
        return rest[1:] if kind == b"iTXt" else rest
    if method != b"\0":
        raise CardFault("is a damaged PNG picture (a text in it is packed in an unknown way)")
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(rest[1:], limit + 1)
    except zlib.error as error:
        raise CardFault("is a damaged PNG picture (a text in it cannot be unpacked)") from error
    if len(text) <= limit and not unpacker.eof:
        raise CardFault("is a damaged PNG picture (a text in it breaks off)")
    return text


def clean_portrait(data: bytes) -> bytes:
    """A PNG, JPEG or WebP file as an upright PNG of pixels alone, at most 1024 a side. Raises UserError for what is none."""
    try:
        check_file_size(len(data))
        if data.startswith(SIGNATURE):
            data = build(pixels_only(read_chunks(data)))
        with _one_fault():
            image = ImageOps.exif_transpose(_decoded(data, ["PNG", "JPEG", "WEBP"]))
            if image.mode.startswith("I"):  # 16 bits of grey, which convert() would cut off at 255
                image = image.convert("I").point(lambda grey: grey / 257, "L")
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    except CardFault as fault:
        raise UserError(f"The picture {fault}.", "Choose a still PNG, JPEG or WebP picture.") from fault
    fresh = Image.new(image.mode, image.size)  # has no metadata to carry over
    fresh.paste(image)
    return _as_png(fresh)


def plain_portrait(name: str) -> bytes:
    """A PNG for a character without a picture: its initials (else head and shoulders) on a colour from its name."""
    hue = 360 * hashlib.sha256(name.encode("utf-8", "replace")).digest()[0] / 256
    ground, figure = (f"hsl({hue}, 35%, {lightness}%)" for lightness in (32, 82))
    image = Image.new("RGB", _PLAIN_SIZE, ground)
    draw = ImageDraw.Draw(image)
    width, height = _PLAIN_SIZE
    words = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().split()  # what the built-in font can draw
    firsts = [letter for word in words if (letter := next(filter(str.isalnum, word), ""))]
    if letters := "".join(firsts[:1] + firsts[1:][-1:]).upper():
        draw.text((width / 2, height / 2), letters, figure, ImageFont.load_default(160), anchor="mm")
    else:
        draw.ellipse((130, 150, 270, 300), figure)
        draw.pieslice((60, 330, 340, 870), 180, 360, figure)
    return _as_png(image)


def check_file_size(size: int) -> None:
    """Raise CardFault for a file of more than MAX_FILE bytes."""
    if size > MAX_FILE:
        raise CardFault(f"is too large for a character's picture ({size / 1e6:,.1f} MB; at most {MAX_FILE / 1e6:,.1f} MB)")


def icon_portrait(data: bytes) -> bytes | None:
    """The portrait of a character whose icon is this file; None for what is no still picture that the studio can show."""
    try:
        if not data.startswith(SIGNATURE):
            return clean_portrait(data)
        check_file_size(len(data))
        return check_pixels(read_chunks(data))
    except (CardFault, UserError):
        return None


def check_pixels(chunks: list[Chunk]) -> bytes:
    """The file of a PNG's pixels alone, after they were decoded once. Raises CardFault for what cannot be shown."""
    _check_size(*struct.unpack_from(">II", chunks[0][1]))
    portrait = build(pixels_only(chunks))
    with _one_fault():
        _decoded(portrait, ["PNG"])
    return portrait


@contextmanager
def _one_fault() -> Iterator[None]:
    """Damaged files make Pillow raise nearly anything, and not only its own errors: all of it becomes a CardFault."""
    try:
        yield
    except (CardFault, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise CardFault("cannot be read: it is damaged or of another kind") from error
    except Exception as error:
        raise CardFault("is damaged and cannot be shown") from error


def _decoded(data: bytes, formats: list[str]) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=formats)
    _check_size(*image.size)  # claimed; nothing of that size has been made yet
    if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a photo with its preview or depth
        raise CardFault("moves, and a character needs a still picture")
    image.load()
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise CardFault(f"has too many pixels ({width:,} x {height:,}; at most {MAX_PIXELS / 1e6:,.0f} million)")


def _as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()

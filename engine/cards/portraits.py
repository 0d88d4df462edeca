"""Pictures of characters: pixels checked, made small and rid of everything else.

Knows no cards. Whatever Pillow says about a file is told as one sentence.
"""

import colorsys
import hashlib
import io
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from engine.base.errors import UserError
from engine.cards import png
from engine.cards.faults import CardFault
from engine.cards.png import Chunk

MAX_FILE = 8 * 1024 * 1024  # bytes of a picture file
MAX_PIXELS = 16 * 1024 * 1024
LONGEST_SIDE = 1024  # pixels, of a portrait that the studio makes
_PLAIN_SIZE = (400, 600)  # pixels, of a portrait without a picture


def clean_portrait(data: bytes) -> bytes:
    """A PNG, JPEG or WebP file of the writer's own as a PNG of pixels alone, upright, at most 1024 pixels a side.

    Raises UserError for what is no still picture of these kinds, or is larger than 8 MB or 16 megapixels.
    """
    try:
        check_file_size(data)
        if data.startswith(png.SIGNATURE):
            data = png.build(png.pixels_only(png.read_chunks(data)))
        with _one_fault():
            image = _eight_bits(ImageOps.exif_transpose(_decoded(data, ["PNG", "JPEG", "WEBP"])))
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    except CardFault as fault:
        raise UserError(f"The picture {fault}.", "Choose a still PNG, JPEG or WebP picture.") from fault
    fresh = Image.new(image.mode, image.size)  # has no metadata to carry over
    fresh.paste(image)
    return _as_png(fresh)


def plain_portrait(name: str) -> bytes:
    """A PNG of 400 x 600 pixels for a character without a picture: initials on a colour, both from the name.

    A name without a Latin letter gets a head and shoulders instead. The same name gives the same picture.
    """
    hue = hashlib.sha256(name.encode("utf-8", "replace")).digest()[0] / 256
    ground, figure = (_rgb(hue, lightness) for lightness in (0.32, 0.82))
    image = Image.new("RGB", _PLAIN_SIZE, ground)
    draw = ImageDraw.Draw(image)
    width, height = _PLAIN_SIZE
    if letters := _initials(name):
        draw.text((width / 2, height / 2), letters, figure, ImageFont.load_default(160), anchor="mm")
    else:
        draw.ellipse((130, 150, 270, 300), figure)
        draw.pieslice((60, 330, 340, 870), 180, 360, figure)
    return _as_png(image)


def check_file_size(data: bytes) -> None:
    """Raise CardFault for a file of more than MAX_FILE bytes."""
    if len(data) > MAX_FILE:
        raise CardFault(f"is too large for a character's picture ({len(data) / 1e6:,.1f} MB; at most {MAX_FILE / 1e6:,.1f} MB)")


def icon_portrait(data: bytes) -> bytes | None:
    """The portrait of a character whose icon is this file: a PNG's own pixels, others as `clean_portrait` has them.

    None for what is no still picture of a kind and size that the studio shows.
    """
    try:
        if not data.startswith(png.SIGNATURE):
            return clean_portrait(data)
        check_file_size(data)
        return check_pixels(png.read_chunks(data))
    except (CardFault, UserError):
        return None


def check_pixels(chunks: list[Chunk]) -> bytes:
    """The file of a PNG's pixels alone, after they were decoded once. Raises CardFault for what cannot be shown."""
    _check_size(*png.picture_size(chunks))
    png.check_pixel_data(chunks)
    portrait = png.build(png.pixels_only(chunks))
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


def _eight_bits(image: Image.Image) -> Image.Image:
    """The picture as RGB or, where parts of it are transparent, RGBA."""
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would cut off at 255
        image = image.convert("I").point(lambda grey: grey / 257, "L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _initials(name: str) -> str:
    """The first letters of the first and the last word, in capitals, of those that the built-in font can draw."""
    words = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().split()
    letters = [letter for word in words if (letter := next(filter(str.isalnum, word), ""))]
    return "".join(letters[:1] + letters[1:][-1:]).upper()


def _rgb(hue: float, lightness: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, 0.35))
    return red, green, blue

"""Pictures that several test files use."""

import base64
import io
import random
from typing import Any

import pytest
from card_samples import one_sentence
from PIL import Image

from engine.base.errors import UserError
from engine.cards import pictures
from engine.cards.files import read_png_card


def picture(size: tuple[int, int] = (8, 6), kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 40000 if mode == "I;16" else 90).save(file, kind, **options)
    return file.getvalue()


def noise(side: int) -> bytes:
    """A picture that does not compress: about 3 bytes a pixel."""
    file = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(0).randbytes(3 * side * side)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def shown(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=["PNG"])
    image.load()
    return image


def with_chunks(*chunks: pictures.Chunk, into: bytes | None = None) -> bytes:
    """A picture with some chunks put in before its end."""
    present = pictures.read_chunks(into or picture())
    return pictures.build([*present[:-1], *chunks, present[-1]])


def encoded(data: bytes) -> bytes:
    return base64.b64encode(data)


def refusal(data: bytes, start: str = "x.png ") -> str:
    with pytest.raises(UserError) as caught:
        read_png_card(data, "x.png")
    return one_sentence(caught.value, start)

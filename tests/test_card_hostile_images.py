"""Pictures made to harm: each is refused in one sentence, or its harm is left out."""

import json
import struct
import zlib

import pytest
from card_samples import EVERYTHING, one_sentence
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_samples import encoded, noise, picture, refusal, shown, with_chunks

from engine.base.errors import UserError
from engine.cards import pictures
from engine.cards.files import read_png_card, write_png_card
from engine.cards.reading import MAX_BYTES, CardFault

CARD = json.dumps(EVERYTHING).encode()
GOOD = write_png_card(EVERYTHING, picture())


def test_wrong_checksums_and_torn_ends() -> None:
    flipped = bytearray(GOOD)
    flipped[GOOD.index(b"IDAT") + 6] ^= 1
    assert "checksum" in refusal(bytes(flipped))
    for end in (8, 20, 40, len(GOOD) // 2, len(GOOD) - 1, len(GOOD) - 12):
        assert "breaks off" in refusal(GOOD[:end])
    longer = bytearray(GOOD)
    longer[8:12] = b"\xff\xff\xff\xff"
    assert "breaks off" in refusal(bytes(longer))


def test_what_follows_the_end_is_dropped() -> None:
    _, portrait, _ = read_png_card(GOOD + b"PK\3\4 hidden", "x")
    assert portrait.endswith(b"IEND\xaeB`\x82")


def header(width: int, height: int) -> pictures.Chunk:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def test_too_large() -> None:
    card, end = pictures.text_chunk("chara", encoded(CARD)), (b"IEND", b"")
    pixels = (b"IDAT", zlib.compress(bytes(1000)))
    assert "too many pixels" in refusal(pictures.build([header(60_000, 60_000), card, pixels, end]))
    assert "too many pixels" in refusal(pictures.build([header(4096, 4097), card, pixels, end]))
    assert "damaged" in refusal(pictures.build([header(4096, 4096), card, pixels, end]))  # claims more than it holds
    twice = pictures.build([header(1, 1), header(60_000, 60_000), card, (b"IDAT", zlib.compress(bytes(4))), end])
    assert shown(read_png_card(twice, "x")[1]).size == (1, 1)
    assert "too large for a character's picture" in refusal(GOOD + bytes(pictures.MAX_FILE))


def test_bombs_in_texts_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zlib.compress(b"A" * 50_000_000, 9)
    made: list[int] = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self) -> None:
            self.inner = real()

        def decompress(self, data: bytes, limit: int = 0) -> bytes:
            text = self.inner.decompress(data, limit)
            made.append(len(text))
            return text

        eof = property(lambda self: self.inner.eof)

    monkeypatch.setattr(pictures.zlib, "decompressobj", Watched)
    for chunk in ((b"zTXt", b"ccv3\0\0" + bomb), (b"iTXt", b"chara\0\1\0\0\0" + bomb)):
        assert "too large for a character card" in refusal(with_chunks(chunk))
    assert len(made) == 2 and max(made) < 2 * MAX_BYTES


def test_bombs_elsewhere_do_no_harm() -> None:
    bomb = zlib.compress(b"A" * 50_000_000, 9)
    card = pictures.text_chunk("chara", encoded(CARD))
    _, portrait, _ = read_png_card(with_chunks(card, (b"zTXt", b"Comment\0\0" + bomb)), "x")
    assert len(portrait) < 200
    chunks = pictures.read_chunks(picture())
    assert "damaged" in refusal(pictures.build([chunks[0], (b"iCCP", b"p\0\0" + bomb), card, *chunks[1:]]))


def test_animated_pictures() -> None:
    assert "moves" in refusal(with_chunks((b"acTL", bytes(8)), into=GOOD))


def test_damaged_texts() -> None:
    for chunk, said in (((b"zTXt", b"chara\0\0not zlib"), "cannot be unpacked"), ((b"zTXt", b"chara\0\5x"), "unknown way"),
                        ((b"zTXt", b"chara\0"), "unknown way"), ((b"iTXt", b"chara\0\0\0no more"), "is empty"),
                        ((b"tEXt", b"chara"), "without a character"), ((b"tEXt", b"chara\0\xff\xfe"), "not base64"),
                        ((b"tEXt", b"chara\0"), "is empty")):
        assert said in refusal(with_chunks(chunk))


@settings(max_examples=150)
@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=6), st.integers(0, 6), st.booleans())
def test_mutated_files(place: int, put_in: bytes, removed: int, repair: bool) -> None:
    data = GOOD[:place] + put_in + GOOD[place + removed:]
    if repair:  # checksums put right, so that what lies behind them is reached
        chunks, position = [], 8
        while position + 12 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, position)
            chunks.append((kind, data[position + 8:position + 8 + length]))
            position += 12 + length
        data = pictures.build(chunks)
    try:
        card, portrait, _ = read_png_card(data, "x.png")
    except UserError as error:
        one_sentence(error, "x.png ")
        return
    assert card.char
    shown(portrait)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_pixels_is_shown(mode: str) -> None:
    assert shown(pictures.check_pixels(pictures.read_chunks(picture((17, 9), mode=mode)))).size == (17, 9)


def test_pixels_that_break_off_are_refused() -> None:
    chunks = pictures.read_chunks(noise(64))
    packed = b"".join(body for kind, body in chunks if kind == b"IDAT")
    for short in (b"", packed[:-200], packed[:len(packed) // 2]):
        with pytest.raises(CardFault, match="damaged"):
            pictures.check_pixels([chunks[0], (b"IDAT", short), chunks[-1]])

"""Archives made to harm: each is refused in one sentence, and nothing of it reaches a disk."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from card_samples import FLAT, one_sentence
from cards_corpus import FILES, archive
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base.errors import UserError
from engine.cards import charx
from engine.cards.files import parse_file

CARD = json.dumps(FLAT)


def refusal(data: bytes) -> str:
    with pytest.raises(UserError) as caught:
        parse_file(data, "x.charx")
    return one_sentence(caught.value, "x.charx ")


def zipped(*files: tuple[str, bytes | str], kind: int = zipfile.ZIP_DEFLATED,
           change: Callable[[Any], Any] = lambda _: None) -> bytes:
    """A zip file of the card and some others; `change` may still spoil the writer's list of files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, content in (("card.json", CARD), *files):
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=kind)
        change(archive)
    return stream.getvalue()


@pytest.mark.parametrize("path", ["../../evil", "a/../../evil", "/etc/passwd", "..\\evil", "\\\\host\\evil", "C:\\evil", "c:evil",
                                  "..", "../", "a/..", ""])
def test_paths_that_lead_elsewhere(path: str) -> None:
    stream = io.BytesIO(zipped((path or "#", b"x")))
    data = stream.getvalue() if path else stream.getvalue().replace(b"#", b"\0")  # a name that ends before it begins
    assert "path leads elsewhere" in refusal(data)


def test_bombs_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = bytes(charx.MAX_UNPACKED + 1)
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda *_: pytest.fail("something was unpacked"))
    assert "unpacks to too much" in refusal(zipped(("a.png", bomb)))
    assert "unpacks to too much" in refusal(zipped(*((f"{n}.png", bomb[:charx.MAX_UNPACKED // 8]) for n in range(9))))


def test_a_bomb_that_lies_about_its_size() -> None:
    def lie(archive: zipfile.ZipFile) -> None:
        archive.getinfo("a.png").file_size = 1000

    data = zipped(("a.png", bytes(30_000_000)), change=lie)
    assert "'a.png' cannot be unpacked" in refusal(data)
    short = zipped(("a.png", b"abc"), kind=zipfile.ZIP_STORED, change=lie)
    assert "damaged archive" in refusal(short)


def test_too_large_a_card_or_a_list_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("card.json", " " * 2_000_000)
    assert "2,000,000 bytes of JSON" in refusal(stream.getvalue())
    assert "too many files" in refusal(zipped(*((str(number), b"") for number in range(charx.MAX_FILES))))
    assert "too large for a character's archive" in refusal(zipped() + bytes(charx.MAX_ARCHIVE))
    many = zipped(*((str(number), b"") for number in range(12_000)))
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("Python made objects of a long list"))
    assert "too many files" in refusal(many)


def test_other_archives() -> None:
    assert "without a character in it" in refusal(charx_without_card())
    assert "packed in an unusual way" in refusal(zipped(("a", b"x"), kind=zipfile.ZIP_BZIP2))
    assert "packed in an unusual way" in refusal(zipped(("a", b"x"), kind=zipfile.ZIP_LZMA))
    with pytest.warns(UserWarning):
        assert "'a' twice" in refusal(zipped(("a", b"1"), ("a", b"2")))

    def lock(archive: zipfile.ZipFile) -> None:
        archive.getinfo("a").flag_bits |= 1

    assert "password" in refusal(zipped(("a", b"x"), change=lock))
    end = zipped()[-22:]
    far = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    assert "too many files" in refusal(zipped()[:-22] + far + end)


def charx_without_card() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("deep/card.json", CARD)
    return stream.getvalue()


def test_torn_and_flipped() -> None:
    whole = archive()
    for end in (4, 30, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        assert "damaged archive" in refusal(whole[:end])
    flipped = bytearray(whole)
    flipped[whole.index(b"card.json") + 20] ^= 0xFF
    assert "damaged archive" in refusal(bytes(flipped))


def test_folders_and_remarks_do_no_harm() -> None:
    stream = io.BytesIO(archive())
    with zipfile.ZipFile(stream, "a") as opened:
        opened.writestr("assets/empty/", "")
        opened.comment = b"PK\5 a remark"
    read = parse_file(stream.getvalue(), "x")
    assert read.files == FILES


@settings(max_examples=150)
@given(st.integers(0, len(archive()) - 1), st.binary(max_size=6), st.integers(0, 6))
def test_mutated_archives(place: int, put_in: bytes, removed: int) -> None:
    whole = archive()
    try:
        assert parse_file(whole[:place] + put_in + whole[place + removed:], "x").card.name
    except UserError as error:
        one_sentence(error, "x ")

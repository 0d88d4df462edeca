"""Cards in pictures: what is written reads back, what is hostile is refused in one sentence."""

import base64
import io
import json
import random
import zlib
from typing import Any

import pytest
from card_samples import EVERYTHING, FLAT, one_sentence, v2
from card_strategies import raw_cards
from hypothesis import given, settings
from picture_samples import encoded, noise, picture, refusal, shown, with_chunks
from PIL import Image, PngImagePlugin

from engine.base.errors import UserError
from engine.cards import pictures
from engine.cards.card import bundled_cards
from engine.cards.fields import as_v3, to_v2
from engine.cards.files import read_png_card, write_png_card
from engine.cards.pictures import plain_portrait
from engine.cards.reading import MAX_BYTES

CARD = json.dumps(EVERYTHING).encode()


# What is written reads back.

@settings(max_examples=60)
@given(raw_cards())
def test_a_written_card_reads_back_whole(raw: dict[str, Any]) -> None:
    card, portrait, _ = read_png_card(write_png_card(raw, picture()), "x.png")
    assert card.raw == as_v3(raw)
    assert shown(portrait).tobytes() == shown(picture()).tobytes()


@pytest.mark.parametrize("raw", [FLAT, EVERYTHING, json.loads(v2(extensions={"a": [1]}, new="kept")),
                                 *(card.raw for card in bundled_cards()[:2])])
def test_other_programs_find_both_forms_before_the_pixels(raw: dict[str, Any]) -> None:
    texts = Image.open(io.BytesIO(write_png_card(raw, None))).info  # read up to the pixels
    assert json.loads(base64.b64decode(texts["ccv3"])) == as_v3(raw)
    assert json.loads(base64.b64decode(texts["chara"])) == to_v2(raw)


def test_the_portrait_stays_the_same_picture_and_keeps_no_texts() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "a secret")
    info.add_text("chara", "an older card")
    file = io.BytesIO()
    Image.linear_gradient("L").convert("P").save(file, "PNG", pnginfo=info, transparency=3)
    written = write_png_card(EVERYTHING, file.getvalue())
    _, portrait, _ = read_png_card(written, "x.png")
    assert shown(portrait).convert("RGBA").tobytes() == shown(file.getvalue()).convert("RGBA").tobytes()
    for data in (written, portrait):
        assert b"a secret" not in data and b"an older card" not in data
    assert {kind for kind, _ in pictures.read_chunks(portrait)} <= {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
    assert write_png_card(as_v3(EVERYTHING), portrait) == written  # again and again, nothing drifts


def test_a_character_without_a_picture_gets_a_plain_one() -> None:
    _, portrait, _ = read_png_card(write_png_card(EVERYTHING, None), "x.png")
    assert shown(portrait).size == (400, 600)
    pictures = [plain_portrait(name) for name in ("Ann Lee", "Ann Lee", "Bodo", "Анна", "", "\ud800 x")]
    assert pictures[0] == pictures[1] and len(set(pictures)) == 5
    for data in pictures:
        assert len(shown(data).getcolors(10**6)) > 1  # something is drawn on the ground


def test_a_card_that_could_not_be_read_back_is_not_written() -> None:
    for raw, said in (({**FLAT, "name": ""}, "has no name"), ({**FLAT, "description": "", "first_mes": ""}, "says nothing"),
                      ({**FLAT, "description": "x" * MAX_BYTES}, "too large"), ({**FLAT, "creator": "\ud800"}, "not UTF-8"),
                      ({**FLAT, "x": float("nan")}, "not a finite number")):
        with pytest.raises(UserError, match=said) as caught:
            write_png_card(raw, None)
        one_sentence(caught.value, "The card ")
    for portrait in (b"GIF89a", picture()[:-20], picture(kind="JPEG")):
        with pytest.raises(UserError, match=r"^The portrait "):
            write_png_card(FLAT, portrait)


def test_a_portrait_that_leaves_no_room_is_made_smaller() -> None:
    big = noise(1650)
    assert pictures.MAX_FILE - 10**6 < len(big) < pictures.MAX_FILE
    raw = {**FLAT, "description": "x" * 500_000}
    card, portrait, _ = read_png_card(write_png_card(raw, big), "x.png")
    assert card.raw == as_v3(raw)
    assert shown(portrait).size == (1024, 1024)


# What others wrote.

def test_ccv3_comes_before_chara_wherever_they_stand() -> None:
    old, new = (pictures.text_chunk(keyword, encoded(v2(name=name))) for keyword, name in (("chara", "Old"), ("ccv3", "New")))
    for chunks in ((old, new), (new, old)):
        assert read_png_card(with_chunks(*chunks), "x")[0].name == "New"
    assert read_png_card(with_chunks(old), "x")[0].name == "Old"
    assert read_png_card(with_chunks((b"tEXt", b"Chara\0" + encoded(CARD))), "x")[0].raw == EVERYTHING


def test_every_kind_of_text_is_read() -> None:
    for chunk in ((b"zTXt", b"chara\0\0" + zlib.compress(encoded(CARD))),
                  (b"iTXt", b"chara\0\0\0en\0word\0" + encoded(CARD)),
                  (b"iTXt", b"chara\0\1\0\0\0" + zlib.compress(encoded(CARD)))):
        assert read_png_card(with_chunks(chunk), "x")[0].raw == EVERYTHING


def test_base64_with_line_ends_or_without_padding() -> None:
    for text in (base64.encodebytes(CARD + b" "), encoded(CARD + b" " * ((1 - len(CARD)) % 3)).rstrip(b"=")):
        assert read_png_card(with_chunks(pictures.text_chunk("chara", text)), "x")[0].raw == EVERYTHING


def test_long_cards_come_whole_where_pillow_gives_up() -> None:
    raw = {**FLAT, "description": "".join(random.Random(1).choices("abcdefghij ", k=900_000))}
    text = encoded(json.dumps(raw).encode())
    for chunk in ((b"zTXt", b"ccv3\0\0" + zlib.compress(text)), pictures.text_chunk("ccv3", text)):
        data = with_chunks(chunk)
        assert read_png_card(data, "x")[0].description == raw["description"]
        if chunk[0] == b"zTXt":
            with pytest.raises(ValueError, match="too large"):
                shown(data)
    torn = with_chunks((b"zTXt", b"ccv3\0\0" + zlib.compress(encoded(CARD))[:-20]))
    assert len(shown(torn).info["ccv3"]) < len(encoded(CARD))  # Pillow hands on a part without a word
    assert "breaks off" in refusal(torn)


@pytest.mark.parametrize(("broken", "said"), [
    (b"{not base64}", "its text is not base64"), (encoded(b"{"), "is not a character card in JSON"),
    (encoded(b" " * (MAX_BYTES + 1)), "too large"), (encoded(json.dumps({**FLAT, "name": ""}).encode()), "has no name"),
])
def test_a_broken_newer_card_gives_way_to_a_good_older_one_and_this_is_reported(broken: bytes, said: str) -> None:
    newer = pictures.text_chunk("ccv3", broken)
    card, _, _ = read_png_card(with_chunks(newer, pictures.text_chunk("chara", encoded(CARD))), "x.png")
    assert card.raw == EVERYTHING
    assert len(card.notes) == 1 and card.notes[0].startswith("A card in it (ccv3) is broken") and said in card.notes[0]
    for older in ((), (pictures.text_chunk("chara", encoded(b"[]")),)):  # where no good one is, the newer one is what is spoken of
        assert said in refusal(with_chunks(newer, *older))


def test_the_first_good_one_of_several_cards_is_taken() -> None:
    texts = [pictures.text_chunk("chara", one) for one in (b"{", encoded(CARD), encoded(json.dumps(FLAT).encode()))]
    card, _, _ = read_png_card(with_chunks(*texts), "x.png")
    assert card.raw == EVERYTHING and len(card.notes) == 1 and "(chara) is broken" in card.notes[0]


def test_zero_bytes_after_a_card_are_passed_over_and_reported() -> None:
    for text in (encoded(CARD) + b"\0\0", encoded(CARD + b"\0")):
        card, _, _ = read_png_card(with_chunks(pictures.text_chunk("chara", text)), "x.png")
        assert card.raw == EVERYTHING
    assert card.notes == ("A zero byte at its end was ignored.",)

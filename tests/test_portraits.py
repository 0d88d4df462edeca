"""A writer's own pictures: any usual kind goes in, plain pixels come out."""

import base64
import io
from pathlib import Path

import pytest
from picture_samples import picture, shown
from PIL import Image
from store_samples import card

from engine.base.errors import UserError
from engine.cards import pictures
from engine.cards.pictures import clean_portrait
from studio.library import portraits_html
from studio.services import Services
from studio.settings import Settings
from studio.store import characters


@pytest.mark.parametrize(("kind", "mode"), [
    ("PNG", "RGB"), ("PNG", "1"), ("PNG", "L"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "L"),
    ("JPEG", "CMYK"), ("WEBP", "RGB")])
def test_own_pictures_become_small_plain_png(kind: str, mode: str) -> None:
    image = shown(clean_portrait(picture((2000, 1000), kind, mode)))
    assert (image.size, image.mode) == ((1024, 512), "RGBA" if mode == "LA" else "RGB")
    if mode == "I;16":
        assert image.getpixel((9, 9)) == (155, 155, 155)  # 40000 of 65535


def test_small_pictures_keep_their_size_and_transparency() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (30, 20), (255, 0, 0, 77)).save(file, "WEBP", lossless=True)
    image = shown(clean_portrait(file.getvalue()))
    assert (image.size, image.getpixel((0, 0))) == ((30, 20), (255, 0, 0, 77))


def test_nothing_but_pixels_is_left_and_photos_stand_upright() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "taken at home"  # lies on its side; a description
    data = picture((40, 20), "JPEG", exif=exif, comment=b"taken at home")
    assert b"taken at home" in data
    cleaned = clean_portrait(data)
    assert b"taken at home" not in cleaned
    assert {kind for kind, _ in pictures.read_chunks(cleaned)} == {b"IHDR", b"IDAT", b"IEND"}
    assert shown(cleaned).size == (20, 40)


def test_photos_with_a_preview_are_still_pictures() -> None:
    data = picture(kind="MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    assert shown(clean_portrait(data)).size == (8, 6)


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.4", picture(kind="GIF", mode="L"), picture(kind="BMP"), picture()[:-9],
                                  picture((600, 600), "JPEG")[:300], picture(kind="WEBP")[:30]])
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(UserError, match=r"^The picture [^.]+\. Choose a still PNG, JPEG or WebP picture\.$"):
        clean_portrait(data)


def test_moving_pictures_are_refused() -> None:
    for kind in ("PNG", "WEBP"):
        data = picture(kind=kind, save_all=True, append_images=[Image.new("RGB", (8, 6), 200)])
        with pytest.raises(UserError, match=r"^The picture moves, and .*\. Choose a still"):
            clean_portrait(data)


def test_the_list_of_characters_shows_a_portrait_or_the_first_letter(tmp_path: Path) -> None:
    services = Services.open(Settings(tmp_path))
    known = {one.name: one.id for one in characters.list_characters(services.store)}
    hostile = characters.create(services.store, card('"}</style><img src=x>é')).id
    seen = characters.create(services.store, card("Zoë"), portrait=clean_portrait(picture((300, 200), "JPEG", "RGB"))).id
    broken = characters.create(services.store, card("Broken"), portrait=b"no picture").id
    sheet = portraits_html(services)
    rule = lambda id: sheet.partition(f'value="{id}"])::before{{')[2].partition("}")[0]
    assert rule(known["Pim Tuckett"]) == f'content:"\\{ord("P"):x} "' and rule(broken) == f'content:"\\{ord("B"):x} "'
    assert rule(hostile) == f'content:"\\{ord("S"):x} "' and sheet.count("<") == 2
    small = base64.b64decode(rule(seen).partition("base64,")[2].partition(")")[0])
    assert Image.open(io.BytesIO(small)).size == (56, 56)

"""A card in any form, written in any form, reads back whole; and another program's reader and writer agree with ours."""

import io
import json
import socket
import zipfile
from typing import Any

import pytest
from card_samples import FLAT, one_sentence
from card_strategies import raw_cards
from cards_corpus import ASSETS, CARDS, FILES, JSON_FILES, PICTURES, PNG_WITH_FILES, archive, v2, v3
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_samples import picture, shown
from tavern_card import parse_card as their_card
from tavern_card import parse_png_card, write_png_card

from engine.base.errors import UserError
from engine.cards.card import bundled_cards
from engine.cards.fields import as_v3
from engine.cards.files import FORMS, PORTRAIT, CardFile, Form, parse_file, write_file
from engine.cards.pictures import clean_portrait

PATHS = st.text("ab/é漢. -", min_size=1, max_size=12).filter(
    lambda path: not path.startswith("/") and not path.endswith("/") and ".." not in path.split("/") and path != "card.json")


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: for Python, 1, 1.0 and true are equal."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def there_and_back(form: Form, raw: dict[str, Any], portrait: bytes | None = None,
                   files: dict[str, bytes] | None = None) -> CardFile:
    return parse_file(write_file(form, raw, portrait, files), "x")


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=30)
@given(raw_cards())
def test_any_card_in_any_form_reads_back_whole(form: Form, raw: dict[str, Any]) -> None:
    assert same(as_v3(there_and_back(form, raw).card.raw), as_v3(raw))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CARDS)
def test_shapes_of_the_wild_in_any_form(name: str, form: Form) -> None:
    raw = CARDS[name]
    read = there_and_back(form, raw).card
    assert same(as_v3(read.raw), as_v3(raw))
    assert write_file(form, read.raw) == write_file(form, raw)  # again and again, nothing drifts
    for other in FORMS:  # and from that form to every other
        assert same(as_v3(there_and_back(other, read.raw).card.raw), as_v3(raw))


@settings(max_examples=40)
@given(raw_cards(), st.dictionaries(PATHS, st.binary(max_size=40), max_size=4))
def test_an_archive_keeps_every_file(raw: dict[str, Any], files: dict[str, bytes]) -> None:
    read = there_and_back("charx", raw, None, files)
    assert same(read.card.raw, as_v3(raw)) and read.files == files
    assert write_file("charx", read.card.raw, read.portrait, read.files) == write_file("charx", raw, None, files)


@pytest.mark.parametrize("name", JSON_FILES)
def test_json_of_the_wild(name: str) -> None:
    assert parse_file(JSON_FILES[name], "x").card.name


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_the_wild(name: str) -> None:
    read = parse_file(PICTURES[name], "x")
    assert read.card.name != "Old" and read.portrait is not None and shown(read.portrait).size == (8, 6)


def test_the_forms_are_readable_text() -> None:
    for form in ("json", "v2"):
        text = write_file(form, CARDS["everything"]).decode()
        assert "Óskar" in text and '\n    "name"' in text and text.endswith("}\n")
    assert write_file("json", {"name": "Unfinished"})  # text is never withheld from its writer
    for form in ("png", "charx"):
        with pytest.raises(UserError, match="says nothing about its character"):
            write_file(form, {"name": "Unfinished"})


# Files that a card brings.

def test_an_archive_comes_whole_and_its_icon_becomes_the_portrait() -> None:
    read = parse_file(archive(), "x")
    assert read.files == FILES and same(read.card.raw, v3(assets=ASSETS))
    assert read.portrait is not None and shown(read.portrait).tobytes() == shown(picture((5, 4))).tobytes()
    assert parse_file(write_file("charx", read.card.raw, read.portrait, read.files), "x") == read


def test_no_address_is_ever_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a connection was opened"))
    real = open
    monkeypatch.setattr("builtins.open", lambda file, *rest, **named: pytest.fail(f"{file} was opened")
                        if "passwd" in str(file) else real(file, *rest, **named))
    for uri in ("file:///etc/passwd", "/etc/passwd", "http://127.0.0.1:9/a.png", "https://example.invalid/a.png",
                "embeded://../../etc/passwd", "embeded:///etc/passwd", "data:image/png;base64,AAAA", "__asset:../0"):
        raw = v3(assets=[{"type": "icon", "uri": uri, "name": "main", "ext": "png"}])
        for data in (archive(raw, {}), write_file("png", raw, picture()), write_file("json", raw)):
            read = parse_file(data, "x")
            assert read.card.raw["data"]["assets"][0]["uri"] == uri and read.files == {}
            assert write_file("charx", read.card.raw, None, read.files)


def test_files_in_a_pictures_texts_are_kept_for_an_archive() -> None:
    read = parse_file(PNG_WITH_FILES, "x")
    assert read.files == {"0": b"joy"}
    assert [entry["uri"] for entry in read.card.raw["data"]["assets"]] == ["embeded://0", "__asset:9"]
    again = there_and_back("charx", read.card.raw, None, read.files)
    assert (again.card, again.files) == (read.card, read.files)


def test_the_writers_own_portrait_is_the_archives_icon() -> None:
    own = clean_portrait(picture((9, 9), mode="L"))
    read = there_and_back("charx", FLAT, own)
    assert read.portrait == own and read.files == {PORTRAIT: own}
    assert read.card.raw["data"]["assets"] == [{"type": "icon", "uri": f"embeded://{PORTRAIT}", "name": "main", "ext": "png"}]
    assert there_and_back("charx", read.card.raw, own, read.files) == read
    replaced = there_and_back("charx", v3(assets=ASSETS), own, FILES)
    assert replaced.portrait == own and "assets/icon/images/main.png" not in replaced.files  # the former one leaves
    assert replaced.card.raw["data"]["assets"][1:] == ASSETS[1:]
    assert replaced.files == {**{path: data for path, data in FILES.items() if "main" not in path}, PORTRAIT: own}
    removed = there_and_back("charx", v3(assets=ASSETS), None, FILES)
    assert removed.portrait is None and removed.card.raw["data"]["assets"] == ASSETS[1:]


def test_an_icon_that_cannot_be_shown_stays_a_file() -> None:
    raw = v3(assets=[ASSETS[0]])
    read = parse_file(archive(raw, {"assets/icon/images/main.png": b"no picture"}), "x")
    assert read.portrait is None and there_and_back("charx", read.card.raw, None, read.files) == read
    own = clean_portrait(picture())
    both = there_and_back("charx", read.card.raw, own, read.files)
    assert both.portrait == own and both.files["assets/icon/images/main.png"] == b"no picture"
    jpeg = picture((30, 20), kind="JPEG")
    read = parse_file(archive(raw, {"assets/icon/images/main.png": jpeg}), "x")
    assert read.portrait is not None and shown(read.portrait).size == (30, 20)
    assert there_and_back("charx", read.card.raw, read.portrait, read.files) == read  # the JPEG itself, not a copy


def test_a_picture_that_is_an_archive_as_well() -> None:
    assert parse_file(picture(kind="JPEG") + archive(), "x") == parse_file(archive(), "x")
    with pytest.raises(UserError, match="is a JPEG picture, which cannot"):
        parse_file(picture(kind="JPEG"), "x")


def test_forms_are_distinguished_by_content() -> None:
    for data, said in ((picture(kind="JPEG"), "a JPEG"), (picture(kind="WEBP"), "a WebP"), (picture(kind="GIF", mode="L"), "a GIF"),
                       (b"PK\3\4...", "a damaged archive"), (b"", "is empty"), (picture(), "plain picture without a character"),
                       (bytes(range(256)), "not UTF-8")):
        with pytest.raises(UserError, match=said) as caught:
            parse_file(data, "x")
        one_sentence(caught.value, "x ")


# The package tavern-card as an oracle. It turns every card into a V2 object with the fields that it knows, so its reading
# of our files is compared field by field, and our reading of its files with what it wrote.

def theirs(raw: dict[str, Any]) -> dict[str, Any]:
    """What tavern-card is expected to find in a card: V2's fields, the name without space around it."""
    fields = as_v3(raw)["data"]
    known = their_card(v2())["data"].keys()
    return {key: fields["name"].strip() if key == "name" else fields.get(key) for key in known}


ORACLE = {**CARDS, **{card.char: card.raw for card in bundled_cards()[:3]}}


@pytest.mark.parametrize("name", ORACLE)
def test_another_reader_finds_the_same_in_our_files(name: str) -> None:
    raw = ORACLE[name]
    found = [parse_png_card(write_file("png", raw, picture())), their_card(write_file("json", raw).decode()),
             their_card(zipfile.ZipFile(io.BytesIO(write_file("charx", raw))).read("card.json"))]
    assert all(one["spec"] == "chara_card_v3" and same(one["data"], theirs(raw)) for one in found)
    old = their_card(write_file("v2", raw).decode())
    assert (old["spec"], old["spec_version"]) == ("chara_card_v2", "2.0")
    assert same({**old["data"], "extensions": {}}, {**theirs(raw), "extensions": {}})
    kept = {"persona_studio/v3"}
    assert {key: value for key, value in old["data"]["extensions"].items() if key not in kept} == as_v3(raw)["data"]["extensions"]
    assert as_v3(old)["data"].get("nickname") == as_v3(raw)["data"].get("nickname")  # their normal form drops unknown fields


@pytest.mark.parametrize("name", ORACLE)
def test_we_find_the_same_in_another_writers_files(name: str) -> None:
    written = their_card(as_v3(ORACLE[name]))
    for data in (write_png_card(written, picture()), write_png_card({**written, "spec": "chara_card_v2"}),
                 json.dumps(written).encode()):
        read = parse_file(data, "x").card
        assert same(read.raw["data"], written["data"])
        assert same(theirs(read.raw), theirs(ORACLE[name]))

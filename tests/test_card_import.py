"""Cards of any form into the library: a line for each file, everything kept, and one bad file spoils no other."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from card_samples import FLAT
from cards_corpus import ASSETS, CARDS, FILES, PNG_WITH_FILES, archive, v3
from picture_samples import picture, shown
from store_samples import library

from engine.cards.fields import as_v3
from engine.cards.files import FORMS, read_file, write_file
from studio import library as imports
from studio.library import import_card, imports_html
from studio.store import characters
from studio.store.database import Store, check
from studio.tabs.draft.card_views import card_file


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return library(tmp_path / "home")


def put(folder: Path, name: str, data: bytes) -> Path:
    file = folder / name
    file.write_bytes(data)
    return file


def test_an_archive_goes_in_and_comes_out_whole(store: Store, tmp_path: Path) -> None:
    file = put(tmp_path, "Lamp.charx", archive())
    done = import_card(store, file)
    assert done.sentence == "Ann Lee came from Lamp.charx, with its portrait and 5 files."
    character = characters.get(store, done.slug)
    assert character is not None
    head = characters.head(store, character.id)
    assert head.card == v3(assets=ASSETS) and characters.files(store, head) == FILES
    assert read_file(card_file(store, character.id, "charx")) == read_file(file)
    characters.save(store, character.id, v3(assets=ASSETS, description="Changed."), autosave=False)
    copy = characters.duplicate(store, character.id)
    characters.restore(store, character.id, 1)
    for one in (character, copy):  # a later version, a restored one and a copy bring the files as well
        assert read_file(card_file(store, one.id, "charx")).files == FILES
    assert check(store, tmp_path) == []


@pytest.mark.parametrize("form", FORMS)
def test_every_shape_in_every_form_comes_home_whole(form: Any, store: Store, tmp_path: Path) -> None:
    for number, (name, raw) in enumerate(CARDS.items()):
        done = import_card(store, put(tmp_path, f"{number}.bin", write_file(form, raw, picture())))
        character = characters.get(store, done.slug)
        assert character is not None, name
        kept = characters.head(store, character.id)
        expected = as_v3(raw)
        if form == "charx":  # the portrait has become the icon
            expected["data"]["assets"] = kept.card["data"]["assets"]
        assert kept.card == expected, name
        for other in FORMS:
            read = read_file(card_file(store, character.id, other))
            found = as_v3(read.card.raw)
            if other == "charx":
                found["data"]["assets"] = expected["data"].get("assets")
                expected["data"].setdefault("assets", None)
            assert found == expected, (name, other)
            if other in ("png", "charx") and form in ("png", "charx"):
                assert read.portrait is not None and shown(read.portrait).size == (8, 6)


def test_files_from_a_pictures_texts(store: Store, tmp_path: Path) -> None:
    done = import_card(store, put(tmp_path, "risu.png", PNG_WITH_FILES))
    assert done.sentence.endswith("with its portrait and 1 file.")


def test_each_file_has_its_line(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                caplog: pytest.LogCaptureFixture) -> None:
    evil = json.dumps({**FLAT, "name": "<img src=x>"}).encode()
    good, bad = put(tmp_path, "<b>.json", evil), put(tmp_path, "bad.json", b"{")
    done = [import_card(store, one) for one in (good, bad, tmp_path / "gone.json")]
    assert [bool(one.slug) for one in done] == [True, False, False]
    assert done[1].sentence.startswith("bad.json is not a character card in JSON (line 1")
    assert str(tmp_path) not in "".join(one.sentence for one in done)  # where uploads lie is nobody's business
    shown = imports_html(done, 3)
    assert "1 of 3 cards imported" in shown and shown.index("bad.json") < shown.index("came from") and "<img" not in shown
    assert "&lt;b&gt;.json" in shown and "Importing… 3 of 4" in imports_html(done, 4)
    assert "came from" not in imports_html(done, 4)
    monkeypatch.setattr(imports, "read_file", lambda *_: 1 / 0)
    with caplog.at_level(logging.ERROR):
        assert "went wrong inside the studio" in import_card(store, good).sentence
    assert "ZeroDivisionError" in caplog.text
    assert len(characters.list_characters(store)) == 1


def test_what_is_missing_or_damaged_is_found(store: Store, tmp_path: Path) -> None:
    import_card(store, put(tmp_path, "a.charx", archive()))
    with store.write() as db:
        db.execute("UPDATE files SET data = x'00' WHERE data = x'7b7d'")
        db.execute("DELETE FROM files WHERE length(data) = 0")
    first, second = check(store, tmp_path)
    assert "card's file" in first and second == "1 files of cards are missing."

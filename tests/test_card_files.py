"""Cards in files: paths that hold none, sizes, and bundled characters by their slug."""

import os
from pathlib import Path

import pytest
from card_samples import one_sentence, v2

from engine.base.errors import UserError
from engine.cards import files
from engine.cards.card import CHARACTERS, find_bundled
from engine.cards.files import read_card


def test_too_large_a_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = tmp_path / "big.json"
    with big.open("wb") as file:
        file.truncate(10_000_000)
    monkeypatch.setattr(files, "parse_card", lambda *_: pytest.fail("the file was read"))
    with pytest.raises(UserError) as caught:
        read_card(big)
    assert "10,000,000 bytes of JSON; at most 1,000,000" in one_sentence(caught.value, f"{big} ")


def test_unreadable_paths(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    cases: list[tuple[Path | str, str]] = [
        (tmp_path / "none.json", "is neither a file nor"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is not an ordinary file"),
        (tmp_path / ("n" * 300), "cannot be read (File name too long)"),
        ("a\0b", "cannot be the name of a file"),
        ("no-such-one", "nor the name of a bundled character"),
        ("", "is a folder"),
    ]
    for path, says in cases:
        with pytest.raises(UserError) as caught:
            read_card(path)
        assert says in one_sentence(caught.value, f"{Path(path)} ".replace("\0", "?"))


def test_a_path_that_cannot_be_printed() -> None:
    with pytest.raises(UserError) as caught:
        read_card("a\ud800\n\x1b[31mb")
    one_sentence(caught.value, "a???[31mb ")


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "locked.json"
    file.write_bytes(v2())

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # chmod does not stop root
    with pytest.raises(UserError, match=r"locked\.json cannot be read \(Permission denied\)\.$"):
        read_card(file)


def test_faults_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_bytes(b"{")
    with pytest.raises(UserError) as caught:
        read_card(str(file))
    one_sentence(caught.value, f"{file} ")


def test_bare_slug_of_a_bundled_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pim-tuckett").mkdir()  # the export folder of an earlier run
    assert read_card("pim-tuckett") == find_bundled("pim-tuckett") == read_card(CHARACTERS / "pim-tuckett.json")
    (tmp_path / "edith-crowle").write_bytes(v2())
    assert read_card("edith-crowle").name == "Ann Lee"  # a file wins


@pytest.mark.parametrize("slug", ["nobody", "../characters/pim-tuckett", "", "pim-tuckett.json"])
def test_unknown_slug_lists_the_known_ones(slug: str) -> None:
    with pytest.raises(UserError, match="there are amos-redfern, bodo-grumm"):
        find_bundled(slug)

"""Personas of the player: kept by name for all characters, and fields that follow the choice."""

from pathlib import Path

import pytest

from engine.base.errors import UserError
from studio.services import Services
from studio.settings import Settings
from studio.store import values
from studio.tabs.preview import personas


def test_personas_are_kept_by_name_and_forgotten(tmp_path: Path) -> None:
    store = Services.open(Settings(tmp_path)).store
    assert personas.personas(store) == {}
    assert personas.keep(store, " Ann  Lee ", " A thief. ") == "Ann Lee"
    personas.keep(store, "Bo", "")
    personas.keep(store, "Ann Lee", "A judge.")
    assert list(personas.personas(store).items()) == [("Ann Lee", "A judge."), ("Bo", "")]
    personas.forget(store, "Bo")
    personas.forget(store, "nobody")
    assert list(personas.personas(store)) == ["Ann Lee"]
    with pytest.raises(UserError, match="needs a name"):
        personas.keep(store, "  ", "x")


def test_there_is_a_limit_and_damage_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Services.open(Settings(tmp_path)).store
    monkeypatch.setattr(personas, "MOST", 1)
    personas.keep(store, "Ann", "x")
    personas.keep(store, "Ann", "y")
    with pytest.raises(UserError, match="1 personas already"):
        personas.keep(store, "Bo", "x")
    values.set_value(store, personas.KEY, {"not": "a list"})
    assert personas.personas(store) == {}

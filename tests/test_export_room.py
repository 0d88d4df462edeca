"""The Export room without a browser: what it shows when one comes back, which job it tells about, how a zip is served."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from store_samples import card

from studio.page import Page
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, exports, runs
from studio.tabs import export


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    settings = Settings(tmp_path / "home")
    settings.home.mkdir()
    found = Services.open(settings)
    yield found
    found.close()


@pytest.fixture
def person(services: Services) -> str:
    return characters.create(services.store, card("Zoë")).id


def finished(services: Services, person: str, name: str) -> runs.Run:
    run = runs.add(services.store, person, 1, "prune", name, {"model": "starter", "sparsity": 0.25})
    return runs.update(services.store, run.id, state="done")


def shown(services: Services, person: str, chosen: str = "") -> dict[Any, Any]:
    """What the room shows, by component."""
    with gr.Blocks():
        room = export.Room()
    updates = export.show_character(services, person, chosen)
    names = {component: name for name, component in vars(room).items()}
    return {names[component]: update for component, update in zip(room.of_character, updates, strict=True)}


def test_the_chosen_model_and_its_name_stay_when_one_comes_back(services: Services, person: str) -> None:
    first, second = finished(services, person, "First"), finished(services, person, "Second")
    opened = shown(services, person)
    assert (opened["run"].value, opened["name"], opened["chosen"]) == (second.id, "zoe-25", second.id)
    back = shown(services, person, first.id)
    assert (back["run"].value, back["chosen"]) == (first.id, first.id)
    assert back["name"] == gr.skip() and back["report"] == gr.skip()  # what was typed is not overwritten
    other = characters.create(services.store, card("Ann")).id
    assert (shown(services, other, first.id)["run"].value, shown(services, other, first.id)["chosen"]) == (None, "")


def test_of_two_exports_the_one_under_way_is_told_about_and_then_the_other(services: Services, person: str) -> None:
    run = finished(services, person, "First")
    early, late = (runs.add(services.store, person, 1, "export", name, {"run": run.id}) for name in ("Early", "Late"))
    runs.update(services.store, early.id, state="running")
    text, stop, timer, seen, *past = export.read_news(services, person, "")
    assert "Early" in text and stop.visible and timer.active and past == [gr.skip()] * 4
    exports.add(services.store, run.id, "Early", "/gone", 5, {})
    runs.update(services.store, early.id, state="done")
    text, stop, timer, seen, *past = export.read_news(services, person, seen)
    assert "Late" in text and stop.visible and timer.active and len(past[0].choices) == 1  # the first is in the list now
    runs.update(services.store, late.id, state="stopped")
    text, stop, timer, *_ = export.read_news(services, person, seen)
    assert "Late" in text and not stop.visible and not timer.active


def test_a_zip_is_served_without_a_copy_of_it(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    packed = tmp_path / "zoe-25.zip"
    packed.write_bytes(b"PK")
    name = export.servable(packed)
    assert Path(name).name == "zoe-25.zip" and Path(name).stat().st_ino == packed.stat().st_ino
    assert gr.DownloadButton().move_resource_to_block_cache(name) == name  # as Gradio does before it serves a file
    assert export.servable(packed) == name
    Path(name).unlink()  # as Gradio does with what is old
    assert Path(export.servable(packed)).read_bytes() == b"PK"


def test_every_listener_is_private(services: Services) -> None:
    with gr.Blocks() as blocks:
        page = Page(gr.State(""), gr.State(0), gr.State("starter"))
        with gr.Tabs(), gr.Tab("Export") as tab:
            export.build(services, page, tab)
    assert {one.api_visibility for one in blocks.fns.values()} == {"private"}

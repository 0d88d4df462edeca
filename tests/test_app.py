"""The start of the studio without a browser: who may reach it, what it serves, and what --check finds."""

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

import app
from engine.base.files import write_manifest
from studio.services import Services
from studio.settings import Settings
from studio.store import runs
from studio.store.characters import list_characters
from studio.ui import build_page


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder; what app.py changes of the environment is put back, and no studio is ever really started."""

    def refuse(_: Services) -> Services:
        raise AssertionError("a studio would have been started")

    monkeypatch.setattr(Services, "start", refuse)
    monkeypatch.setenv("PERSONA_STUDIO_HOME", str(tmp_path / "home"))
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_ALLOWED_PATHS", "GRADIO_SHARE"):
        monkeypatch.setenv(name, "False")
    return tmp_path / "home"


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings.of_environment()


@pytest.mark.parametrize("arguments", [["--listen"], ["--listen", "192.168.0.7"], ["--share"]])
def test_nobody_else_gets_in_without_a_password(arguments: list[str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(arguments) == 2
    error = capsys.readouterr().err
    assert error == "Error: A studio that others can reach needs a name and a password. Add --auth NAME:PASSWORD.\n"
    assert not home.exists()  # nothing was begun


@pytest.mark.parametrize("login", ["ann:1234567", "ann", ":a long password", ""])
def test_a_weak_login_is_refused(login: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--listen", "--auth", login]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "at least 8 characters" in error
    assert not home.exists()


def test_the_password_may_hold_a_colon() -> None:
    assert app._login(app.build_parser().parse_args(["--listen", "--auth", "ann:a:long:one"])) == ("ann", "a:long:one")


def test_a_folder_that_cannot_be_made_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PERSONA_STUDIO_HOME", str(tmp_path / "file"))
    for arguments in ([], ["--check"]):
        assert app.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("Error: ") and error.count("\n") == 1 and str(tmp_path / "file") in error


def test_check_says_what_is_missing(home: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    store = Services.open(settings).store
    assert app.main(["--check"]) == 0
    assert capsys.readouterr().out == f"All is well in {home}.\n"
    run = runs.add(store, list_characters(store)[0].id, 1, "prune", "A quarter less", {"sparsity": 0.25})
    model = settings.run_folder(run.id) / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_text("{}")
    write_manifest(model)
    runs.update(store, run.id, state="done", out=str(model))
    assert app.main(["--check"]) == 0
    capsys.readouterr()
    (model / "model.safetensors").unlink()
    (model / "config.json").write_text("[]")
    assert app.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "'A quarter less'" in said and "model.safetensors is missing" in said and "config.json was changed" in said
    assert said.count("\n") == 2


def test_the_page_serves_nothing_but_itself(settings: Settings, home: Path) -> None:
    services = Services.open(settings)
    launch = app._launch_settings(app.build_parser().parse_args([]), services, None)
    assert launch["server_name"] == "127.0.0.1" and launch["share"] is False and launch["auth"] is None
    assert launch["allowed_paths"] == [] and launch["blocked_paths"] == [str(home)]
    assert launch["strict_cors"] is True and launch["show_error"] is False and launch["max_file_size"] == "256mb"
    assert launch["enable_monitoring"] is False and launch["mcp_server"] is False
    login = ("ann", "a long one")
    others = app._launch_settings(app.build_parser().parse_args(["--listen"]), services, login)
    assert others["server_name"] == "0.0.0.0" and others["auth"] == login and others["share"] is False


def test_a_studio_that_nobody_uses_does_not_look_at_its_queue_a_thousand_times_a_second() -> None:
    with gr.Blocks() as blocks:
        pass
    blocks.queue()
    before = vars(blocks._queue)
    app._calm_queue(blocks)
    for name in ("sleep_when_free", "progress_update_sleep_when_free"):  # Gradio's own names for it
        assert before[name] < vars(blocks._queue)[name] >= app.QUEUE_SECONDS


def test_listeners_are_private_and_mark_no_component_as_pending(settings: Settings) -> None:
    blocks = build_page(Services.open(settings))
    listeners: list[dict[str, Any]] = blocks.get_config_file()["dependencies"]
    assert len(listeners) > 100
    assert [one["targets"] for one in listeners if one["api_visibility"] != "private"] == []
    marking = [one["targets"] for one in listeners if one["backend_fn"] and one["show_progress_on"] != []]
    assert marking == []  # each would slow all events of the page, see page.PRIVATE
    assert blocks.get_api_info()["named_endpoints"] == {}

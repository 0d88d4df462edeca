"""The start of the studio without a browser: who may reach it, what it serves, and what --check finds."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from engine.base.errors import UserError
from engine.base.files import write_manifest
from studio import launch
from studio.services import Services
from studio.settings import Settings
from studio.store import runs
from studio.store.characters import list_characters
from studio.ui import build_page


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder; what the launch changes of the environment is put back, and no studio is ever really started."""

    def refuse(_: Services) -> Services:
        raise AssertionError("a studio would have been started")

    monkeypatch.setattr(Services, "start", refuse)
    monkeypatch.setenv("PERSONA_STUDIO_HOME", str(tmp_path / "home"))
    before, umask = dict(os.environ), os.umask(0o022)
    yield tmp_path / "home"
    os.umask(umask)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings.of_environment()


@pytest.mark.parametrize("arguments", [["--listen"], ["--listen", "192.168.0.7"], ["--share"]])
def test_nobody_else_gets_in_without_a_password(arguments: list[str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(arguments) == 2
    error = capsys.readouterr().err
    assert error == ("Error: A studio that others can reach needs a name and a password. "
                     "Write NAME:PASSWORD into a file and add --auth-file FILE.\n")
    assert not home.exists()  # nothing was begun


@pytest.mark.parametrize("login", ["ann:1234567", "ann", ":a long password", ""])
def test_a_weak_login_is_refused(login: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--listen", "--auth", login]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "at least 8 characters" in error
    assert not home.exists()


def test_the_password_may_hold_a_colon() -> None:
    assert launch._login(launch.build_parser().parse_args(["--listen", "--auth", "ann:a:long:one"])) == ("ann", "a:long:one")


def test_a_password_on_the_command_line_and_a_network_that_can_be_listened_to_are_reported(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert launch._login(launch.build_parser().parse_args(arguments)) == ("ann", "a long one")
        return capsys.readouterr().err

    file = tmp_path / "login"
    file.write_text("ann:a long one\n")
    file.chmod(0o600)
    assert said("--auth-file", str(file)) == ""
    assert "list of processes" in said("--auth", "ann:a long one")
    for address in ([], ["0.0.0.0"], ["192.168.0.7"], ["::"]):
        assert said("--auth-file", str(file), "--listen", *address).startswith("Note: over plain HTTP")
    assert said("--auth-file", str(file), "--listen", "127.0.0.1") == said("--auth-file", str(file), "--listen", "::1") == ""
    file.chmod(0o644)
    assert "chmod 600" in said("--auth-file", str(file))
    monkeypatch.setenv("PERSONA_STUDIO_AUTH", "ann:a long one")
    assert said() == "" and "PERSONA_STUDIO_AUTH" not in os.environ


def test_one_source_of_the_password_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch.main(["--auth", "ann:a long one", "--auth-file", "x"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    (["--listen", "203.0.113.7"], "no address '203.0.113.7'"), (["--listen", "no such name"], "no address"),
    (["--listen", "x" * 300], "no address")])
def test_an_address_that_is_none_is_reported_at_once(arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PERSONA_STUDIO_AUTH", "ann:a long one")
    assert launch.main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: ") and words in error


@pytest.mark.parametrize("arguments", [*(["--port", port] for port in ("0", "65536", "-1", "x")),
                                       *(["--name", name] for name in ("http://studio.example", "studio.example/", ""))])
def test_odd_ports_and_names_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch.main(arguments)
    assert f"argument {arguments[0]}: " in capsys.readouterr().err


def test_a_port_in_use_gets_one_sentence() -> None:
    with socket.socket() as taken, gr.Blocks() as blocks:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="in use") as caught:
            launch._launch(blocks, {"server_name": "127.0.0.1", "server_port": taken.getsockname()[1], "prevent_thread_lock": True})
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_gets_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PERSONA_STUDIO_HOME", str(tmp_path / "file"))
    for arguments in ([], ["--check"]):
        assert launch.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("Error: ") and error.count("\n") == 1 and str(tmp_path / "file") in error


def test_check_says_what_is_missing(home: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    store = Services.open(settings).store
    assert launch.main(["--check"]) == 0
    assert capsys.readouterr().out == f"All is well in {home}.\n"
    run = runs.add(store, list_characters(store)[0].id, 1, "prune", "A quarter less", {"sparsity": 0.25})
    model = settings.run_folder(run.id) / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_text("{}")
    write_manifest(model)
    runs.update(store, run.id, state="done", out=str(model))
    assert launch.main(["--check"]) == 0
    capsys.readouterr()
    (model / "model.safetensors").unlink()
    (model / "config.json").write_text("[]")
    assert launch.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "'A quarter less'" in said and "model.safetensors is missing" in said and "config.json was changed" in said
    assert said.count("\n") == 2


def test_the_page_serves_nothing_but_itself(settings: Settings) -> None:
    services = Services.open(settings)
    given = launch._launch_settings(launch.build_parser().parse_args([]), services, None)
    assert given["server_name"] == "127.0.0.1" and given["share"] is False and given["auth"] is None
    blocked = [Path(path) for path in given["blocked_paths"]]
    assert given["allowed_paths"] == [] and settings.uploads not in blocked
    assert {settings.database, settings.jobs, settings.exports, settings.backups, settings.log} <= set(blocked)
    assert given["strict_cors"] is True and given["show_error"] is False and given["max_file_size"] == "256mb"
    assert given["run_history"] is False and given["enable_monitoring"] is False and given["mcp_server"] is False
    login = ("ann", "a long one")
    others = launch._launch_settings(launch.build_parser().parse_args(["--listen"]), services, login)
    assert others["server_name"] == "0.0.0.0" and others["auth"] == login and others["share"] is False


def test_a_studio_that_nobody_uses_does_not_look_at_its_queue_a_thousand_times_a_second() -> None:
    with gr.Blocks() as blocks:
        pass
    blocks.queue()
    before = vars(blocks._queue)
    launch._calm_queue(blocks)
    for name in ("sleep_when_free", "progress_update_sleep_when_free"):  # Gradio's own names for it
        assert before[name] < vars(blocks._queue)[name] >= launch.QUEUE_SECONDS


def test_listeners_are_private_and_mark_no_component_as_pending(settings: Settings) -> None:
    blocks = build_page(Services.open(settings))
    listeners: list[dict[str, Any]] = blocks.get_config_file()["dependencies"]
    assert len(listeners) > 100
    assert [one["targets"] for one in listeners if one["api_visibility"] != "private"] == []
    marking = [one["targets"] for one in listeners if one["backend_fn"] and one["show_progress_on"] != []]
    assert marking == []  # each would slow all events of the page, see page.PRIVATE
    assert blocks.get_api_info()["named_endpoints"] == {}


def test_no_choice_is_dropped_while_the_one_before_is_worked_on(settings: Settings) -> None:
    """Gradio's default for `input` is "once": what is chosen meanwhile goes nowhere, and the page shows the former choice."""
    blocks = build_page(Services.open(settings))
    listeners: list[dict[str, Any]] = blocks.get_config_file()["dependencies"]
    choices = [one for one in listeners if one["backend_fn"] and any(event == "input" for _, event in one["targets"])]
    assert len(choices) > 20
    assert [one["targets"] for one in choices if one["trigger_mode"] == "once"] == []

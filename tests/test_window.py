"""The window of its own: what pywebview is told, and one sentence where there can be none. A stand-in takes pywebview's
place: the real one needs a screen and half a gigabyte."""

import logging
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from studio import window

ADDRESS = "http://127.0.0.1:7860/"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a pywebview that finds its engine was told."""
    said: dict[str, Any] = {}
    module: Any = types.ModuleType("webview")
    module.settings = {"ALLOW_DOWNLOADS": False}
    module.WebViewException = type("WebViewException", (Exception,), {})
    module.create_window = lambda title, address, **_: said.update(title=title, address=address)
    module.start = lambda **settings: said.update(settings, downloads=module.settings["ALLOW_DOWNLOADS"])
    monkeypatch.setitem(sys.modules, "webview", module)
    monkeypatch.setenv("DISPLAY", ":0")
    return said


def test_the_window_downloads_and_remembers(told: dict[str, Any], tmp_path: Path) -> None:
    assert window.show_window(ADDRESS, tmp_path) == ""
    assert told == {"title": "Persona Studio", "address": ADDRESS, "downloads": True, "private_mode": False,
                    "storage_path": str(tmp_path)}


def test_a_pywebview_without_an_engine_gets_one_sentence(told: dict[str, Any], tmp_path: Path, capsys: Any,
                                                               caplog: pytest.LogCaptureFixture,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["webview"]
    noisy = logging.getLogger("pywebview")
    noisy.addHandler(logging.StreamHandler())

    def fail(**_: Any) -> None:
        noisy.error("GTK cannot be loaded")
        raise module.WebViewException("You must have either QT or GTK")

    monkeypatch.setattr(module, "start", fail)
    sentence = window.show_window(ADDRESS, tmp_path)
    assert "neither GTK nor Qt" in sentence and "pip install" in sentence and "browser" in sentence
    assert capsys.readouterr() == ("", "") and "GTK cannot be loaded" in caplog.text


def test_without_pywebview_or_a_screen_the_browser_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webview", None)
    monkeypatch.setenv("DISPLAY", ":0")
    assert "pip install" in window.show_window(ADDRESS, tmp_path)
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert window.show_window(ADDRESS, tmp_path) == "There is no screen for a window here; use the address in a browser."

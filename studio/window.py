"""A window of its own for the page, by pywebview, which not everybody has; the browser always works.

pywebview finds its engine by itself: WebView2 on Windows, WebKit on a Mac, GTK or Qt elsewhere. Independent of the page.
"""

import logging
import os
import sys
from pathlib import Path

NEEDED = 'pip install "pywebview[qt]"' if sys.platform.startswith("linux") else "pip install pywebview"
log = logging.getLogger(__name__)


def show_window(address: str, folder: Path) -> str:
    """Show the page until the window is closed or Ctrl-C, on the main thread; what the window stores lies in `folder`.

    Returns "", or one sentence that says why there was no window.
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "There is no screen for a window here; use the address in a browser."
    try:
        import webview
    except ImportError:
        return f"There is no pywebview here ({NEEDED}); use the address in a browser."
    _log_quietly()
    webview.settings["ALLOW_DOWNLOADS"] = True  # cards, zip files
    webview.create_window("Persona Studio", address, width=1280, height=860, min_size=(400, 400))
    try:
        webview.start(private_mode=False, storage_path=str(folder))  # what was typed last outlives the window
    except webview.WebViewException:
        log.exception("pywebview has nothing to show a window with")
        return f"pywebview finds neither GTK nor Qt here ({NEEDED}); use the address in a browser."
    return ""


def _log_quietly() -> None:
    """What pywebview says, tracebacks of engines that are not there included, goes to the log."""
    noisy = logging.getLogger("pywebview")
    noisy.handlers.clear()
    noisy.propagate = True

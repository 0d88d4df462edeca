"""Persona Studio in the browser: python app.py

Flags, one studio a data folder, and the launch of the page. Without flags it
listens on this machine only.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.base.errors import UserError

FIRST_PORT = 7860
QUEUE_SECONDS = 0.02  # between two looks of Gradio at its queue; its own millisecond costs a twentieth of a core, all day long
CONTENT_POLICY = "; ".join((
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:", "img-src 'self' data: blob:", "font-src 'self' data:",
    "connect-src 'self' data: blob:", "frame-ancestors 'none'", "form-action 'self'"))


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(prog="python app.py", description="Persona Studio: characters on a fraction of the model.")
    parser.add_argument("--port", type=int, help=f"default: the first free one from {FIRST_PORT}")
    parser.add_argument("--listen", nargs="?", const="0.0.0.0", metavar="ADDRESS", help="also for other machines; needs --auth")
    parser.add_argument("--auth", metavar="NAME:PASSWORD", help="ask for a name and a password")
    parser.add_argument("--share", action="store_true", help="a public link through Gradio's servers; needs --auth")
    parser.add_argument("--window", action="store_true", help="a window of its own (needs pywebview)")
    parser.add_argument("--open", action="store_true", help="open the browser")
    parser.add_argument("--home", metavar="DIR", help="the data folder (default: PERSONA_STUDIO_HOME, else the platform's)")
    parser.add_argument("--check", action="store_true", help="check the library and its files, then end")
    parser.add_argument("--restore", metavar="BACKUP", help="put a backup in the place of the library, then end")
    return parser


def _end_like_ctrl_c(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the studio; returns the exit code."""
    options = build_parser().parse_args(arguments)
    if options.home:
        os.environ["PERSONA_STUDIO_HOME"] = os.path.abspath(options.home)
    try:
        if options.restore:
            return _restore(Path(options.restore))
        return _check() if options.check else _serve(options)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


def _check() -> int:
    from studio.settings import Settings
    from studio.store.check import check
    from studio.store.database import open_store

    settings = Settings.of_environment()
    faults = check(open_store(settings.database), settings.home)
    print("\n".join(faults) if faults else f"All is well in {settings.home}.")
    return 1 if faults else 0


def _restore(backup: Path) -> int:
    from studio.settings import Settings
    from studio.single import only_studio
    from studio.store.database import Store, restore

    settings = Settings.of_environment()
    with only_studio(settings.home):
        kept = restore(Store(settings.database), backup)
    print(f"{backup} is the library now.{f' What was there before is {kept}.' if kept else ''}")
    return 0


def _login(options: argparse.Namespace) -> tuple[str, str] | None:
    """The name and the password, where one is asked for. Raises UserError when one is needed and missing."""
    if options.auth is None:
        if options.listen or options.share:
            raise UserError("A studio that others can reach needs a name and a password.", "Add --auth NAME:PASSWORD.")
        return None
    name, _, password = options.auth.partition(":")
    if not name or len(password) < 8:
        raise UserError("--auth wants NAME:PASSWORD, with a password of at least 8 characters.")
    return name, password


def _serve(options: argparse.Namespace) -> int:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.pop("GRADIO_ALLOWED_PATHS", None)  # the page serves nothing but itself
    os.environ.pop("GRADIO_SHARE", None)
    login = _login(options)
    from studio.settings import Settings
    from studio.single import only_studio

    settings = Settings.of_environment()
    logging.basicConfig(filename=settings.log, level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with only_studio(settings.home):
        from studio.services import Services
        from studio.ui import build_page

        services = Services.open(settings).start()
        try:
            blocks = build_page(services)
            _calm_queue(blocks)
            _, address, _ = blocks.launch(**_launch_settings(options, services, login))
            print(f"Persona Studio is open at {address}  (Ctrl-C ends it; jobs can be resumed)", flush=True)
            _wait(options, address, settings.home / "window")
        finally:
            services.close()
    return 0


def _calm_queue(blocks: Any) -> None:
    """Gradio's queue, which looks for work by itself: seldom enough to cost nothing while there is none."""
    blocks.queue(max_size=128, default_concurrency_limit=16)
    blocks._queue.sleep_when_free = QUEUE_SECONDS
    blocks._queue.progress_update_sleep_when_free = 10 * QUEUE_SECONDS  # of bars that the studio does not use


def _launch_settings(options: argparse.Namespace, services: Any, login: tuple[str, str] | None) -> dict[str, Any]:
    from starlette.middleware import Middleware

    from studio.headers import SafeHeaders
    from studio.news import NewsRoute
    from studio.theme import ICON, make_theme, script, styles

    return {"server_name": options.listen or "127.0.0.1", "server_port": options.port, "share": options.share, "auth": login,
            "inbrowser": options.open, "prevent_thread_lock": True, "quiet": True, "show_error": False, "max_file_size": "256mb",
            "allowed_paths": [], "blocked_paths": [str(services.settings.home)], "strict_cors": True, "pwa": True,
            "ssr_mode": False, "enable_monitoring": False, "mcp_server": False, "footer_links": [], "favicon_path": ICON,
            "theme": make_theme(), "css": styles(), "head": script(), "app_kwargs": {"middleware": [
                Middleware(SafeHeaders, policy=CONTENT_POLICY), Middleware(NewsRoute, news=services.news)]}}


def _wait(options: argparse.Namespace, address: str, window_folder: Path) -> None:
    """Until Ctrl-C, or until the native window is closed."""
    if options.window:
        from studio.window import show_window

        if not (sentence := show_window(address, window_folder)):
            return
        print(sentence, flush=True)
    # Also where a shell started it in the background, with Ctrl-C ignored; a service manager sends SIGTERM.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_like_ctrl_c)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        logging.getLogger("studio").info("ended by Ctrl-C")


if __name__ == "__main__":
    sys.exit(main())

"""The start of the studio: flags, one studio per data folder, and the launch of the page.

Without flags it listens on this machine only.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from studio.border import parse
from studio.login import MESSAGE, VARIABLE, credentials, is_here, readable_by_others

FIRST_PORT = 7860
QUEUE_SECONDS = 0.02  # between two looks of Gradio at its queue; its own millisecond costs a twentieth of a core, all day long
CONTENT_POLICY = "; ".join((
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:", "img-src 'self' data: blob:", "font-src 'self' data:",
    "connect-src 'self' data: blob:", "frame-ancestors 'none'", "form-action 'self'"))


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(prog=_program(), description="Persona Studio: characters on a fraction of the model.")
    parser.add_argument("--port", type=_port, help=f"default: the first free one from {FIRST_PORT}")
    parser.add_argument("--listen", nargs="?", const="0.0.0.0", metavar="ADDRESS", help="also for other machines; needs a password")
    parser.add_argument("--name", action="append", default=[], type=_name, metavar="NAME[:PORT]",
                        help="another name by which browsers reach it, such as a proxy's; may be repeated")
    parser.add_argument("--share", action="store_true", help="a public link through Gradio's servers; needs a password")
    password = parser.add_mutually_exclusive_group()
    password.add_argument("--auth-file", metavar="FILE", help="ask for a name and a password: one line in this file, NAME:PASSWORD")
    password.add_argument("--auth", metavar="NAME:PASSWORD",
                          help=f"the same on the command line, where others can read it; the variable {VARIABLE} does it, too")
    parser.add_argument("--window", action="store_true", help="a window of its own (needs pywebview)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--home", metavar="DIR", help="the data folder (default: PERSONA_STUDIO_HOME, else the platform's)")
    parser.add_argument("--check", action="store_true", help="check the library and its files, then exit")
    parser.add_argument("--restore", metavar="BACKUP", help="replace the library by a backup, then exit")
    return parser


def _program() -> str:
    """How the user started it: the installed command, or the file."""
    name = Path(sys.argv[0]).stem
    return name if name == "persona-studio" else "python app.py"


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65_536:
        raise argparse.ArgumentTypeError("a port is a number from 1 to 65535")
    return port


def _name(text: str) -> str:
    if parse(text) is None:
        raise argparse.ArgumentTypeError("a name is written as NAME or NAME:PORT, without http://")
    return text


def _end_like_ctrl_c(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the studio; returns the exit code."""
    options = build_parser().parse_args(arguments)
    os.umask(0o077)  # what the studio and its workers write is its owner's alone
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
    from studio.store.database import check, open_store

    settings = Settings.of_environment()
    faults = check(open_store(settings.database), settings.home)
    print("\n".join(faults) if faults else f"All is well in {settings.home}.")
    return 1 if faults else 0


def _restore(backup: Path) -> int:
    from studio.privacy import only_studio
    from studio.settings import Settings
    from studio.store.database import Store, restore

    settings = Settings.of_environment()
    with only_studio(settings.home):
        kept = restore(Store(settings.database), backup)
    print(f"{backup} is the library now.{f' The former library is kept as {kept}.' if kept else ''}")
    return 0


def _login(options: argparse.Namespace) -> tuple[str, str] | None:
    """The name and the password, where one is asked for. Raises UserError when one is needed and missing."""
    login = credentials(options.auth, options.auth_file, os.environ)
    if login is None and (options.listen or options.share):
        raise UserError("A studio that others can reach needs a name and a password.",
                        "Write NAME:PASSWORD into a file and add --auth-file FILE.")
    if options.auth is not None:
        _warn(f"the password can be read in the list of processes. Better: --auth-file FILE, or the variable {VARIABLE}.")
    if login and readable_by_others(options.auth_file):
        _warn(f"other users of this machine can read {options.auth_file}. Better: chmod 600 {options.auth_file}")
    if login and options.listen and not is_here(options.listen):
        _warn("over plain HTTP, others on the network can read the password and the login cookie. Use a network that you "
              "trust, or put a proxy with HTTPS in front.")
    return login


def _warn(sentence: str) -> None:
    print(f"Note: {sentence}", file=sys.stderr, flush=True)


def _require_address(listen: str) -> None:
    """Raise UserError unless this machine can listen on the address; Gradio would try a hundred ports, for minutes."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(listen.strip("[]"), 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(place)
    except (OSError, UnicodeError) as error:
        raise UserError(f"This machine has no address {listen!r} to listen on.",
                        "Use --listen alone for all of its addresses.") from error


def _serve(options: argparse.Namespace) -> int:
    login = _login(options)
    if options.listen:
        _require_address(options.listen)
    from studio.environment import prepare
    from studio.privacy import keep_private, only_studio
    from studio.settings import Settings
    from studio.uploads import empty

    settings = Settings.of_environment()
    prepare(settings.uploads, options.listen)
    with only_studio(settings.home):
        if sentence := keep_private(settings):
            _warn(sentence)
        logging.basicConfig(filename=settings.log, level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        empty(settings.uploads)
        _open(options, settings, login)
    return 0


def _open(options: argparse.Namespace, settings: Any, login: tuple[str, str] | None) -> None:
    """Show the page until the end."""
    print("Persona Studio is starting…", flush=True)  # loading its libraries takes seconds
    from studio.services import Services
    from studio.ui import build_page

    services = Services.open(settings).start()
    try:
        blocks = build_page(services)
        _calm_queue(blocks)
        application, address, shared = _launch(blocks, _launch_settings(options, services, login))
        blocks.config["connect_heartbeat"] = False  # it would keep one of a browser's six connections for each open page
        application.opened(shared)
        print(f"Persona Studio is open at {address}  (Ctrl-C ends it; jobs can be resumed)", flush=True)
        if options.listen and not is_here(options.listen):
            print(f"From other machines: the same port at this machine's IP address, or at {socket.gethostname()}", flush=True)
        _wait(options, address, settings.home / "window")
    finally:
        services.close()


def _calm_queue(blocks: Any) -> None:
    """Gradio's queue, which looks for work by itself: seldom enough to cost nothing while there is none."""
    blocks.queue(max_size=128, default_concurrency_limit=16)
    blocks._queue.sleep_when_free = QUEUE_SECONDS
    blocks._queue.progress_update_sleep_when_free = 10 * QUEUE_SECONDS  # of bars that the studio does not use


def _launch(blocks: Any, settings: dict[str, Any]) -> Any:
    """The application, its address and its public one. Raises UserError when the port or the address is not to be had."""
    try:
        return blocks.launch(**settings)
    except OSError as error:
        if error.errno is not None:  # Gradio's own error, after its last port, has none
            raise
        raise UserError(f"The studio cannot listen on {settings['server_name']}, port {settings['server_port'] or FIRST_PORT}: "
                        "it is in use, or not allowed.", "Choose another --port or --listen.") from error


def _launch_settings(options: argparse.Namespace, services: Any, login: tuple[str, str] | None) -> dict[str, Any]:
    from studio.application import Application
    from studio.border import Names
    from studio.theme import ICON, make_theme, script, styles

    names = Names(options.listen, options.name)
    settings = services.settings
    return {"server_name": _server_name(options.listen), "server_port": options.port, "share": options.share, "auth": login,
            "auth_message": MESSAGE, "state_session_capacity": 500,
            "inbrowser": options.open, "prevent_thread_lock": True, "quiet": True, "show_error": False,
            "max_file_size": "256mb", "allowed_paths": [], "blocked_paths": [str(path) for path in settings.private],
            "strict_cors": True, "pwa": True, "ssr_mode": False, "enable_monitoring": False, "mcp_server": False,
            "run_history": False, "footer_links": [], "favicon_path": ICON, "theme": make_theme(), "css": styles(),
            "head": script(), "_app": Application(names, settings.uploads, services.live, CONTENT_POLICY,
                                                  services.export_folder)}


def _server_name(listen: str | None) -> str:
    """As Gradio wants an address to listen on: an IPv6 address in brackets."""
    if listen is None:
        return "127.0.0.1"
    return f"[{listen}]" if ":" in listen and not listen.startswith("[") else listen


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


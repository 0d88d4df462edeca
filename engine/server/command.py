"""The verb `serve`: what it prints, how it starts and ends."""

import _thread
import argparse
import asyncio
import contextlib
import json
import logging
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn, TextIO

import uvicorn
from fastapi import FastAPI

from engine.base import events
from engine.base.errors import UserError
from engine.base.ids import ErrorCode
from engine.cluster.connection import check_ray
from engine.running import JsonPrinter, ProgressPrinter, print_table
from engine.server.app import create_app
from engine.server.cast import Cast, read_cast
from engine.server.preparing import Plan, plan, prepare
from engine.server.protocol import HEADERS_BYTES, LimitedProtocol
from engine.server.settings import LOOPBACK, Scale, Settings, scale_of, settings_of
from engine.server.speakers import Speakers

GRACE = 4.0  # seconds that replies under way have when the server ends
_QUIET = ("httpx", "httpcore", "uvicorn")


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C; the exit code. For programs (--json), what keeps it from serving is an event, too."""
    try:
        return _serve(options)
    except UserError as error:
        if options.json:
            JsonPrinter().show(events.Failed(error.sentence, error.hint, error.code))
        raise


def _serve(options: argparse.Namespace) -> int:
    settings, scale = settings_of(options), scale_of(options)
    cast = read_cast(options.sources, options.model, options.type)
    if scale.ray:
        check_ray(scale.ray)
    if options.check:
        return _check(plan(cast, settings), options.json)
    with _listen(options.host, options.port) as listener, contextlib.suppress(KeyboardInterrupt):
        if options.leash:
            threading.Thread(target=_hold, daemon=True).start()
        printer = JsonPrinter() if options.json else ProgressPrinter()
        with printer:
            cast = asyncio.run(prepare(cast, printer.show))
        _require_one(cast)
        _log(cast)
        output = sys.stdout  # while Ray runs, what is printed goes to standard error
        with _speakers(cast, settings, scale, listener.getsockname()[1]) as speakers:
            server = _Server(create_app(cast, settings, speakers), cast, options, listener, output)
            signal.signal(signal.SIGTERM, _interrupt)  # not before: Ray sets its own
            server.run(sockets=[listener])
    return 0


@contextlib.contextmanager
def _speakers(cast: Cast, settings: Settings, scale: Scale, port: int) -> Iterator[Speakers | None]:
    """The replicas that speak; None where this process does."""
    if not scale.ray:
        yield None
        return
    from engine.cluster.speakers import replicas

    with replicas(cast, settings, scale, f"persona-{port}") as speakers:
        yield speakers


def _hold() -> None:
    """End as by Ctrl-C when standard input ends, whatever is under way."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    _thread.interrupt_main()


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _listen(host: str, port: int) -> socket.socket:
    """A socket of the address. Raises UserError where it is taken, or not this machine's."""
    if not 0 <= port <= 65_535:  # the system would take the remainder
        raise UserError(f"The port must be a number from 0 to 65535; {port} is not.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere it would let two servers share a port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"The server cannot listen at {host}:{port} ({reason}).",
                        "Choose another --port (0: a free one) or --host.",
                        ErrorCode.PORT) from error


def _require_one(cast: Cast) -> None:
    """Raise UserError where no character can speak."""
    faults = [f"{one.id}: {one.fault}" for one in cast if one.fault]
    if len(faults) == len(cast):
        raise UserError(faults[0] if len(faults) == 1 else f"No character can speak. {faults[0]}", "See --check.")


def _log(cast: Cast) -> None:
    """Begin the log, on standard error, with what cannot speak."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for one in cast:
        if one.fault:
            logging.warning("%s: %s", one.id, one.fault)


class _Server(uvicorn.Server):
    """uvicorn, which says where it listens, and gives replies under way GRACE seconds when it ends."""

    def __init__(self, app: FastAPI, cast: Cast, options: argparse.Namespace, listener: socket.socket,
                 output: TextIO) -> None:
        self.app, self.output = app, output
        self.cast, self.options, self.listener = cast, options, listener
        super().__init__(uvicorn.Config(self.app, http=LimitedProtocol, h11_max_incomplete_event_size=HEADERS_BYTES,
                                        log_config=None, access_log=False, ws="none", server_header=False,
                                        timeout_keep_alive=75, timeout_graceful_shutdown=int(GRACE) + 2))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and print the address."""
        await super().startup(sockets)
        if self.started:
            with contextlib.redirect_stdout(self.output):
                self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        asyncio.get_running_loop().call_later(GRACE, self.app.state.service.closed.set)
        await super().shutdown(sockets)

    def _announce(self) -> None:
        host, port = self.options.host, self.listener.getsockname()[1]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
        ids = [one.id for one in self.cast if not one.fault]
        if self.options.json:
            faults = {one.id: one.fault for one in self.cast if one.fault}
            print(json.dumps({"event": "Serving", "address": address, "port": port, "pid": os.getpid(), "characters": ids,
                              "faults": faults}, ensure_ascii=False), flush=True)
            return
        body = json.dumps({"model": ids[0], "messages": [{"role": "user", "content": "Who are you?"}]})
        key = f' -H "Authorization: Bearer ${self.options.api_key_env}"' if self.options.api_key_env else ""
        who = ", ".join(ids[:12]) + (f" and {len(ids) - 12} more" if len(ids) > 12 else "")
        print(f"{who} at {address}/v1 (Ctrl-C ends it). Try:\n\n"
              f"  curl {address}/v1/chat/completions -H 'Content-Type: application/json'{key} \\\n    -d {shlex.quote(body)}\n",
              flush=True)
        if host not in LOOPBACK:
            print("Others can reach it: put a proxy with https before it, or the key can be read on the way.", flush=True)


def _check(found: Plan, as_json: bool) -> int:
    """Print what would be served. Raises UserError where something is wrong."""
    if as_json:
        print(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
    else:
        print_table("What would be served", ["character", "source", "model file", "type", "state"],
                    [[one.id, one.source, one.file or "-", one.type or "-", one.state] for one in found.rows])
        for model in found.models:
            print(f"{model.file}: {model.bytes / 1e6:,.0f} MB of weights, {model.slot_bytes / 1e6:,.0f} MB for each of "
                  f"{found.parallel} replies at a time, {model.cache_bytes / 1e6:,.0f} MB for conversations not under way, "
                  f"{model.working_bytes / 1e6:,.0f} MB to compute")
        print(f"In memory at most: {found.bytes / 1e6:,.0f} MB; free now: {found.free / 1e6:,.0f} MB.")
    faults = [f"{one.id}: {one.fault}" for one in found.rows if one.fault]
    if faults:
        raise UserError(" ".join(faults))
    return 0

"""A teacher for tests: an HTTP server on the loopback that answers chat completions, or misbehaves as told.

`faults` is a script: a function from the number of the request (from 0) to the name of a fault, or None for a proper
answer. It knows nothing of language: it answers with the question in capitals. As a judge it gives the log-probabilities
that `alternatives` makes of the whole message.
"""

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Faults = Callable[[int], str | None]
Alternatives = Callable[[str], dict[str, float]]  # message -> probability by token


class TeacherServer(ThreadingHTTPServer):
    """Counts what it is asked. `reply` makes the content of an answer from the question."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, faults: Faults, slow: float, reply: Callable[[str], Any], alternatives: Alternatives | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults, self.slow, self.reply, self.alternatives = faults, slow, reply, alternatives
        self.asked: list[str] = []  # every question, in the order of arrival
        self.answered: list[str] = []  # those that got a proper answer
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.times: list[float] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Without the closing /v1."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: TeacherServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a reply is two writes, and the second would wait for 40 ms

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = re.search(r"The player said:\n(.*?)\n\n", body["messages"][-1]["content"], re.DOTALL)
        question = found.group(1) if found else ""
        with self.server.lock:
            number = len(self.server.asked)
            self.server.asked.append(question)
            self.server.times.append(time.monotonic())
            self.server.bodies.append({**body, "path": self.path})
            self.server.keys.add(self.headers["Authorization"].removeprefix("Bearer "))
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            if self.server.slow:
                time.sleep(self.server.slow)
            self._answer(self.server.faults(number), question, body["messages"][-1]["content"])
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def _answer(self, fault: str | None, question: str, message: str) -> None:
        key = self.headers["Authorization"].removeprefix("Bearer ")
        match fault:
            case None | "other model":
                said = {"role": "assistant", "content": self.server.reply(question)}
                choices: list[dict[str, Any]] = [{"index": 0, "message": said, "finish_reason": "stop"}]
                if self.server.alternatives:
                    choices[0]["logprobs"] = _logprobs(self.server.alternatives(message))
                self.server.answered.append(question)
                self._send(200, {"id": "1", "object": "chat.completion", "model": fault or "m", "choices": choices})
            case "drop":
                self.close_connection = True
                self.connection.close()
            case "html":
                self._send(200, "<html><body>Welcome to the router</body></html>", kind="text/html")
            case "broken json":
                self._send(200, '{"choices": [', kind="application/json")
            case "no choices":
                self._send(200, {"id": "1", "object": "chat.completion"})
            case "list":
                self._send(200, [1, 2])
            case "hang":
                time.sleep(30)
            case fault if fault.startswith("429 after"):
                self._send(429, _error("slow down", key), {"Retry-After": fault.split()[-1]})
            case "no quota":
                self._send(429, {"error": {"message": "You exceeded your quota.", "code": "insufficient_quota"}})
            case _:
                self._send(int(fault), _error(f"This is status {fault}.", key))

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None,
              kind: str = "application/json") -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


def _error(sentence: str, key: str) -> dict[str, Any]:
    """An error as careless servers write it: with the key in it."""
    return {"error": {"message": f"{sentence} Your key was {key}.", "type": "error", "code": None}}


def _logprobs(probabilities: dict[str, float]) -> dict[str, Any]:
    """As OpenAI writes them, the likeliest first."""
    ordered = sorted(probabilities.items(), key=lambda one: -one[1])
    top = [{"token": token, "logprob": math.log(share), "bytes": None} for token, share in ordered]
    return {"content": [{**top[0], "top_logprobs": top}] if top else [], "refusal": None}


@contextmanager
def teacher_server(faults: Faults | None = None, slow: float = 0.0, reply: Callable[[str], Any] = str.upper,
                   alternatives: Alternatives | None = None) -> Iterator[TeacherServer]:
    """A running server; `slow` is the seconds that each reply takes."""
    server = TeacherServer(faults or (lambda number: None), slow, reply, alternatives)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

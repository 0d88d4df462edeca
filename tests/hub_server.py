"""A small server on loopback that speaks as much of the model hub's HTTP as a download needs.

It serves folders as repositories, each with one commit. It knows no tokens, no branches and no large-file storage.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Repositories by owner/name; names of gated ones; the paths of files whose bytes were asked for."""

    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    delivered: list[str] = field(default_factory=list)
    withheld: set[str] = field(default_factory=set)  # names of files that are listed and then not delivered
    address: str = ""

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, name: str) -> str:
        """The one commit of a repository, 40 hexadecimal digits."""
        return hashlib.sha1(name.encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        api = parts[:2] == ["api", "models"]
        parts = parts[2:] if api else parts
        name, rest = "/".join(parts[:2]), parts[2:]
        if name not in self.served.repositories:
            return self._refuse(404, "RepoNotFound")
        if name in self.served.gated:
            return self._refuse(403, "GatedRepo")
        folder, commit = self.served.repositories[name], self.served.commit(name)
        if api and rest[:1] == ["tree"]:
            files = [{"type": "file", "path": file.relative_to(folder).as_posix(), "size": file.stat().st_size,
                      "oid": _oid(file)} for file in sorted(folder.rglob("*")) if file.is_file()]
            return self._send_json(files)
        if api:
            files = [{"rfilename": file.relative_to(folder).as_posix(), "size": file.stat().st_size}
                     for file in sorted(folder.rglob("*")) if file.is_file()]
            return self._send_json({"id": name, "sha": commit, "siblings": files})
        file = folder.joinpath(*rest[2:])
        if rest[:1] != ["resolve"] or not file.is_file():
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        if file.name in self.served.withheld:
            return self._refuse(403, "Withheld")
        return self._send_file(file, commit, body)

    def _send_file(self, file: Path, commit: str, body: bool) -> None:
        data = file.read_bytes()
        self.send_response(200)
        self._send_headers({"X-Repo-Commit": commit, "ETag": f'"{_oid(file)}"', "Content-Length": str(len(data))})
        if not body:
            return
        self.served.delivered.append(file.name)
        self.wfile.write(data)

    def _send_json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, code: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self._send_headers({"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0", **(more or {})})

    def _send_headers(self, headers: dict[str, str]) -> None:
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()


def _oid(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()

"""Gradio's application behind the border: refused before any of Gradio's middleware, and open to a public link by its name."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from studio.application import Application
from studio.border import Names
from studio.live import Live


@pytest.fixture
def application(tmp_path: Path) -> Application:
    return Application(Names(), tmp_path, Live(), "default-src 'self'", {"one": tmp_path / "export"}.get)


def ask(application: Application, host: str, path: str = "/", method: str = "GET",
        **headers: str) -> tuple[int, dict[bytes, bytes]]:
    """Status and headers of an answer."""
    sent: list[dict[str, Any]] = []
    waiting: list[bool] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        if waiting:
            await asyncio.Event().wait()  # nothing more comes
        waiting.append(True)
        return {"type": "http.request", "body": b""}

    given = [(b"host", host.encode()), *((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())]
    asyncio.run(application({"type": "http", "path": path, "raw_path": path.encode(), "method": method, "query_string": b"",
                             "scheme": "http", "headers": given, "server": ("127.0.0.1", 7860), "client": ("127.0.0.1", 1)},
                            receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])


def test_what_gradio_would_answer_by_itself_is_refused_before(application: Application) -> None:
    for host, origin in (("evil.example:7860", "http://evil.example:7860"), ("127.0.0.1:7860", "http://127.0.0.1:8000")):
        status, headers = ask(application, host, method="OPTIONS", origin=origin, access_control_request_method="POST")
        assert status == 403 and b"access-control-allow-origin" not in headers
        assert headers[b"cross-origin-resource-policy"] == b"same-origin" and b"content-security-policy" in headers
    assert ask(application, "127.0.0.1:7860", "/openapi.json")[0] == 404


def test_a_public_link_is_let_in_by_its_name_once_it_is_there(application: Application) -> None:
    assert ask(application, "abc.gradio.example", "/openapi.json")[0] == 403
    application.opened("https://abc.gradio.example")
    assert ask(application, "abc.gradio.example", "/openapi.json", origin="https://abc.gradio.example")[0] == 404
    assert ask(application, "abc.gradio.example", "/openapi.json", origin="https://def.gradio.example")[0] == 403
    assert ask(application, "def.gradio.example", "/openapi.json")[0] == 403
    assert application.border.open


def test_a_login_is_known_by_its_cookie(application: Application) -> None:
    application.auth, application.tokens = {"ann": "a long one"}, {"good": "ann"}
    for cookie, status in (("", 401), ("good", 401), (f"access-token-{application.cookie_id}=good", 404),
                           (f"access-token-unsecure-{application.cookie_id}=good", 404), ("access-token-other=good", 401),
                           (f"access-token-{application.cookie_id}=bad", 401), (f"access-token-{application.cookie_id}", 401)):
        assert ask(application, "127.0.0.1:7860", "/openapi.json", cookie=cookie)[0] == status, cookie


def test_the_page_of_an_export_is_served_with_its_headers_and_nothing_else_of_the_export(application: Application,
                                                                                         tmp_path: Path) -> None:
    page = tmp_path / "export" / "web"
    (page / "model").mkdir(parents=True)
    (tmp_path / "export" / "report.json").write_text("{}")
    (page / "secret.json").symlink_to(tmp_path / "export" / "report.json")
    for name in ("index.html", "page.js", "model/a.gguf", "README.md"):
        (page / name).write_text("x")
    for name, kind in (("", b"text/html; charset=utf-8"), ("page.js", b"text/javascript; charset=utf-8"),
                       ("model/a.gguf", b"application/octet-stream")):
        status, headers = ask(application, "127.0.0.1:7860", f"/studio/page/one/{name}")
        assert (status, headers[b"content-type"]) == (200, kind)
        assert headers[b"cross-origin-opener-policy"] == b"same-origin"
        assert headers[b"cross-origin-embedder-policy"] == b"require-corp"
    for path in ("one/../report.json", "one/secret.json", "one/README.md", "one/model", "one/nothing.js", "two/", "one/\0.js",
                 "one//etc/passwd", f"one/{'a' * 5000}.js"):
        assert ask(application, "127.0.0.1:7860", f"/studio/page/{path}")[0] == 404, path
    assert ask(application, "evil.example:7860", "/studio/page/one/")[0] == 403
    application.auth, application.tokens = {"ann": "a long one"}, {}
    assert ask(application, "127.0.0.1:7860", "/studio/page/one/")[0] == 401

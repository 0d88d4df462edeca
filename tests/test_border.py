"""What the border lets in: by name, by origin, by login. Each refusal is one sentence, and nothing behind it hears of it."""

import asyncio
from typing import Any

import pytest

from studio.border import FOREIGN, NOT_LOGGED_IN, WRONG_NAME, Border, Names

HOST = "127.0.0.1:7860"
OWN = f"http://{HOST}"


async def nobody(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("passed on")


def refusal(headers: dict[str, str] | list[tuple[str, str]], path: str = "/config", method: str = "GET", logged_in: bool = True,
            names: Names | None = None) -> tuple[int, str] | None:
    """What the border says to a request; a Host of its own unless `headers` hold one."""
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    pairs = pairs if any(name == "host" for name, _ in pairs) else [("host", HOST), *pairs]
    scope = {"type": "http", "path": path, "method": method, "server": ("127.0.0.1", 7860),
             "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs]}
    return Border(nobody, names or Names(), lambda scope: logged_in).refusal(scope)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/queue/join", "/studio/news", "http://127.0.0.1:7860/config"])
def test_a_name_that_was_rebound_to_this_machine_is_refused(path: str, method: str) -> None:
    assert refusal({"host": "evil.example:7860", "sec-fetch-site": "same-origin"}, path, method) == WRONG_NAME
    assert refusal({"host": "evil.example:7860", "origin": "http://evil.example:7860"}, path, method) == WRONG_NAME


def test_a_request_names_one_host_and_no_other_way() -> None:
    assert refusal({}) is None
    assert refusal([("host", HOST), ("host", "evil.example:7860")]) == refusal([("host", HOST), ("host", HOST)]) == WRONG_NAME
    scope = {"type": "http", "path": "/", "method": "GET", "server": ("127.0.0.1", 7860), "headers": []}
    assert Border(nobody, Names(), lambda scope: True).refusal(scope) == WRONG_NAME
    for forwarded in ("evil.example", f"evil.example, {HOST}", f"{HOST}, evil.example", ""):
        assert refusal({"x-forwarded-host": forwarded}) == WRONG_NAME
    assert refusal({"x-forwarded-host": HOST}) is None
    assert refusal({"x-gradio-server": "http://evil.example"}) == WRONG_NAME


def test_a_proxy_before_the_studio_may_have_a_name_that_was_allowed() -> None:
    names = Names(others=["studio.example"])
    assert refusal({"host": "studio.example", "origin": "https://studio.example"}, method="POST", names=names) is None
    assert refusal({"x-forwarded-host": "studio.example", "origin": "https://studio.example"}, method="POST", names=names) is None
    assert refusal({"x-forwarded-host": "studio.example", "origin": "https://other.example"}, method="POST", names=names) == FOREIGN


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:8000", "http://localhost:7860", "null", "file://", "",
                                    "http://127.0.0.1", "http://evil.example:7860"])
@pytest.mark.parametrize("path", ["/gradio_api/upload",
                 "/gradio_api/queue/join", "/login", "/"])
def test_pages_elsewhere_change_and_upload_nothing(path: str, origin: str) -> None:
    assert refusal({"origin": origin}, path, "POST") == FOREIGN
    assert refusal({"origin": origin}, path, "GET") == FOREIGN  # nor do they read
    assert refusal([("origin", OWN), ("origin", origin)], path, "POST") == FOREIGN
    assert refusal({"origin": OWN}, path, "POST") is None


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "something new"])
def test_what_a_browser_says_to_come_from_elsewhere_is_refused(site: str) -> None:
    for path in ("/config", "/gradio_api/queue/data", "/logout", "/gradio_api/deep_link", "/"):
        for mode, dest in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("no-cors", "script")):
            asked = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
            assert refusal(asked, path) == FOREIGN
    form = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert refusal(form, "/", "POST") == FOREIGN
    assert refusal(form, "/logout") == refusal(form, "/gradio_api/file=x") == refusal(form, "/config") == FOREIGN


def test_a_link_elsewhere_opens_the_page() -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document", "sec-fetch-user": "?1"}
    assert refusal(link, "/") is None
    assert refusal({**link, "origin": "http://evil.example"}, "/") == FOREIGN
    for site in ("none", "same-origin"):
        assert refusal({"sec-fetch-site": site, "sec-fetch-mode": "cors"}) is None


def test_who_has_not_logged_in_gets_the_page_that_asks_and_nothing_else() -> None:
    for path in ("/", "/login", "/assets/index.js", "/static/img/logo.svg", "/favicon.ico", "/manifest.json", "/theme.css",
                 "/pwa_icon/64"):
        assert refusal({}, path, logged_in=False) is None, path
    for path in ("/config", "/openapi.json", "/gradio_api/openapi.json", "/gradio_api/heartbeat/x", "/gradio_api/app_id",
                 "/studio/news", "/gradio_api/token", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/queue/data",
                 "/gradio_api/upload", "/logout", "//", "/login/x", "/gradio_api/vibe-code", "/gradio_api/stream/x", "/assets",
                 "/docs", "/Login"):
        assert refusal({}, path, logged_in=False) == NOT_LOGGED_IN, path
        assert refusal({}, path, logged_in=True) is None


def test_what_gradio_asks_for_its_start_is_closed_afterwards() -> None:
    border = Border(nobody, Names(), lambda scope: False)
    scope = {"type": "http", "path": "/gradio_api/startup-events", "method": "GET", "server": ("127.0.0.1", 7860),
             "headers": [(b"host", HOST.encode())]}
    assert border.refusal(scope) is None
    border.open = True
    assert border.refusal(scope) == NOT_LOGGED_IN


def test_a_refusal_is_one_sentence_and_passes_nothing_on() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/config", "method": "GET", "server": ("127.0.0.1", 7860), "headers": [(b"host", b"<b>:1")]}
    asyncio.run(Border(nobody, Names(), lambda scope: True)(scope, None, send))
    assert sent[0]["status"] == 403 and dict(sent[0]["headers"])[b"content-type"] == b"text/plain; charset=utf-8"
    assert sent[1]["body"].decode() == WRONG_NAME[1] and b"<b>" not in sent[1]["body"]


def test_there_are_no_websockets() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Border(nobody, Names(), lambda scope: True)({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert [message["type"] for message in sent] == ["websocket.close"]

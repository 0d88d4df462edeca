"""News for open pages: made once for all, told to nobody from outside, and painted at a pace that the machine can afford."""

import asyncio
import http.client
import json
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from engine.base.errors import UserError
from studio import launch, news
from studio.news import News, NewsRoute
from studio.services import Services
from studio.settings import Settings
from studio.ui import build_page


async def ask(route: NewsRoute, query: bytes = b"jobs=", method: str = "GET",
              **headers: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of an answer."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await route({"type": "http", "path": news.PATH, "method": method, "query_string": query, "headers": given}, None, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def nobody(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("passed on")


def told(**makers: Any) -> tuple[News, NewsRoute]:
    """News with these makers, and its route."""
    found = News()
    for name, make in makers.items():
        found.tell(name, make)
    return found, NewsRoute(nobody, found)


def test_without_the_token_nothing_is_told_and_nothing_is_made() -> None:
    found, route = told(jobs=lambda _: pytest.fail("made for nobody"))
    for headers in ({}, {"x_studio_token": "guessed"}, {"x_studio_token": ""}, {"cookie": found.token}):
        status, _, body = asyncio.run(ask(route, **headers))
        assert (status, body) == (403, b"")
    assert len(found.token) >= 32 and found.token != News().token


def test_odd_questions_are_refused_and_unknown_names_passed_over() -> None:
    found, route = told(jobs=lambda question: question)
    for query, method in ((b"jobs=" + b"x" * news.LONGEST, "GET"), (b"jobs=", "POST")):
        assert asyncio.run(ask(route, query, method, x_studio_token=found.token))[0] == 400
    status, _, body = asyncio.run(ask(route, b"other=1&jobs=%3Cb%3E", x_studio_token=found.token))
    assert status == 200 and json.loads(body) == {"jobs": "<b>"}


def test_every_other_address_is_passed_on() -> None:
    passed: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    scopes = [{"type": "http", "path": "/config"}, {"type": "lifespan"}, {"type": "websocket", "path": news.PATH}]
    for scope in scopes:
        asyncio.run(NewsRoute(inner, News())(scope, None, None))
    assert passed == scopes


def test_twenty_pages_cost_one_making_and_a_page_that_has_it_gets_no_body() -> None:
    made: list[str] = []
    found, route = told(jobs=lambda question: made.append(question) or "<b>news</b>")

    async def all_ask() -> list[Any]:
        return await asyncio.gather(*(ask(route, x_studio_token=found.token) for _ in range(20)))

    answers = asyncio.run(all_ask())
    assert made == [""] and {body for _, _, body in answers} == {b'{"jobs":"<b>news</b>"}'}
    key = answers[0][1][b"etag"].decode()
    assert asyncio.run(ask(route, x_studio_token=found.token, if_none_match=key))[::2] == (304, b"")
    assert asyncio.run(ask(route, x_studio_token=found.token, if_none_match='"older"'))[0] == 200


def test_news_grows_old_and_what_nobody_asks_any_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now, made = [100.0], []
    monkeypatch.setattr(news.time, "monotonic", lambda: now[0])
    found, route = told(jobs=lambda question: made.append(question) or len(made))

    def body(query: bytes) -> Any:
        return json.loads(asyncio.run(ask(route, query, x_studio_token=found.token))[2])

    assert body(b"jobs=") == body(b"jobs=") == {"jobs": 1}
    now[0] += 1.0  # a page asks once a second, and each time finds what is new
    assert body(b"jobs=") == {"jobs": 2}
    for number in range(2 * news.REMEMBERED):
        body(b"jobs=%d" % number)
    assert len(found._made) == news.REMEMBERED


def test_one_maker_that_fails_takes_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def busy(_: str) -> Any:
        raise UserError("The library is busy; nothing was lost.")

    def broken(_: str) -> Any:
        raise KeyError("x")

    found, route = told(busy=busy, broken=broken, jobs=lambda _: "here")
    with caplog.at_level(logging.INFO):
        status, _, body = asyncio.run(ask(route, b"busy=&broken=&jobs=", x_studio_token=found.token))
    assert status == 200 and json.loads(body) == {"jobs": "here"}
    assert "The library is busy" in caplog.text and "KeyError" in caplog.text


def test_a_page_alone_is_painted_every_second_and_many_take_a_fixed_share() -> None:
    assert [news.pace(pages, 2) for pages in (0.0, 1.0, 2.0)] == [1, 1, 1]
    assert news.pace(20.0, 64) == 1 and news.pace(1e9, 1) == news.MOST
    paces = [news.pace(float(pages), 2) for pages in range(1, 100)]
    assert paces == sorted(paces)
    for pages, seconds in enumerate(paces, start=1):
        assert pages * news.PAINT_SECONDS / seconds <= 2 * news.SHARE + 1e-9 or seconds in (news.LEAST, news.MOST)


def test_the_pages_are_counted_while_they_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(news.time, "monotonic", lambda: now[0])
    found, route = told(prune=lambda _: "", jobs=lambda _: "")
    for second in range(20):
        for page in range(20):
            now[0] = 100 + second + page / 20
            asyncio.run(ask(route, b"prune=x", x_studio_token=found.token))
    assert 18 < found.pages("prune") < 22 and found.pages("jobs") == 0
    now[0] += 10 * news.MEMORY  # all have gone
    assert found.pages("prune") < 0.01 and found.pace("prune") == news.LEAST


@pytest.fixture
def guarded_studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Services, str]]:
    """A studio that asks for a password, and its host; launched as app.py does, without its workers."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_ALLOWED_PATHS"):
        monkeypatch.setenv(name, "False")
    services = Services.open(Settings(tmp_path / "home"))
    monkeypatch.setattr(services.speech, "models", lambda wait=True, refresh=False: [])
    blocks = build_page(services)
    try:
        options = launch.build_parser().parse_args([])
        _, address, _ = blocks.launch(**launch._launch_settings(options, services, ("ann", "a long one")))
        yield services, urlsplit(address).netloc
    finally:
        blocks.close(verbose=False)


def test_a_studio_with_a_password_tells_its_token_to_nobody_who_has_none(guarded_studio: tuple[Services, str]) -> None:
    services, host = guarded_studio
    listener = json.dumps({"data": [], "fn_index": 0, "session_hash": "x"})

    def get(path: str, headers: dict[str, str], method: str = "GET", body: str | None = None) -> Any:
        with closing(http.client.HTTPConnection(host, timeout=30)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            answer.text = answer.read().decode()  # type: ignore[attr-defined]
            return answer

    for path in ("/", "/config"):
        assert services.news.token not in get(path, {}).text
    asked = {"content-type": "application/json"}
    assert get("/gradio_api/run/predict", asked, "POST", listener).status == 401  # so no listener tells it either
    refused = get("/studio/news?jobs=", {"x-studio-token": services.news.token})
    assert refused.status == 401 and "Nothing is running" not in refused.text
    form = {"content-type": "application/x-www-form-urlencoded"}
    welcome = get("/login", form, "POST", "username=ann&password=a+long+one")
    cookie = {"cookie": "; ".join(one.partition(";")[0] for one in welcome.headers.get_all("set-cookie"))}
    assert get("/studio/news?jobs=", cookie).status == 403
    page = get("/studio/news?jobs=", {**cookie, "x-studio-token": services.news.token})
    assert page.status == 200 and "Nothing is running" in json.loads(page.text)["jobs"]
    foreign = get("/studio/news?jobs=", {**cookie, "x-studio-token": services.news.token, "origin": "http://elsewhere.example"})
    assert foreign.status == 403
    for answer in (refused, page, foreign):
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["access-control-allow-origin"] is None and answer.headers["cache-control"] == "no-store"


"""The live channel: made once for all pages, sent when it has changed, whole to whoever connects, and to nobody from outside."""

import asyncio
import http.client
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

import pytest

from engine.base.errors import UserError
from studio import launch, live
from studio.live import Live, LiveRoute
from studio.services import Services
from studio.settings import Settings
from studio.ui import build_page

LOOK = {"room": "prune", "character": "zoe"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TICK", 0.05)
    monkeypatch.setattr(live, "LEAST", 0.01)


def channel(**makers: Any) -> Live:
    """A channel with a part for each maker, which asks for the character."""
    found = Live()
    for name, make in makers.items():
        found.part(name, make, "character")
    return found


async def messages(found: Live, count: int, since: int = 0, look: dict[str, str] = LOOK,
                   then: Sequence[Callable[[], Any]] = ()) -> list[tuple[int, dict[str, Any]]]:
    """The first messages that a page gets; `then`: what is done after the first of them, the second, ..."""
    got: list[tuple[int, dict[str, Any]]] = []
    async with asyncio.timeout(20):
        async for revision, contents in found.follow(look, since):
            got.append((revision, {id: json.loads(text) for id, text in contents.items()}))
            if len(got) == count:
                break
            for change in then[len(got) - 1:len(got)]:
                change()
    return got


def test_a_page_gets_its_room_and_the_sidebar_and_then_only_what_has_changed() -> None:
    shown = {"a": "<b>1</b>", "b": True, "c": live.Ready(b'{"data":[]}')}
    found = channel(prune=lambda look: {**shown, "who": look["character"]}, sidebar=lambda _: {"jobs": ""},
                    draft=lambda _: pytest.fail("not shown"))

    changes = [lambda: shown.update(a="<b>2</b>"), lambda: shown.pop("b")]
    first, second, third = asyncio.run(messages(found, 3, then=changes))
    assert first[1] == {"a": "<b>1</b>", "b": True, "c": {"data": []}, "who": "zoe", "jobs": ""}
    assert second[1] == {"a": "<b>2</b>"} and third[1] == {"b": None}
    assert first[0] < second[0] < third[0]


def test_a_page_that_comes_back_gets_what_is_newer_than_its_revision() -> None:
    shown = {"a": "1", "b": "1"}
    found = channel(prune=lambda _: dict(shown))

    async def come_back() -> Any:
        (revision, whole), = await messages(found, 1)
        shown["a"] = "2"
        return whole, (await messages(found, 1, since=revision))[0][1]

    assert asyncio.run(come_back()) == ({"a": "1", "b": "1"}, {"a": "2"})


def test_twenty_pages_cost_one_making(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TICK", 60.0)
    made: list[int] = []
    found = channel(prune=lambda _: made.append(1) or {"a": "x" * 10})

    async def all_look() -> list[Any]:
        return await asyncio.gather(*(messages(found, 1) for _ in range(20)))

    pages = asyncio.run(all_look())
    assert made == [1] and all(page[0][1] == {"a": "x" * 10} for page in pages)


def test_a_touch_is_seen_at_once_and_only_its_part_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TICK", 60.0)
    made = {"prune": 0, "sidebar": 0}

    def make(name: str) -> Any:
        made[name] += 1
        return {name: made[name]}

    found = channel(prune=lambda _: make("prune"), sidebar=lambda _: make("sidebar"))
    touch = Timer(0.1, found.touch, ("prune",))  # from a thread, as a worker does
    assert asyncio.run(messages(found, 2, then=[touch.start]))[1][1] == {"prune": 2} and made == {"prune": 2, "sidebar": 1}


def test_a_quiet_channel_beats_and_old_looks_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT", 0.1)
    found = channel(prune=lambda look: {"a": look["character"]})
    assert [contents for _, contents in asyncio.run(messages(found, 3))] == [{"a": "zoe"}, {}, {}]

    async def many() -> None:
        for number in range(2 * live.REMEMBERED):
            await messages(found, 1, look={"room": "prune", "character": str(number)})

    asyncio.run(many())
    assert len(found._made) <= live.REMEMBERED


def test_more_looks_at_once_than_are_remembered_all_get_theirs() -> None:
    found = channel(prune=lambda look: {"a": look["character"]})
    looks = [{"room": "prune", "character": str(number)} for number in range(3 * live.REMEMBERED)]

    async def all_look() -> list[Any]:
        return await asyncio.gather(*(messages(found, 1, look=look) for look in looks))

    assert [page[0][1] for page in asyncio.run(all_look())] == [{"a": look["character"]} for look in looks]


def test_what_keeps_failing_is_logged_once_and_again_after_it_has_worked(caplog: pytest.LogCaptureFixture) -> None:
    works = iter([False, False, False, True, False, False])

    def make(_: Any) -> Any:
        return {"a": "here"} if next(works) else {}["x"]

    found, made = channel(prune=make), live._Made()
    for _ in range(6):
        found._make("prune", found._parts["prune"][0], {}, made)
    assert len(caplog.records) == 2


def test_one_part_that_fails_takes_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def busy(_: Any) -> Any:
        raise UserError("The library is busy; nothing was lost.")

    found = channel(prune=busy, sidebar=lambda _: {"jobs": "here"}, compare=lambda _: {}["x"])
    with caplog.at_level(logging.INFO):
        for room in ("prune", "compare"):
            assert asyncio.run(messages(found, 1, look={"room": room}))[0][1] == {"jobs": "here"}
    assert "The library is busy" in caplog.text and "KeyError" in caplog.text


def test_a_page_without_the_focus_gets_one_message_even_without_news() -> None:
    found = channel(prune=lambda _: {"a": "1"})

    async def ask(since: int) -> Any:
        return [(revision, len(contents)) async for revision, contents in found.follow(LOOK, since, once=True)]

    async def twice() -> Any:
        (revision, count), = await ask(0)
        return count, await ask(revision) == [(revision, 0)]

    assert asyncio.run(twice()) == (1, True)


def test_every_other_address_is_passed_on() -> None:
    passed: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    scopes = [{"type": "http", "path": "/config"}, {"type": "lifespan"}, {"type": "websocket", "path": live.PATH}]
    for scope in scopes:
        asyncio.run(LiveRoute(inner, Live())(scope, None, None))
    assert passed == scopes


@pytest.fixture
def guarded_studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Services, str]]:
    """A studio that asks for a password, and its host; launched as the program does it, without its workers."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_ALLOWED_PATHS"):
        monkeypatch.setenv(name, "False")
    services = Services.open(Settings(tmp_path / "home"))
    monkeypatch.setattr(services.speech, "models", lambda wait=True, refresh=False: [])
    blocks = build_page(services)
    try:
        _, address, _ = blocks.launch(**launch._launch_settings(launch.build_parser().parse_args([]), services,
                                                                ("ann", "a long one")))
        yield services, urlsplit(address).netloc
    finally:
        blocks.close(verbose=False)


def test_a_studio_with_a_password_shows_nothing_to_anybody_without_it(guarded_studio: tuple[Services, str]) -> None:
    services, host = guarded_studio
    stream = f"/studio/live?token={services.live.token}"

    def get(path: str, headers: dict[str, str], method: str = "GET", body: str | None = None, lines: int = 0) -> Any:
        with closing(http.client.HTTPConnection(host, timeout=30)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            read = b"".join(answer.readline() for _ in range(lines)) if lines else answer.read()
            answer.text = read.decode(errors="replace")  # type: ignore[attr-defined]
            return answer

    for path in ("/", "/config"):
        assert services.live.token not in get(path, {}).text
    assert get(stream, {}).status == 401 and get("/studio/plotly.js", {}).status == 401
    form = {"content-type": "application/x-www-form-urlencoded"}
    welcome = get("/login", form, "POST", "username=ann&password=a+long+one")
    cookie = {"cookie": "; ".join(one.partition(";")[0] for one in welcome.headers.get_all("set-cookie"))}
    assert services.live.token in get("/", cookie).text
    for query in ("", "?token=guessed"):
        refused = get(f"/studio/live{query}", cookie)
        assert refused.status == 403 and "side-portraits" not in refused.text
    assert get(f"{stream}&character={'x' * live.LONGEST}", cookie).status == 400
    assert get(stream, {**cookie, "origin": "http://elsewhere.example"}).status == 403
    for known in ("9" * 5_000, "-1", "\u00b2"):
        assert get(f"{stream}&once=", {**cookie, "last-event-id": known}).status == 200
    page = get(stream, cookie, lines=4)
    assert page.status == 200 and page.headers["content-type"].startswith("text/event-stream")
    assert "label:has" in json.loads(page.text.partition("data: ")[2])["parts"]["side-portraits"]
    assert page.headers["access-control-allow-origin"] is None and page.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    script = get("/studio/plotly.js", cookie)
    assert script.status == 200 and "max-age" in script.headers["cache-control"]

"""Name and password: where they may come from, and that guessing is slow without locking anybody out for ever."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine.base.errors import UserError
from studio import login
from studio.login import SlowLogin, Tries, client_of, credentials, readable_by_others

DAY = 86_400.0


def guess(tries: Tries, client: str, seconds: float, begin: float = 0.0) -> int:
    """How many passwords are looked at when a client sends the next one as soon as the last was answered or refused."""
    now, looked_at = begin, 0
    while now < begin + seconds:
        wait = tries.wait(client, now)
        if wait is None:
            now += 1.0
        else:
            now += wait + 0.001
            looked_at += 1
    return looked_at


def test_a_few_mistakes_cost_nothing_and_guessing_is_slow() -> None:
    tries = Tries()
    assert [tries.wait("10.0.0.7", 0.0) for _ in range(login.FREE)] == [0.0] * login.FREE
    waits = [tries.wait("10.0.0.7", 0.0) for _ in range(5)]
    assert waits[:3] == [1.0, 3.0, 7.0]  # each after the one before: 1, 2, 4, ... seconds
    assert guess(Tries(), "10.0.0.7", DAY) < DAY / login.LONGEST_WAIT + 20


def test_many_tries_at_once_are_looked_at_one_after_the_other() -> None:
    tries = Tries()
    waits = [tries.wait("10.0.0.7", 0.0) for _ in range(1_000)]
    kept = [wait for wait in waits if wait is not None]
    assert kept == sorted(kept) and max(kept) <= login.PATIENCE and len(kept) < 15


def test_nobody_is_locked_out_for_ever() -> None:
    tries = Tries()
    guess(tries, "10.0.0.7", DAY)
    wait = tries.wait("10.0.0.7", DAY + 1.0)
    assert wait is not None and wait <= 2 * login.LONGEST_WAIT  # one more try may be waiting already
    assert tries.wait("10.0.0.7", DAY + 1.0 + login.LONGEST_WAIT + login.MEMORY + 1.0) == 0.0  # and it is forgotten


def test_the_right_password_begins_the_count_again() -> None:
    tries = Tries()
    for _ in range(login.FREE + 1):
        tries.wait("10.0.0.7", 0.0)
    tries.right("10.0.0.7")
    assert [tries.wait("10.0.0.7", 1.0) for _ in range(login.FREE)] == [0.0] * login.FREE


def test_guesses_from_many_addresses_wait_for_each_other_and_the_owner_does_not() -> None:
    tries = Tries()
    tries.wait("10.0.0.1", 0.0)
    tries.right("10.0.0.1")  # the owner, from elsewhere
    waits = [tries.wait(f"10.9.{number // 250}.{number % 250}", 1.0) for number in range(5_000)]
    kept = [wait for wait in waits if wait is not None]
    assert len(kept) < login.STRANGERS_FREE + login.PATIENCE + 3  # in the minute to come
    assert tries.wait("10.0.0.1", 2.0) == 0.0 and tries.wait("127.0.0.1", 2.0) == 0.0 and tries.wait("::1", 2.0) == 0.0
    assert len(tries._clients) <= login.CLIENTS


def test_one_owner_has_all_addresses_of_an_ipv6_network() -> None:
    def client(host: str) -> str:
        return client_of({"client": (host, 1)})

    assert client("2001:db8::1") == client("2001:db8::ffff:1") != client("2001:db8:0:1::1")
    assert client("::ffff:10.0.0.7") == client("10.0.0.7") == "10.0.0.7" and client("::1") == "::1"
    assert client("fe80::1%eth0") == client("fe80::2%eth0") and client_of({"client": None}) == "" and client("odd") == "odd"


def ask(route: SlowLogin, path: str = "/login", method: str = "POST", host: str = "10.0.0.7") -> int:
    """The status of an answer."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(route({"type": "http", "path": path, "method": method, "headers": [], "client": (host, 1)}, None, send))
    return int(sent[0]["status"])


def test_tries_wait_before_they_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    status, slept = [400], []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status[0], "headers": []})

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(login.asyncio, "sleep", sleep)
    monkeypatch.setattr(login.time, "monotonic", lambda: 5.0)
    route = SlowLogin(inner)
    answers = [ask(route, path) for path in ("/login", "/login/") * 10]
    assert answers[:7] == [400] * 7 and answers[-1] == 429
    assert slept[:5] == [0.0] * 5 and slept[5:8] == [1.0, 3.0, 7.0] and max(slept) <= login.PATIENCE
    assert ask(route, "/login", "GET") == ask(route, "/config") == 400  # these are no tries
    status[0] = 200
    assert ask(route, host="10.0.0.8") == 200 and "10.0.0.8" in route.tries._known and "10.0.0.7" not in route.tries._known


def test_where_the_password_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "login"
    environment = {login.VARIABLE: "eve:from the variable"}
    for written in (b"ann:a long: one\n", b"ann:a long: one", b"\xef\xbb\xbfann:a long: one\r\n"):
        file.write_bytes(written)
        assert credentials(None, str(file), {}) == ("ann", "a long: one")
    assert credentials("bob:on the line", None, environment) == ("bob", "on the line")
    assert environment == {}  # no worker inherits it, used or not
    assert credentials(None, None, {login.VARIABLE: " eve :from the variable "}) == ("eve", "from the variable ")
    assert credentials(None, None, {}) is None


@pytest.mark.parametrize(("content", "words"), [
    (b"", "one line"), (b"\n", "at least 8"), (b"ann:short\n", "at least 8"), (b"no colon here", "at least 8"),
    (b":a long one", "at least 8"), (b" :a long one", "at least 8"), (b"ann:a long one\nbob:a long one\n", "one line"),
    (b"ann:\xff\xff\xff\xff\xff\xff\xff\xff", "cannot be read"), (b"ann:" + b"x" * 5_000, "one line"), (None, "cannot be read")])
def test_a_file_without_a_good_login_is_refused_in_one_sentence(content: bytes | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "login"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        credentials(None, str(file), {})
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_odd_logins() -> None:
    for text, words in (("", "at least 8"), ("ann:\udcff\udcff\udcff\udcff\udcff\udcff\udcff\udcff", "UTF-8")):
        with pytest.raises(UserError, match=words):
            credentials(None, None, {login.VARIABLE: text})
    with pytest.raises(UserError, match="cannot be read"):
        credentials(None, "/", {})


def test_a_file_that_others_can_read_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "login"
    file.write_text("ann:a long one")
    file.chmod(0o644)
    assert readable_by_others(str(file))
    file.chmod(0o600)
    assert not readable_by_others(str(file)) and not readable_by_others(None) and not readable_by_others(str(tmp_path / "none"))

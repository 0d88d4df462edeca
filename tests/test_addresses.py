"""Which names lead to the studio: a name that somebody else can point here is none of them."""

import socket

import pytest

from engine.base.errors import UserError
from studio.border import Names, parse, same

HERE = ("127.0.0.1", 7860)


def has(names: Names, host: str, server: tuple[str, int | None] | None = HERE) -> bool:
    address = parse(host)
    return address is not None and names.has(address, server)


@pytest.mark.parametrize("host", ["localhost:7860", "LocalHost:7860", "localhost.:7860", "127.0.0.1:7860", "[::1]:7860",
                                  "[0:0:0:0:0:0:0:1]:7860", "[::ffff:127.0.0.1]:7860"])
def test_this_machine_has_its_names(host: str) -> None:
    assert has(Names(), host)


@pytest.mark.parametrize("host", [
    "evil.example:7860", "evil.example", "localhost.evil.example:7860", "127.0.0.1.evil.example:7860", "evil-localhost:7860",
    "localhost", "127.0.0.1", "localhost:7861", "127.0.0.1:80", "localhost:", "", ":7860", "localhost:7860:7860",
    "localhost:07860x", "localhost:99999", "user@localhost:7860", "localhost:7860@evil.example",
    "localhost:7860/x", "localhost:7860, evil.example",
    "::1:7860", "[::1", "[::2]:7860", "0.0.0.0:7860", "192.168.0.7:7860", "2130706433:7860", "0x7f.1:7860", "localhost..:7860",
    "localhost :7860", "lοcalhost:7860", "localhost:٧٨٦٠", "localhost\x00:7860", "127.0.0.1\n:7860", "*:7860"])
def test_nothing_else_is_this_machine(host: str) -> None:
    assert not has(Names(), host)


def test_a_port_that_browsers_leave_out_is_80() -> None:
    assert has(Names(), "localhost", ("127.0.0.1", 80)) and not has(Names(), "localhost", ("127.0.0.1", 443))


def test_others_reach_it_by_the_address_at_which_they_came_in() -> None:
    open_to_all = Names("0.0.0.0")
    assert has(open_to_all, "192.168.0.7:7860", ("192.168.0.7", 7860))
    assert not has(open_to_all, "192.168.0.8:7860", ("192.168.0.7", 7860))
    assert has(open_to_all, "[fe80::7]:7860", ("fe80::7%eth0", 7860))
    assert has(open_to_all, "10.0.0.1:7860", ("::ffff:10.0.0.1", 7860))
    machine = socket.gethostname()
    assert has(open_to_all, f"{machine.upper()}:7860", ("192.168.0.7", 7860)) and has(open_to_all, "0.0.0.0:7860")
    assert not has(Names(), "another-machine:7860") and not has(open_to_all, "evil.example:7860", ("192.168.0.7", 7860))
    assert has(Names("Studio.lan"), "studio.lan:7860", ("192.168.0.7", 7860))
    assert has(Names("[::]"), "[::]:7860", ("::1", 7860)) and has(Names("::"), "[2001:db8::7]:7860", ("2001:db8::7", 7860))


def test_a_name_that_was_allowed_has_its_port_the_usual_ones_or_the_studios_own() -> None:
    names = Names(others=["studio.example", "other.example:8443"])
    for host in ("studio.example", "studio.example:443", "studio.example:80", "studio.example:7860", "other.example:8443"):
        assert has(names, host), host
    for host in ("studio.example:8443", "other.example", "other.example:7860", "a.studio.example"):
        assert not has(names, host), host
    assert has(names, "studio.example", None) and not has(names, "localhost:7860", None)


@pytest.mark.parametrize("name", ["http://studio.example", "studio.example/", "", "a b", "x:port", "*"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="not the name of a host"):
        Names(others=[name])


def test_an_origin_is_the_same_with_the_same_port_only() -> None:
    here = ("localhost", 7860)
    assert same("http://localhost:7860", here) and same("HTTP://LOCALHOST:7860", here) and same("http://[::1]:7860", ("::1", 7860))
    for origin in ("http://localhost:7861", "http://localhost", "http://127.0.0.1:7860", "null", "", "localhost:7860",
                   "file://localhost:7860", "chrome-extension://localhost:7860", "http://localhost:7860@evil.example",
                   "http://localhost:7860.evil.example", "http://evil.example:7860", "http://localhost:7860/", "://localhost:7860"):
        assert not same(origin, here), origin
    assert same("https://studio.example", ("studio.example", None)) and same("https://studio.example", ("studio.example", 443))
    assert same("http://studio.example:80", ("studio.example", None)) and not same("https://studio.example", ("studio.example", 80))

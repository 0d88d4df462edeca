"""What the environment may say to Gradio and to httpx: nothing that opens the studio, and no proxy before this machine."""

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from engine.base.errors import UserError
from studio.environment import KEPT, prepare

UPLOADS = Path("/data/uploads")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """No variable of ours or of proxies, and all as before afterwards."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("GRADIO_") or name.lower().endswith("_proxy"):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("name", [
    "GRADIO_LOCAL_DEV_MODE", "GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_VIBE_MODE", "GRADIO_DEBUG", "GRADIO_WATCH_DIRS",
    "GRADIO_EXAMPLES_CACHE", "GRADIO_ROOT_PATH", "GRADIO_MCP_SERVER", "GRADIO_NUM_WORKERS", "GRADIO_SSR_MODE",
    "GRADIO_HISTORY_BUCKET", "GRADIO_NEW_IN_ITS_NEXT_VERSION"])
def test_no_variable_opens_gradio(name: str) -> None:
    os.environ[name] = "1"
    prepare(UPLOADS)
    assert name not in os.environ
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False" and os.environ["GRADIO_TEMP_DIR"] == str(UPLOADS)


def test_harmless_variables_stay() -> None:
    os.environ.update(dict.fromkeys(KEPT, "7"))
    prepare(UPLOADS)
    assert all(os.environ[name] == "7" for name in KEPT)


PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize("proxies", [{"HTTP_PROXY": PROXY}, {"all_proxy": PROXY, "NO_PROXY": "example.org"},
                                     {"http_proxy": PROXY, "no_proxy": "127.0.0.1, ,example.org"}])
def test_no_proxy_is_before_this_machine(proxies: dict[str, str]) -> None:
    os.environ.update(proxies)
    prepare(UPLOADS, "[fe80::7]")
    with httpx.Client() as client:
        def through_proxy(host: str) -> bool:
            return client._transport_for_url(httpx.URL(f"http://{host}:7860/")) is not client._transport

        assert not any(through_proxy(host) for host in ("localhost", "127.0.0.1", "[::1]", "[fe80::7]"))
        assert through_proxy("elsewhere.example") and through_proxy("example.org") == (len(proxies) == 1)


def test_who_wants_no_proxy_at_all_gets_none() -> None:
    os.environ.update(HTTP_PROXY=PROXY, NO_PROXY="*")
    prepare(UPLOADS)
    with httpx.Client() as client:
        assert client._transport_for_url(httpx.URL("http://elsewhere.example/")) is client._transport


def test_a_proxy_of_the_system_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"http": PROXY})  # as macOS and Windows tell it
    prepare(UPLOADS)
    assert os.environ["http_proxy"] == PROXY and "localhost" in os.environ["no_proxy"]


def test_without_a_proxy_nothing_is_set() -> None:
    prepare(UPLOADS)
    assert not [name for name in os.environ if name.lower().endswith("_proxy")]


@pytest.mark.parametrize(("variable", "value"), [("ALL_PROXY", "nonsense://proxy.example"), ("HTTP_PROXY", "http://[::1"),
                                                 ("HTTP_PROXY", "http://proxy.example:port")])
def test_a_proxy_that_cannot_be_used_gets_one_sentence(variable: str, value: str) -> None:
    os.environ[variable] = value
    with pytest.raises(UserError, match="names a proxy that cannot be used") as caught:
        prepare(UPLOADS)
    assert "\n" not in str(caught.value)

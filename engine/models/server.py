"""A language model at an address: any server that speaks OpenAI's chat completions, as a teacher or a judge.

Checks addresses, finds the key in the environment and opens the client. openai is imported on use, for that takes half a second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from engine.base.errors import UserError

if TYPE_CHECKING:
    import openai

CONNECT_SECONDS = 4.0  # longest wait for a connection


def check_address(url: str, who: str, variable: str) -> None:
    """Raise UserError for what cannot be a server's address. `who`: "teacher", "judge"; `variable`: where its key belongs."""
    try:
        parts = urlsplit(url)
        good = (parts.scheme in ("http", "https") and parts.port != 0
                and re.fullmatch(r"[\w.:%-]+", parts.hostname or "") is not None)
    except ValueError:
        good = False
    if not good:
        raise UserError(f"The {who}'s address must begin with http:// or https:// and name a server.",
                        "An example: http://127.0.0.1:8080/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(f"The {who}'s address must not carry a password, a query or a fragment.",
                        f"Put the key into the environment variable {variable}.")


def base_url(url: str) -> str:
    """The address with exactly one closing /v1."""
    return f"{url.strip().rstrip('/').removesuffix('/v1')}/v1"


def api_key(variables: Sequence[str]) -> str:
    """The key from the first of the environment's `variables` that is set, "" if none is.

    Raises UserError for a key that no header can carry.
    """
    key = next(filter(None, (os.environ.get(name, "").strip() for name in variables)), "")
    if not (key.isascii() and (key + "x").isprintable()) or " " in key:
        raise UserError("The API key in the environment contains characters that a key cannot have.", "Copy it again.")
    return key


def open_client(url: str, key: str, timeout: float, retries: int = 0) -> openai.OpenAI:
    """A client of the server; `timeout` in seconds a request, `retries` by the client itself."""
    import openai

    return openai.OpenAI(**_settings(url, key, timeout, retries), http_client=openai.DefaultHttpxClient(**_transport(url)))


def open_async_client(url: str, key: str, timeout: float) -> openai.AsyncOpenAI:
    """The same for asyncio, without retries."""
    import openai

    return openai.AsyncOpenAI(**_settings(url, key, timeout, 0), http_client=openai.DefaultAsyncHttpxClient(**_transport(url)))


def _settings(url: str, key: str, timeout: float, retries: int) -> dict[str, Any]:
    import openai

    return {"api_key": key or "none", "base_url": base_url(url), "max_retries": retries,
            "timeout": openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))}


def _transport(url: str) -> dict[str, Any]:
    """On this machine no proxy is used, and a redirection is never followed: the key would go with it."""
    loopback = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    return {"trust_env": not loopback, "follow_redirects": False}

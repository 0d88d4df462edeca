"""What the environment says to Gradio and httpx, put right before either is imported."""

import os
import urllib.request
from pathlib import Path

from engine.base.errors import UserError

KEPT = ("GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS", "GRADIO_HEARTBEAT_INTERVAL", "GRADIO_SHARE_SERVER_ADDRESS")  # they open nothing
HERE = ("localhost", "127.0.0.1", "::1")


def prepare(uploads: Path, listen: str | None = None) -> None:
    """Let Gradio serve nothing but the page and `uploads`, and let no proxy stand between the studio and this machine.

    Raises UserError when the environment names a proxy that cannot be used.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_") and name not in KEPT]:
        del os.environ[name]  # some of them serve further folders, allow foreign pages, or let a page change the program
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    _spare_this_machine(listen)


def _spare_this_machine(listen: str | None) -> None:
    proxies = urllib.request.getproxies()
    excepted = [one.strip() for one in proxies.pop("no", "").split(",") if one.strip()]
    if not proxies:
        return
    hosts = [host for host in (*HERE, *([listen.strip("[]")] if listen else [])) if host not in excepted]
    value = ",".join(excepted + hosts)
    os.environ.update(NO_PROXY=value, no_proxy=value)
    for scheme, proxy in proxies.items():  # the system's own: with one of these variables set, they would be forgotten
        os.environ.setdefault(f"{scheme}_proxy", proxy)
    import httpx

    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise UserError(f"The environment names a proxy that cannot be used: {error}",
                        "Correct or unset HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.") from error

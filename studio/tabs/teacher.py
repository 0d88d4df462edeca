"""A server that writes in a model's place, as the page's forms name it."""

from urllib.parse import urlsplit

from engine.base.errors import UserError


def checked_server(url: str, model: str) -> tuple[str, str]:
    """Its address and the name of its model, without spaces around. Raises UserError for what cannot be asked."""
    url, model = url.strip(), model.strip()
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise UserError("The server needs an address that begins with http:// or https://.",
                        "For a server on this machine, for example http://127.0.0.1:8080/v1.")
    if parts.username or parts.password:
        raise UserError("The address must not hold a name or a password.", "Put the key into OPENAI_API_KEY instead.")
    if not model:
        raise UserError("The server needs the name of its model.")
    return url, model

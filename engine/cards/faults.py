"""What is wrong with a card's file, first without its name, then as one sentence for the user. Knows no format."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.base.errors import UserError


class CardFault(Exception):
    """What is wrong with a file, as the end of a sentence that begins with the file's name."""


@contextmanager
def named(origin: str, hint: str = "") -> Iterator[None]:
    """Turn a CardFault into a UserError that begins with `origin`, the name of the source."""
    try:
        yield
    except CardFault as fault:
        raise UserError(f"{printable(origin)} {fault}.", hint) from fault


def printable(origin: str) -> str:
    """The name of a source for an error: what cannot be printed becomes a question mark."""
    return "".join(sign if sign.isprintable() else "?" for sign in origin)


def short(text: str) -> str:
    """Untrusted text for an error: quoted, escaped, at most 40 characters of it."""
    return ascii(text[:40] + ("..." if len(text) > 40 else ""))


def kind_of(value: Any) -> str:
    """What JSON calls a value, with its article."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")

"""Portraits in, cards out. The files that the browser fetches lie in a temporary folder that goes with the studio.

Knows no page.
"""

import io
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

from PIL import Image

from engine.base.errors import UserError
from engine.base.files import slug
from engine.cards import pictures
from engine.cards.fields import fields_of
from engine.cards.files import ENDINGS, Form, write_file
from studio.store import characters
from studio.store.database import Store

_KEPT_SECONDS = 600.0
_SHOWN = 512  # pixels of the longest side on the page


def read_picture(file: Path) -> bytes:
    """A picture of the writer's as a clean PNG. Raises UserError for what is no usable picture."""
    if file.stat().st_size > pictures.MAX_FILE:
        raise UserError("The picture is too large (at most 8 MB).", "Make it smaller, or choose another one.")
    return pictures.clean_portrait(file.read_bytes())


def shown_portrait(store: Store, sha256: str | None) -> Image.Image | None:
    """The portrait as the page shows it; None without one."""
    data = characters.portrait(store, sha256) if sha256 else None
    if data is None:
        return None
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        shown = picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")
    shown.thumbnail((_SHOWN, _SHOWN))
    return shown


def card_file(store: Store, character: str, form: Form) -> Path:
    """The newest version as a file of this form, named after the character. Raises UserError."""
    head = characters.head(store, character)
    portrait = characters.portrait(store, head.portrait) if head.portrait else None
    data = write_file(form, head.card, portrait, characters.files(store, head) if form == "charx" else {})
    folder = Path(_folder().name)
    _drop_old(folder)
    file = Path(tempfile.mkdtemp(dir=folder)) / f"{slug(fields_of(head.card)['name'])}{ENDINGS[form]}"
    file.write_bytes(data)
    return file


def _drop_old(folder: Path) -> None:
    """Remove files that the page has taken over long ago."""
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > _KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="persona-studio-cards-")

"""What the sidebar does with the library: cards in, backups, and the model in use.

Plain functions without a page, so that they are tested without a browser.
"""

import base64
import functools
import html
import io
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from engine.base.cast_folder import place_of
from engine.base.errors import UserError
from engine.base.known_models import KNOWN
from engine.base.model_folder import folder_shape, model_folder
from engine.cards import fields
from engine.cards.files import read_file
from studio.figures import words
from studio.services import Services
from studio.store import characters, database, runs
from studio.store.connection import backups_of
from studio.store.database import Store

_SMALL = 56  # pixels of a portrait in the list


@dataclass(frozen=True)
class Imported:
    """What became of one file: the new character's slug, "" where it was refused; and a line that names the file and says
    what was fixed in it."""

    slug: str
    sentence: str


def import_card(store: Store, file: Path) -> Imported:
    """A new character from a card of any form on this machine, with its portrait and its files; or why there is none."""
    try:
        read = read_file(file, file.name)
        made = characters.create(store, fields.as_v3(read.card.raw), portrait=read.portrait, files=read.files)
    except UserError as error:
        return Imported("", str(error))
    except Exception:
        logging.getLogger("studio").exception("import of %s", file.name)
        return Imported("", f"{file.name} could not be imported: something went wrong inside the studio. "
                        "The details are in the log.")
    brought = ["its portrait"] if read.portrait else []
    brought += [f"{len(read.files)} {'file' if len(read.files) == 1 else 'files'}"] if read.files else []
    together = f", with {' and '.join(brought)}" if brought else ""
    return Imported(made.slug, " ".join([f"{made.name} came from {file.name}{together}.", *read.card.notes]))


def imports_html(done: list[Imported], total: int) -> str:
    """A line for each file, as HTML with everything escaped: the refused ones first, since they ask for something.

    While files are still to come, the refused ones alone, so that the button below stays where it is.
    """
    good = sum(bool(one.slug) for one in done)
    heading = f"{good} of {total} {'card' if total == 1 else 'cards'} imported" if len(done) == total else (
        f"Importing… {len(done)} of {total}")
    lines = [f'<li class="{"done" if one.slug else "refused"}"><span class="visually-hidden">'
             f'{"Imported: " if one.slug else "Not imported: "}</span>{html.escape(one.sentence)}</li>'
             for one in sorted(done, key=lambda one: bool(one.slug)) if len(done) == total or not one.slug]
    return f'<div class="imports" role="status"><b>{heading}</b><ul>{"".join(lines)}</ul></div>'


def restore(services: Services, file: Path) -> None:
    """Put a backup in place of the library. Raises UserError while jobs run, or for a file that is no backup."""
    if runs.list_runs(services.store, states=runs.ACTIVE):
        raise UserError("A job is running.", "Stop it first, then restore.")
    database.restore(services.store, file)
    services.jobs.adopt()


def backup_choices(services: Services) -> list[tuple[str, str]]:
    """(label, file name) of the library's backups, newest first."""
    found = backups_of(services.store.path)
    return [(f"{time.strftime('%d %b %Y, %H:%M:%S', time.localtime(file.stat().st_mtime))} · {words.size(file.stat().st_size)}"
             f"{'' if '-backup' in file.name else ' · before an update or a restore'}", file.name) for file in found]


def backup_file(services: Services, name: str) -> Path:
    """The backup of this name. Raises UserError for any other file: a page asks, and may ask for anything."""
    found = next((file for file in backups_of(services.store.path) if file.name == name), None)
    if found is None:
        raise UserError("This backup is not there any more.", "Choose another one.")
    return found


def model_choices(services: Services) -> tuple[list[tuple[str, str]], str]:
    """(label, name) of the models on this machine, and the one in use. An unknown one in use stays in the list."""
    model = services.base_model()
    found = [(known.label, known.name) for known in KNOWN.values()]
    listed = [one["name"] for one in services.speech.models(wait=False)]
    found += [(Path(name).name if Path(name).is_absolute() else name, name) for name in dict.fromkeys([*listed, model])
              if name not in KNOWN]
    return found, model


def model_note(services: Services, model: str) -> str:
    """A line of HTML about the model in use, or why it cannot be used."""
    known = KNOWN.get(model)
    listed = next((one for one in services.speech.models(wait=False) if one["name"] == model), known.described if known else {})
    try:
        folder = model_folder(model)
        place = place_of(folder) if folder else None  # a character of a cast: the model is the cast's
        parameters = folder_shape(place.folder if place else folder).parameters if folder else listed.get("parameters")
    except UserError as error:
        return f'<p class="side-problem" role="alert">{html.escape(str(error))}</p>'
    state = (f"as {place.id} of the cast {place.folder.name}, in Play" if place else
             "" if folder or listed.get("ready") or (known and known.is_in(services.settings.home)) else
             f"fetched on first use: {words.size(known.download_bytes)}, {words.size(known.folder_bytes)} on disk" if known else
             "looked up when it is first used")
    size = f"{words.millions(parameters)} parameters" if parameters else ""
    about = known.about if known else ""
    return f'<span class="quiet">{html.escape(" · ".join(filter(None, (about, size, listed.get("licence"), state))))}</span>'


def portraits_html(services: Services) -> str:
    """A style sheet that puts a small portrait before each character in the list, or the first letter of the name."""
    store, rules = services.store, []
    for one in characters.list_characters(store):
        digest = characters.head(store, one.id).portrait
        letter = next((sign.upper()[0] for sign in one.name if sign.isalnum()), "?")
        small = _thumbnail(store, digest) if digest else ""
        shown = f'content:"";background-image:url({small})' if small else f'content:"\\{ord(letter):x} "'
        rules.append(f'#side-characters label:has(input[value="{one.id}"])::before{{{shown}}}')
    return f"<style>{''.join(rules)}</style>"


@functools.lru_cache(maxsize=256)
def _thumbnail(store: Store, digest: str) -> str:
    """A portrait as a small picture in an address; "" for one that cannot be read."""
    try:
        with Image.open(io.BytesIO(characters.portrait(store, digest) or b""), formats=["PNG"]) as picture:
            small = ImageOps.fit(picture.convert("RGB"), (_SMALL, _SMALL))
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    written = io.BytesIO()
    small.save(written, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"

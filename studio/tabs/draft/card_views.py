"""What the draft room shows of a card: size, advice, portrait, what other programs drop; and the card as a file."""

import html
import io
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from engine.base.errors import UserError
from engine.base.files import slug
from engine.cards.advice import advice
from engine.cards.card import unfinished
from engine.cards.compatibility import PROGRAMS, Finding, findings
from engine.cards.fields import FIELDS, LABELS, LISTS, fields_of
from engine.cards.files import ENDINGS, Form, write_file
from engine.cards.pictures import MAX_FILE, clean_portrait
from engine.cards.prompt import Setting, render_description, render_greeting
from studio.services import Services
from studio.store import characters
from studio.store.database import Store

CONTEXT = 2048  # tokens that the model holds, where its own number is not known
MOST = 2048  # tokens of a character, however much the model holds: they are read before every answer
READ = tuple(field.key for field in FIELDS if field.attribute)  # by the model
GUIDE = ("<h3>Begin with three sentences</h3><p>Who is this? How do they talk? What do they want right now?</p>"
         "<p>Write them into the description. A greeting and a few lines of example dialogue do more for a voice than any "
         "list of traits.</p><p>Everything is saved while you write.</p>")
FINE = "<h3>Nothing to fix</h3><p>The card reads well. Talk to the character in the Play room.</p>"
_METER_HINT = ("Tokens are pieces of words. The model reads these before every answer: all that describes the character, and the "
               "greeting. More than the limit makes answers slow and leaves little room for the conversation.")
_LEVELS = {"problem": "Problem", "hint": "Hint"}
_FATES = {"lost": "lost there", "unused": "kept there, but not used"}
_KEPT_SECONDS = 600.0  # of a file that a page may still fetch
_SHOWN = 512  # pixels of the longest side on the page


@dataclass(frozen=True)
class Size:
    """Tokens of a card: of each filled field that the model reads, of what it always reads, and what that should not exceed."""

    fields: dict[str, int]
    total: int
    budget: int
    exact: bool

    @property
    def about(self) -> str:
        return "" if self.exact else "about "


def size_of(services: Services, model: str, raw: dict[str, Any]) -> Size:
    card, fields = unfinished(raw), fields_of(raw)
    texts = {key: "\n".join(fields[key]) if key in LISTS else fields[key] for key in READ}
    counts = {key: services.tokens.count(model, text) for key, text in texts.items() if text.strip()}
    setting = Setting(count=lambda text: services.tokens.count(model, text))
    total = sum(setting.count(text) for text in (render_description(card, setting), render_greeting(card, setting)))
    context = services.tokens.context(model) or CONTEXT
    return Size(counts, total, min(context // 2, MOST), services.tokens.exact(model))


def meter_html(size: Size) -> str:
    """The total with its bar, and the style that puts each field's count beside its label."""
    share = min(size.total / size.budget, 1.0)
    state = "over" if size.total > size.budget else ""
    counts = "".join(f'#draft-{key} :is([data-testid="block-info"], .draft-list-title)::after {{ content: '
                     f'"{size.about}{count:,} token{"" if count == 1 else "s"}"; }}' for key, count in size.fields.items())
    words = f"{size.about}{size.total:,} tokens, of at most {size.budget:,}"
    return (f'<div class="draft-meter {state}" title="{_METER_HINT}"><span class="measure">{words}</span>'
            f'<div class="bar" role="progressbar" aria-label="Size of the character: {words}. {_METER_HINT}" aria-valuemin="0" '
            f'aria-valuemax="{size.budget}" aria-valuenow="{min(size.total, size.budget)}"><i style="width:{share:.0%}"></i></div>'
            f"</div><style>{counts}</style>")


def advice_html(services: Services, model: str, raw: dict[str, Any]) -> str:
    """The advice as HTML, problems first; every text of the card in it is escaped."""
    fields = fields_of(raw)
    if not any(fields[key].strip() for key in ("description", "personality", "scenario", "mes_example", "first_mes")):
        return GUIDE
    found = advice(raw, lambda text: services.tokens.count(model, text), services.tokens.context(model) or CONTEXT)
    if not found:
        return FINE
    items = []
    for one in found:
        field = f'<a href="#draft-{one.field}">{LABELS[one.field]}</a>' if one.field in LABELS else ""
        items.append(f'<li class="{one.level}"><b>{_LEVELS[one.level]}</b> {field}<p>{html.escape(one.sentence)}</p></li>')
    return f"<h3>Worth a look</h3><ul>{''.join(items)}</ul>"


def compatibility_html(store: Store, character: str) -> str:
    """A fold for each program with what it would not use, as HTML with everything escaped; "" without a character."""
    if not character:
        return ""
    head = characters.head(store, character)
    files = len(head.files)
    brought = (f'<p class="quiet">The card has {files} {"file" if files == 1 else "files"} (such as pictures or sounds). '
               "Only the archive holds them.</p>") if files else ""
    found = findings(head.card, files)
    return f"{brought}<h4>This card in other programs</h4>" + "".join(
        _program_html(program, [one for one in found if one.program == program]) for program in PROGRAMS)


def _program_html(program: str, found: list[Finding]) -> str:
    if not found:
        return f'<p class="draft-program"><b>{html.escape(program)}</b> <span class="quiet">uses everything</span></p>'
    counts = [f"{count} {'part' if count == 1 else 'parts'} {words}" for fate, words in _FATES.items()
              if (count := sum(one.fate == fate for one in found))]
    lines = "".join(f'<li><span class="quiet">{_FATES[one.fate].capitalize()}:</span> {html.escape(one.sentence)}</li>'
                    for one in found)
    return (f'<details class="draft-program"><summary><b>{html.escape(program)}</b> <span class="quiet">{", ".join(counts)}</span>'
            f"</summary><ul>{lines}</ul></details>")


def read_picture(file: Path) -> bytes:
    """A picture of the writer's as a clean PNG. Raises UserError for what is no usable picture."""
    if file.stat().st_size > MAX_FILE:
        raise UserError("The picture is too large (at most 8 MB).", "Make it smaller, or choose another one.")
    return clean_portrait(file.read_bytes())


def shown_portrait(store: Store, sha256: str | None) -> Image.Image | None:
    data = characters.portrait(store, sha256) if sha256 else None
    if data is None:
        return None
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        shown = picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")
    shown.thumbnail((_SHOWN, _SHOWN))
    return shown


def card_file(store: Store, character: str, form: Form) -> Path:
    """The newest version as a file of this form, named after the character, in a temporary folder. Raises UserError."""
    head = characters.head(store, character)
    portrait = characters.portrait(store, head.portrait) if head.portrait else None
    data = write_file(form, head.card, portrait, characters.files(store, head) if form == "charx" else {})
    folder = Path(_folder().name)
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > _KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    file = Path(tempfile.mkdtemp(dir=folder)) / f"{slug(fields_of(head.card)['name'])}{ENDINGS[form]}"
    file.write_bytes(data)
    return file


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="persona-studio-cards-")

"""The sidebar: the characters, the base model in use, library and settings; and above the rooms the welcome, and the jobs.

The list of characters is a radio group, so that the keyboard and a screen
reader know what it is. It shows what the search found; which character is open
is the page's business. Independent of the rooms: it sets the page's character, and the
rooms follow.
"""

import html
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.cards import fields
from studio import library, under_way, welcome
from studio.live import COMMON
from studio.page import FLUSH, PRIVATE, Page, guarded, in_sight, in_turn, live_html, live_script
from studio.panels import LibraryPanel, SettingsPanel
from studio.services import Services
from studio.shelf import Shelf
from studio.store import characters, values
from studio.store.characters import Character
from studio.theme import ASSETS

MODEL_HINT = ("The language model that characters are carved from. You can also type a folder, or a name on huggingface.co "
              "(owner/name).")
NEWS_SECONDS = 0.4  # between two looks at a long import
UNNAMED = "Unnamed"
_TURN = in_turn("sidebar")
_ADDRESS = "(value) => window.personaStudioAddress('character', value)"
_CAST = "() => personaStudioPart('#draft-cast', '#cast-place textarea')"
_ADDRESSED = "(search) => [search, new URLSearchParams(location.search).get('character') ?? '']"


# The list of jobs closes with a click elsewhere, and with one that goes to a job, whose part of the room is opened then.
_JOBS = """
document.addEventListener("click", ({target}) => {
  const job = target.closest("#jobs [data-do=job]");
  if (job || !element.contains(target)) element.querySelector("details")?.removeAttribute("open");
  if (job?.dataset.cast) personaStudioLive.look({cast: job.dataset.cast}, "draft");
  if (job?.dataset.part) personaStudioPart(job.dataset.part);
});
"""
# The browser lets a page ask for files only while a click is being handled.
_IMPORTING = """
element.addEventListener("click", ({target}) => { if (target.closest("[data-do=import]")) personaStudioImport(); });
"""


class Side:
    """The sidebar's controls."""

    def __init__(self, services: Services) -> None:
        with gr.Sidebar(elem_id="sidebar", width=300, label="Characters"):
            gr.HTML('<div class="brand"><h1>Persona Studio</h1><span>characters on a fraction of the model</span></div>')
            self.search = gr.Textbox(placeholder="Search names, tags and texts", label="Search characters", show_label=False,
                                     elem_id="side-search", container=False)
            self.nothing = gr.HTML(elem_id="side-nothing")
            live_html("side-portraits")
            self.choice = gr.Radio([], label="Characters", show_label=False, elem_id="side-characters", container=False)
            with gr.Row(elem_classes="tight"):
                self.new = gr.Button("New", size="sm", variant="primary", elem_id="side-new", min_width=60)
                self.duplicate = gr.Button("Duplicate", size="sm", elem_id="side-duplicate", min_width=60)
                self.delete = gr.Button("Delete", size="sm", elem_id="side-delete", min_width=60)
            with gr.Column(visible=False, elem_id="side-undo-box", elem_classes="notice") as self.undo_box:
                self.undo_text = gr.HTML()
                self.undo = gr.Button("Undo", size="sm", elem_id="side-undo", min_width=60)
            # Any kind of file: what it is shows in its content, and a refusal is one line among the others.
            self.load = gr.UploadButton("Import cards, or drop them here", size="sm", file_count="multiple", type="filepath",
                                        elem_id="side-import")
            self.cast = gr.Button("Draft a cast", size="sm", elem_id="side-cast")
            with gr.Column(visible=False, elem_id="side-imported", elem_classes="notice") as self.imports:
                self.imported = gr.HTML()
                self.close = gr.Button("Close", size="sm", elem_id="side-imported-close", min_width=60)
            self.model = gr.Dropdown(["starter"], value="starter", label="Base model", info=MODEL_HINT,
                                     allow_custom_value=True, elem_id="side-model")
            self.model_note = gr.HTML(elem_id="side-model-note")
            with gr.Accordion("More models", open=False, elem_id="side-models"):
                self.shelf = live_html("side-shelf")
            self.library = LibraryPanel()
            self.settings = SettingsPanel()
            self.deleted = gr.State("")
            self.address = gr.Textbox(visible="hidden", label="Address of the character")
            self.live = gr.HTML(live_script(services.live), visible="hidden", elem_id="live",
                                js_on_load=(ASSETS / "live.js").read_text(encoding="utf-8"))


def choices(services: Services, search: str) -> list[tuple[str, str]]:
    """(name, id) of the characters that match."""
    return [(one.name or UNNAMED, one.id) for one in characters.list_characters(services.store, search=search)]


def _listed(services: Services, search: str, **chosen: Any) -> tuple[Any, str]:
    """The list, and what to say where it is empty. `chosen`: a new value for it."""
    found = choices(services, search)
    nothing = f'<p class="quiet">Nothing matches “{html.escape(search.strip()[:60])}”.</p>' if search.strip() and not found else ""
    return gr.Radio(found, **chosen), nothing


def _opened(services: Services, search: str, character: Character | None) -> tuple[Any, ...]:
    """What opens a character, or none, for `_of_opened`. A search that would hide it is cleared."""
    id, address = (character.id, character.slug) if character else ("", "")
    search = search if not id or id in [one for _, one in choices(services, search)] else ""
    return *_listed(services, search, value=id or None), search, id, address


def _of_opened(page: Page, side: Side) -> list[Any]:
    """The list with what it says, the search, the page's character, the address."""
    return [side.choice, side.nothing, side.search, page.character, side.address]


def build(services: Services, page: Page) -> Side:
    """The sidebar with its listeners."""
    side = Side(services)
    _choosing(services, page, side)
    _deleting(services, page, side)
    _model(services, page, side)
    services.live.part(COMMON, lambda _: {"jobs": under_way.jobs_html(services)})
    services.live.part(COMMON, lambda _: {"side-portraits": library.portraits_html(services)}, stamp=services.library_stamp)
    services.live.part(COMMON, lambda look: {"welcome": welcome.welcome_html(services, look["character"])}, "character",
                       stamp=services.library_stamp)
    return side


def _choosing(services: Services, page: Page, side: Side) -> None:
    @guarded
    def choose(id: str) -> Any:
        found = characters.get(services.store, id)
        return (id, found.slug) if found else gr.skip()

    @guarded
    def refresh(search: str, id: str) -> Any:
        found = characters.get(services.store, id) if id else None
        return *_listed(services, search), found.slug if found else ""  # no value: another may have been clicked meanwhile

    listing = [side.search, page.character]
    side.choice.input(choose, side.choice, [page.character, side.address], trigger_mode="always_last", **_TURN)
    side.address.change(None, side.address, None, js=_ADDRESS, **PRIVATE)
    side.search.change(refresh, listing, [side.choice, side.nothing, side.address], trigger_mode="always_last", **_TURN)
    page.revision.change(refresh, listing, [side.choice, side.nothing, side.address], **_TURN)


def _making(services: Services, page: Page, side: Side) -> None:
    @guarded
    def new(search: str) -> Any:  # the page's script puts the cursor into its name
        welcome.begin(services)
        made = characters.create(services.store, fields.blank_card(welcome.NAMELESS))
        return *_opened(services, search, made), gr.Tabs(selected="draft")

    @guarded
    def duplicate(search: str, id: str) -> Any:
        return _opened(services, search, characters.duplicate(services.store, _chosen(services, id).id))

    @guarded
    def load_cards(search: str, id: str, files: list[str]) -> Iterator[Any]:
        done: list[library.Imported] = []
        reported = 0.0
        for file in files or []:
            done.append(library.import_card(services.store, Path(file)))
            last = next((one.slug for one in reversed(done) if one.slug), id)
            whole = len(done) == len(files)
            if whole or time.monotonic() - reported >= NEWS_SECONDS:
                reported = time.monotonic()
                opened = _opened(services, search, characters.get(services.store, last)) if whole else [gr.skip()] * 5
                yield (*opened, gr.Column(visible=True), library.imports_html(done, len(files)),
                       gr.Button("Close" if whole else "Stop"))

    @guarded
    def list_all(search: str) -> Any:
        time.sleep(NEWS_SECONDS)  # an import that was stopped goes on until its next progress report
        return _listed(services, search)

    shown = _of_opened(page, side)
    listing = [side.search, page.character]
    side.new.click(new, side.search, [*shown, page.rooms], **_TURN)
    side.cast.click(lambda: gr.Tabs(selected="draft"), None, page.rooms, **PRIVATE).then(None, None, None, js=_CAST, **PRIVATE)
    side.duplicate.click(duplicate, listing, shown, js=FLUSH, **_TURN)
    loading = side.load.upload(load_cards, [*listing, side.load], [*shown, side.imports, side.imported, side.close], **PRIVATE)
    loading.then(**in_sight("#side-imported"))
    side.close.click(lambda: gr.Column(visible=False), None, side.imports, cancels=[loading], **PRIVATE).then(
        list_all, side.search, [side.choice, side.nothing], **PRIVATE)


def jobs_box() -> gr.HTML:
    """The place at the top of the page for the jobs under way."""
    return live_html("jobs", _JOBS, apply_default_css=False)


def welcome_box() -> gr.HTML:
    """The place above the rooms for the welcome, and for what marks the rooms."""
    return live_html("welcome", _IMPORTING, apply_default_css=False)


def open_rooms(services: Services, page: Page, side: Side, jobs: gr.HTML, welcome: gr.HTML) -> None:
    """The listeners that open a room, once there are rooms. `jobs`: the jobs_box, `welcome`: the welcome_box."""
    _making(services, page, side)
    _panels(services, page, side)
    _greet(services, page, side, welcome)

    @guarded
    def open_job(event: gr.EventData, search: str) -> Any:
        do, id = str(event._data.get("do")), str(event._data.get("id"))
        if do == "stop":
            under_way.stop(services, id)
            services.live.touch()
            return gr.skip()
        job = under_way.find(services, id)
        who = characters.get(services.store, job.character) if job.character else None
        if job.character and (who is None or who.deleted):
            raise UserError("The character of this job was deleted.", "Press Undo in the sidebar to restore it.")
        opened = _opened(services, search, who) if who else [gr.skip()] * 5
        return *opened, gr.Tabs(selected=job.room)

    jobs.click(open_job, side.search, [*_of_opened(page, side), page.rooms], **_TURN)


def _greet(services: Services, page: Page, side: Side, box: gr.HTML) -> None:
    def begin(search: str, wanted: str) -> dict[Any, Any]:
        if wanted not in ("meet", "write", "import"):
            return {}
        welcome.begin(services)
        if wanted == "import":  # the page's script asks for the files
            return {}
        who = (characters.create(services.store, fields.blank_card(welcome.NAMELESS)) if wanted == "write"
               else characters.get(services.store, welcome.GUEST))
        if who is None or who.deleted:
            raise UserError("Pim is not here any more.", "Pick another character in the list.")
        opened = dict(zip(_of_opened(page, side), _opened(services, search, who), strict=True))
        return {**opened, page.rooms: gr.Tabs(selected="draft" if wanted == "write" else "preview")}

    @guarded
    def act(event: gr.EventData, search: str) -> Any:
        data = event._data if isinstance(event._data, dict) else {}
        wanted = str(data.get("do"))
        try:
            if wanted == "close":
                welcome.begin(services)
            return begin(search, wanted) or gr.skip()
        finally:
            services.live.touch(COMMON)

    box.click(act, side.search, [*_of_opened(page, side), page.rooms], **_TURN)


def _deleting(services: Services, page: Page, side: Side) -> None:
    @guarded
    def delete(search: str, chosen: str) -> Any:
        gone = _chosen(services, chosen)
        characters.delete(services.store, gone.id)
        left = characters.list_characters(services.store, search=search) or characters.list_characters(services.store)
        return (*_opened(services, search, left[0] if left else None), gone.id, gr.Column(visible=True),
                f"{_bold(gone)} was deleted, with its chats and runs.")

    @guarded
    def undo(search: str, gone: str) -> Any:
        return *_opened(services, search, characters.undelete(services.store, gone)), gr.Column(visible=False)

    shown = _of_opened(page, side)
    side.delete.click(delete, [side.search, page.character], [*shown, side.deleted, side.undo_box, side.undo_text],
                      trigger_mode="once", js=FLUSH, **_TURN).then(**in_sight("#side-undo-box"))
    side.undo.click(undo, [side.search, side.deleted], [*shown, side.undo_box], **_TURN)


def _bold(character: Character) -> str:
    return f"<b>{html.escape(character.name or UNNAMED)}</b>"


def _chosen(services: Services, id: str) -> Character:
    found = characters.get(services.store, id) if id else None
    if found is None or found.deleted:
        raise UserError("No character is chosen.", "Pick one in the list, or press New.")
    return found


def _model(services: Services, page: Page, side: Side) -> None:
    @guarded
    def use(model: str | None) -> Any:
        name = (model or "starter").strip()
        values.set_value(services.store, "model", name)  # kept over restarts
        return name, library.model_note(services, name)

    side.model.change(use, side.model, [page.model, side.model_note], **PRIVATE)
    shelf = Shelf(services)
    services.live.part(COMMON, shelf.contents)

    @guarded
    def act(event: gr.EventData) -> Any:
        do, name = str(event._data.get("do")), str(event._data.get("name"))
        try:
            if do == "shelf-use":
                shelf.use(name)
                return gr.Dropdown(library.model_choices(services)[0], value=name)
            {"shelf-fetch": shelf.fetch, "shelf-stop": shelf.stop, "shelf-delete": shelf.delete}[do](name)
            return gr.skip()
        finally:
            services.live.touch(COMMON)

    side.shelf.click(act, None, side.model, **PRIVATE)


def _panels(services: Services, page: Page, side: Side) -> None:
    def show(character: Character | None) -> tuple[Any, ...]:
        return _opened(services, "", character)

    side.library.listen(services, page, _of_opened(page, side), show, _TURN)


def load(blocks: gr.Blocks, services: Services, page: Page, side: Side) -> None:
    """Fill the sidebar when a page opens, or when it says that this never came; the address may name a character."""
    side.settings.listen(services, page, blocks)

    @guarded
    def begin(search: str | None, address: str | None) -> Any:
        wanted = characters.get(services.store, address) if address else None
        gone = wanted if wanted and wanted.deleted else None
        if gone:
            gr.Warning(f"{_bold(gone)} was deleted. Press Undo in the sidebar to restore it.", title="Not here")
        elif address and not wanted:
            gr.Warning(f"There is no character at this address (“{html.escape(address[:80])}”). Pick one in the list.",
                       title="Not here")
        listed = characters.list_characters(services.store)
        guest = welcome.GUEST if welcome.state(services) == "new" else ""  # so that no other greeting shows before Meet Pim's
        first = next((one for one in listed if one.slug == guest), next(iter(listed), None))
        models, model = library.model_choices(services)
        return (*_opened(services, search or "", first if not address else None if gone else wanted), gone.id if gone else "",
                gr.Column(visible=bool(gone)), f"{_bold(gone)} was deleted." if gone else "",
                gr.Dropdown(models, value=model), library.model_note(services, model),
                live_script(services.live, filled=True))

    gr.on([blocks.load, side.live.click], begin, [side.search, side.address],
          [*_of_opened(page, side), side.deleted, side.undo_box, side.undo_text, side.model, side.model_note, side.live],
          js=_ADDRESSED, **_TURN)

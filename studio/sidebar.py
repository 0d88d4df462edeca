"""The sidebar: the characters, the base model in use, the jobs under way, and the library's backup.

The list of characters is a radio group, so that the keyboard and a screen
reader know what it is. Knows no room; it sets the page's character, and the
rooms follow.
"""

import html
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.cards import editing
from studio import library
from studio.page import POLL, PRIVATE, Page, guarded
from studio.services import Services
from studio.serving import servable
from studio.store import characters, database, values
from studio.theme import ASSETS

MODEL_HINT = "The language model that characters are carved from. A hub name or a folder can be typed in."
NEWS_SECONDS = 0.4  # between two looks at a long import
UNNAMED = "Unnamed"
_FLUSH = "async (...values) => { await window.personaStudioDraft?.flush(); return values; }"  # the last keystrokes first
_TAKE_JOBS = ("(window.personaStudioNews ??= {}).jobs = "
              "{ asks: () => '', takes: (html) => { if (props.value !== html) props.value = html; } };")
_ADDRESS = "(value) => window.personaStudioAddress('character', value)"


class Side:
    """The sidebar's controls."""

    def __init__(self) -> None:
        with gr.Sidebar(elem_id="sidebar", width=300, label="Characters"):
            gr.HTML('<div class="brand"><b>Persona Studio</b><span>characters on a fraction of the model</span></div>')
            self.search = gr.Textbox(placeholder="Search names, tags and texts", label="Search characters", show_label=False,
                                     elem_id="side-search", container=False)
            self.choice = gr.Radio([], label="Characters", show_label=False, elem_id="side-characters", container=False)
            with gr.Row(elem_classes="tight"):
                self.new = gr.Button("New", size="sm", variant="primary", elem_id="side-new", min_width=60)
                self.duplicate = gr.Button("Duplicate", size="sm", elem_id="side-duplicate", min_width=60)
                self.delete = gr.Button("Delete", size="sm", elem_id="side-delete", min_width=60)
            # Any kind of file: what it is shows in its content, and a refusal is one line among the others.
            self.load = gr.UploadButton("Import cards, or drop them here", size="sm", file_count="multiple", type="filepath",
                                        elem_id="side-import")
            with gr.Column(visible=False, elem_id="side-imported", elem_classes="notice") as self.imports:
                self.imported = gr.HTML()
                self.close = gr.Button("Close", size="sm", elem_id="side-imported-close", min_width=60)
            with gr.Column(visible=False, elem_id="side-confirm", elem_classes="notice") as self.confirm:
                self.question = gr.HTML()
                with gr.Row(elem_classes="tight"):
                    self.really = gr.Button("Delete", size="sm", variant="stop", elem_id="side-delete-yes", min_width=60)
                    self.keep = gr.Button("Keep", size="sm", elem_id="side-delete-no", min_width=60)
            with gr.Column(visible=False, elem_id="side-undo-box", elem_classes="notice") as self.undo_box:
                self.undo_text = gr.HTML()
                self.undo = gr.Button("Undo", size="sm", elem_id="side-undo", min_width=60)
            self.model = gr.Dropdown(["starter"], value="starter", label="Base model", info=MODEL_HINT,
                                     allow_custom_value=True, elem_id="side-model")
            self.model_note = gr.HTML(elem_id="side-model-note")
            self.jobs = gr.HTML(elem_id="side-jobs", js_on_load=_TAKE_JOBS)
            with gr.Accordion("Library", open=False, elem_id="side-library") as self.library:
                self.backup = gr.Button("Back up now", size="sm", elem_id="side-backup")
                self.restore = gr.UploadButton("Restore a backup", size="sm", file_types=[".db"], type="filepath",
                                               elem_id="side-restore")
                self.backups = gr.Dropdown([], label="Backups", elem_id="side-backups", filterable=False, visible=False)
                self.download = gr.DownloadButton("Download this backup", size="sm", elem_id="side-download", visible=False)
                self.library_note = gr.Markdown(elem_id="side-library-note")
            self.deleted = gr.State("")
            self.news = gr.HTML(visible="hidden", elem_id="side-news",
                                js_on_load=(ASSETS / "news.js").read_text(encoding="utf-8"))


def choices(services: Services, search: str, keep: str = "") -> list[tuple[str, str]]:
    """(label, slug) of the characters that match; the chosen one stays in the list whatever is searched."""
    found = [(one.name or UNNAMED, one.slug) for one in characters.list_characters(services.store, search=search)]
    chosen = characters.get(services.store, keep) if keep else None
    if chosen and not chosen.deleted and chosen.slug not in [slug for _, slug in found]:
        found.insert(0, (chosen.name or UNNAMED, chosen.slug))
    return found


def build(services: Services, page: Page) -> Side:
    """The sidebar with its listeners."""
    side = Side()
    _choosing(services, page, side)
    _making(services, side)
    _deleting(services, side)
    _model(services, page, side)
    _library(services, side)
    _news(services, side)
    return side


def _choosing(services: Services, page: Page, side: Side) -> None:
    @guarded
    def choose(slug: str | None) -> Any:
        found = characters.get(services.store, slug) if slug else None
        return found.id if found else ""

    @guarded
    def refresh(search: str, slug: str | None) -> Any:
        return gr.Radio(choices(services, search, slug or ""))  # no value: another may have been clicked meanwhile

    listing = [side.search, side.choice]
    side.choice.change(choose, side.choice, page.character, js=_ADDRESS, **PRIVATE)
    side.search.change(refresh, listing, side.choice, trigger_mode="always_last", **PRIVATE)
    page.revision.change(refresh, listing, side.choice, **PRIVATE)


def _making(services: Services, side: Side) -> None:
    def listed(search: str, slug: str) -> Any:
        return gr.Radio(choices(services, search, slug), value=slug or None)

    @guarded
    def new(search: str) -> Any:
        return listed(search, characters.create(services.store, editing.blank_card("New character")).slug)

    @guarded
    def duplicate(search: str, slug: str | None) -> Any:
        return listed(search, characters.duplicate(services.store, _chosen(services, slug).id).slug)

    @guarded
    def load_cards(search: str, slug: str | None, files: list[str]) -> Iterator[Any]:
        done: list[library.Imported] = []
        told = 0.0
        for file in files or []:
            done.append(library.import_card(services.store, Path(file)))
            last = next((one.slug for one in reversed(done) if one.slug), slug or "")
            whole = len(done) == len(files)
            if whole or time.monotonic() - told >= NEWS_SECONDS:
                told = time.monotonic()
                yield (listed(search, last) if whole else gr.skip(), gr.Column(visible=True),
                       library.imports_html(done, len(files)), gr.Button("Close" if whole else "Stop"))

    @guarded
    def list_all(search: str, slug: str | None) -> Any:
        time.sleep(NEWS_SECONDS)  # an import that was stopped goes on until it would have told its next news
        return gr.Radio(choices(services, search, slug or ""))

    listing = [side.search, side.choice]
    side.new.click(new, side.search, side.choice, **PRIVATE)
    side.duplicate.click(duplicate, listing, side.choice, js=_FLUSH, **PRIVATE)
    loading = side.load.upload(load_cards, [*listing, side.load], [side.choice, side.imports, side.imported, side.close],
                               **PRIVATE)
    side.close.click(lambda: gr.Column(visible=False), None, side.imports, cancels=[loading], **PRIVATE).then(
        list_all, listing, side.choice, **PRIVATE)


def _deleting(services: Services, side: Side) -> None:
    @guarded
    def ask(slug: str | None) -> Any:
        return gr.Column(visible=True), f"Delete {_bold(_chosen(services, slug))} with its chats and runs? You can undo it."

    @guarded
    def delete(search: str, slug: str | None) -> Any:
        gone = _chosen(services, slug)
        characters.delete(services.store, gone.id)
        left = choices(services, search)
        return (gr.Radio(left, value=left[0][1] if left else None), gone.id, gr.Column(visible=False),
                gr.Column(visible=True), f"{_bold(gone)} was deleted.")

    @guarded
    def undo(search: str, gone: str) -> Any:
        back = characters.undelete(services.store, gone)
        return gr.Radio(choices(services, search, back.slug), value=back.slug), gr.Column(visible=False)

    side.delete.click(ask, side.choice, [side.confirm, side.question], **PRIVATE)
    side.keep.click(lambda: gr.Column(visible=False), None, side.confirm, **PRIVATE)
    side.really.click(delete, [side.search, side.choice],
                      [side.choice, side.deleted, side.confirm, side.undo_box, side.undo_text], **PRIVATE)
    side.undo.click(undo, [side.search, side.deleted], [side.choice, side.undo_box], **PRIVATE)


def _bold(character: characters.Character) -> str:
    return f"<b>{html.escape(character.name or UNNAMED)}</b>"


def _chosen(services: Services, slug: str | None) -> characters.Character:
    found = characters.get(services.store, slug) if slug else None
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


def _library(services: Services, side: Side) -> None:
    def listed(name: str | None) -> tuple[Any, Any]:
        """The list of backups with one of them chosen, else the newest, and the button that fetches it."""
        found = library.backup_choices(services)
        names = [one for _, one in found]
        chosen = name if name in names else next(iter(names), None)
        button = (gr.DownloadButton(value=servable(library.backup_file(services, chosen)), visible=True) if chosen
                  else gr.DownloadButton(visible=False))
        return gr.Dropdown(found, value=chosen, visible=bool(found)), button

    @guarded
    def back_up() -> Any:
        kept = database.backup(services.store)
        return f"Saved as `{kept}`.", *listed(kept.name)

    @guarded
    def list_backups(name: str | None) -> Any:
        return listed(name)

    @guarded
    def offer(name: str | None) -> Any:
        return gr.DownloadButton(value=servable(library.backup_file(services, name or "")), visible=True)

    @guarded
    def restore(file: str) -> Any:
        library.restore(services, Path(file))
        return "Restored. Reload the page to see it; what was here before is among the backups."

    shown = [side.backups, side.download]
    side.backup.click(back_up, None, [side.library_note, *shown], **PRIVATE)
    side.library.expand(list_backups, side.backups, shown, **PRIVATE)
    side.backups.input(offer, side.backups, side.download, **PRIVATE)
    side.restore.upload(restore, side.restore, side.library_note, **PRIVATE)


def _news(services: Services, side: Side) -> None:
    services.news.tell("jobs", lambda _: library.jobs_html(services))
    side.news.token(lambda: _token_html(services), None, side.news, **POLL)  # a studio that was started anew has another


def _token_html(services: Services) -> str:
    return f'<i data-token="{services.news.token}"></i>'


def load(blocks: gr.Blocks, services: Services, side: Side) -> None:
    """Fill the sidebar when a page opens, or when it says that this never came; the address may name a character."""

    @guarded
    def begin(request: gr.Request) -> Any:
        wanted = characters.get(services.store, request.query_params.get("character", ""))
        found = choices(services, "", wanted.slug if wanted else "")
        slug = wanted.slug if wanted and not wanted.deleted else (found[0][1] if found else None)
        models, model = library.model_choices(services)
        return (gr.Radio(found, value=slug), gr.Dropdown(models, value=model), library.model_note(services, model),
                library.jobs_html(services), _token_html(services))

    gr.on([blocks.load, side.news.click], begin, None, [side.choice, side.model, side.model_note, side.jobs, side.news], **PRIVATE)

"""Room 5, Export: a finished run becomes a folder with a name, proven to load, and a zip to take away."""

import contextlib
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from engine.base.errors import UserError
from engine.base.files import slug
from studio.page import Page, guarded
from studio.services import Services
from studio.store import characters, exports, runs
from studio.store.runs import Run
from studio.tabs.export import view

NEWS_SECONDS = 1.0


def finished_runs(services: Services, character: str) -> list[Run]:
    """The character's pruned models that can be exported, newest first."""
    return runs.list_runs(services.store, character=character, kinds=["prune"], states=["done"]) if character else []


def proposed_name(services: Services, run: Run) -> str:
    """A name for the export: the character's and what was removed."""
    found = characters.get(services.store, run.character)
    return f"{slug(found.char if found else run.name)}-{round(100 * run.spec.get('sparsity', 0.25))}"


def present_export_run(services: Services, character: str) -> Run | None:
    """The export job of the character to tell about: the one under way, else the next to come, else the last."""
    return runs.foremost(runs.list_runs(services.store, character=character, kinds=["export"])) if character else None


def servable(zip_file: Path) -> str:
    """A second name for an export's zip among the files that Gradio serves, so that it copies no gigabytes to serve it."""
    changed = zip_file.stat().st_mtime
    name = _second_name(zip_file, changed)
    if not Path(name).exists():  # Gradio removes what is old
        _second_name.cache_clear()
        name = _second_name(zip_file, changed)
    return name


@functools.lru_cache(maxsize=64)
def _second_name(zip_file: Path, changed: float) -> str:
    del changed  # part of the cache's key only: a zip that was written anew is served anew
    served = Path(get_upload_folder())
    served.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix="persona-studio-", dir=served)) / zip_file.name
    with contextlib.suppress(OSError):
        os.link(zip_file, target)
        return str(target)
    shutil.copyfile(zip_file, target)  # another disk
    return str(target)


class Room:
    """The controls of the room."""

    def __init__(self) -> None:
        self.empty = gr.HTML(view.NO_RUN, visible=False, elem_id="export-empty")
        with gr.Column(visible=False) as self.whole, gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self.run = gr.Dropdown([], label="Pruned model", elem_id="export-run")
                self.report = gr.HTML(elem_id="export-report")
                with gr.Group():
                    self.name = gr.Textbox(label="Name", max_length=100, elem_id="export-name",
                                           info="The folder gets this name, with dashes for spaces.")
                    self.zip = gr.Checkbox(label="Also pack a zip to download", elem_id="export-zip")
                with gr.Row(elem_classes="tight"):
                    self.start = gr.Button("Export", variant="primary", elem_id="export-start")
                    self.stop = gr.Button("Stop", visible=False, elem_id="export-stop")
                self.progress = gr.HTML(elem_id="export-progress")
            with gr.Column(scale=3, min_width=320):
                self.figure = gr.Plot(show_label=False, container=False, elem_id="export-figure")
                self.past = gr.Radio([], label="Past exports", elem_id="export-past", visible=False)
                self.detail = gr.HTML(elem_id="export-detail")
                with gr.Row(elem_classes="tight"):
                    self.download = gr.DownloadButton("Download the zip", size="sm", visible=False, elem_id="export-download")
                    self.forget = gr.Button("Take off the list", size="sm", visible=False, elem_id="export-forget")
                    self.undo = gr.Button("Undo", size="sm", visible=False, elem_id="export-undo")
        self.seen, self.chosen = gr.State(""), gr.State("")  # news; the run that is shown
        self.forgotten = gr.State("")
        self.timer = gr.Timer(NEWS_SECONDS, active=False)

    @property
    def of_character(self) -> list[Any]:
        """What changes with the character."""
        return [self.empty, self.whole, self.run, *self.of_run, self.past, *self.of_export, self.timer, self.chosen]

    @property
    def of_run(self) -> list[Any]:
        """What changes with the chosen run."""
        return [self.report, self.figure, self.name]

    @property
    def of_export(self) -> list[Any]:
        """What changes with the chosen past export."""
        return [self.detail, self.download, self.forget]


def build(services: Services, page: Page, tab: gr.Tab) -> None:
    """The room and its listeners."""
    room = Room()
    _choosing(services, page, tab, room)
    _exporting(services, page, room)
    _keeping(services, page, room)


def _choosing(services: Services, page: Page, tab: gr.Tab, room: Room) -> None:
    @guarded
    def show(character: str, chosen: str) -> Any:
        return show_character(services, character, chosen)

    @guarded
    def show_run(run: str | None) -> Any:
        return *_run_shown(services, run), run or ""

    @guarded
    def show_export(export: str | None) -> Any:
        return _export_shown(services, export)

    for begin in (page.character.change, tab.select):
        begin(show, [page.character, room.chosen], room.of_character, **page.private)
    room.run.input(show_run, room.run, [*room.of_run, room.chosen], **page.private)
    room.past.input(show_export, room.past, room.of_export, **page.private)


def _exporting(services: Services, page: Page, room: Room) -> None:
    @guarded
    def start(run: str | None, name: str, zipped: bool) -> Any:
        if not run:
            raise UserError("No pruned model is chosen.")
        services.jobs.submit_export(run, name, zipped)
        return gr.Timer(active=True), "", gr.Button(visible=True)

    @guarded
    def stop(character: str) -> None:
        present = present_export_run(services, character)
        if present and present.state in ("queued", *runs.ACTIVE):
            services.jobs.stop(present.id)

    @guarded
    def news(character: str, seen: str) -> Any:
        return read_news(services, character, seen)

    room.start.click(start, [room.run, room.name, room.zip], [room.timer, room.seen, room.stop], **page.private)
    room.stop.click(stop, page.character, None, **page.private)
    room.timer.tick(news, [page.character, room.seen], [room.progress, room.stop, room.timer, room.seen, room.past,
                                                         *room.of_export], **page.poll)


def _keeping(services: Services, page: Page, room: Room) -> None:
    @guarded
    def forget(character: str, export: str | None) -> Any:
        if not export:
            raise UserError("No export is chosen.")
        exports.delete(services.store, export)
        return *_past(services, character), export, gr.Button(visible=True)

    @guarded
    def undo(character: str, export: str) -> Any:
        exports.undelete(services.store, export)
        return *_past(services, character, export), gr.Button(visible=False)

    room.forget.click(forget, [page.character, room.past], [room.past, *room.of_export, room.forgotten, room.undo], **page.private)
    room.undo.click(undo, [page.character, room.forgotten], [room.past, *room.of_export, room.undo], **page.private)


def show_character(services: Services, character: str, chosen: str = "") -> tuple[Any, ...]:
    """All of the room for a character; see Room.of_character. The news follow at the timer's next tick.

    `chosen`: the run that the page shows; where it is still one of the character's, it stays, with the name typed for it.
    """
    found = finished_runs(services, character)
    same = chosen in [run.id for run in found]
    run_id = chosen if same else found[0].id if found else None
    of_run = (gr.skip(), gr.skip(), gr.skip()) if same else _run_shown(services, run_id)
    return (gr.HTML(visible=not found), gr.Column(visible=bool(found)),
            gr.Dropdown([(view.run_label(run), run.id) for run in found], value=run_id),
            *of_run, *_past(services, character), gr.Timer(active=bool(found)), run_id or "")


def _run_shown(services: Services, run_id: str | None) -> tuple[Any, ...]:
    run = runs.get(services.store, run_id) if run_id else None
    if run is None:
        return "", None, ""
    return view.report_html(run), view.readings_figure(run), proposed_name(services, run)


def _past(services: Services, character: str, chosen: str = "") -> tuple[Any, ...]:
    found = exports.list_exports(services.store, character=character) if character else []
    ids = [one.id for one in found]
    choice = chosen if chosen in ids else ids[0] if ids else None
    radio = gr.Radio([(view.export_label(one), one.id) for one in found], value=choice, visible=bool(found))
    return radio, *_export_shown(services, choice)


def _export_shown(services: Services, export_id: str | None) -> tuple[Any, ...]:
    export = exports.get(services.store, export_id) if export_id else None
    if export is None:
        return "", gr.DownloadButton(visible=False), gr.Button(visible=False)
    has_zip = bool(export.zip) and Path(export.zip).is_file()
    download = gr.DownloadButton(visible=False)
    if has_zip:
        download = gr.DownloadButton(value=servable(Path(export.zip)), visible=True)
    return view.export_html(export), download, gr.Button(visible=True)


def read_news(services: Services, character: str, seen: str) -> Any:
    """How the character's exports are getting on; a skip while nothing is new, and no more ticks once all have ended."""
    run = present_export_run(services, character)
    if run is None:
        return ("", gr.Button(visible=False), gr.Timer(active=False), "", *(gr.skip() for _ in range(4)))
    run_view, word = services.watcher.view(run.id), services.jobs.state_word(run)
    now = f"{run.id} {run.state} {word} {run_view.revision}"
    if now == seen:
        return gr.skip()
    going = run.state in ("queued", *runs.ACTIVE)
    another = bool(seen) and not seen.startswith(run.id)  # the one told about before has ended
    past = _past(services, character) if run.state == "done" or another else tuple(gr.skip() for _ in range(4))
    return view.progress_html(run, run_view, word), gr.Button(visible=going), gr.Timer(active=going), now, *past


__all__ = ["build"]

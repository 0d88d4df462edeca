"""Room 5, Export: a finished run becomes a folder with a name, proven to load, ready for engines; and the plan of a cast."""

from typing import Any

import gradio as gr

from engine.base.errors import UserError
from studio.page import Page, guarded
from studio.services import Services
from studio.store import runs
from studio.tabs.export import planner, showing
from studio.tabs.export.room import EXPORT, Room


def build(services: Services, page: Page, tab: gr.Tab) -> None:
    """The room and its listeners."""
    room = Room()
    _choosing(services, page, tab, room)
    _exporting(services, page, room)
    _keeping(services, page, room)
    planner.listen(services, page, room.planner, [room.view.change, tab.select], room.view)


def _choosing(services: Services, page: Page, tab: gr.Tab, room: Room) -> None:
    @guarded
    def show(character: str, chosen: str) -> Any:
        return showing.show_character(services, character, chosen)

    @guarded
    def show_run(run: str | None) -> Any:
        return *showing.show_run(services, run), run or ""

    @guarded
    def show_export(export: str | None) -> Any:
        return showing.show_export(services, export)

    for begin in (page.character.change, tab.select):
        begin(show, [page.character, room.chosen], room.of_character, **page.private)
    room.run.input(show_run, room.run, [*room.of_run, room.chosen], **page.private)
    room.past.input(show_export, room.past, room.of_export, **page.private)
    room.view.change(lambda view: (gr.Row(visible=view == EXPORT), gr.Column(visible=view != EXPORT)), room.view,
                     [room.making, room.planner.whole], **page.private)


def _exporting(services: Services, page: Page, room: Room) -> None:
    @guarded
    def start(run: str | None, name: str, zipped: bool, engines: list[str], gguf: list[str], measure: bool) -> Any:
        if not run:
            raise UserError("No pruned model is chosen.")
        services.jobs.submit_export(run, name, zipped, {"engines": engines, "gguf": gguf, "measure": measure})
        return gr.Timer(active=True), "", gr.Button(visible=True)

    @guarded
    def stop(character: str) -> None:
        present = showing.present_export_run(services, character)
        if present and present.state in ("queued", *runs.ACTIVE):
            services.jobs.stop(present.id)

    @guarded
    def news(character: str, seen: str, chosen: str) -> Any:
        return showing.read_news(services, character, seen, chosen)

    asked = [room.run, room.name, room.zip, room.engines, room.gguf, room.measure]
    room.start.click(start, asked, [room.timer, room.seen, room.stop], **page.private)
    room.stop.click(stop, page.character, None, **page.private)
    told = [room.progress, room.stop, room.timer, room.seen, room.past, *room.of_export, room.sizes]
    room.timer.tick(news, [page.character, room.seen, room.chosen], told, **page.poll)


def _keeping(services: Services, page: Page, room: Room) -> None:
    @guarded
    def forget(character: str, export: str | None) -> Any:
        if not export:
            raise UserError("No export is chosen.")
        runs.delete_export(services.store, export)
        return *showing.show_past(services, character), export, gr.Button(visible=True)

    @guarded
    def undo(character: str, export: str) -> Any:
        runs.undelete_export(services.store, export)
        return *showing.show_past(services, character, export), gr.Button(visible=False)

    room.forget.click(forget, [page.character, room.past], [room.past, *room.of_export, room.forgotten, room.undo], **page.private)
    room.undo.click(undo, [page.character, room.forgotten], [room.past, *room.of_export, room.undo], **page.private)


__all__ = ["build"]

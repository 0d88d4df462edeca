"""The listeners of step 1: lines made, read, edited, approved."""

import html
import time
from pathlib import Path
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from studio.page import NameForm, Page, guarded, listen_to_renaming
from studio.services import Services
from studio.store import lines, runs
from studio.tabs.prune import lines_table
from studio.tabs.prune.layout import Controls
from studio.tabs.prune.lines_room import LinesRoom, Wish
from studio.tabs.prune.lines_table import Filter
from studio.tabs.prune.painting import rows_key

COPIED = "Approved lines do not change, so your change went into a copy. Approve the copy to use it."


def listen(services: Services, room: LinesRoom, page: Page, controls: Controls) -> None:
    """Register them."""
    _making(services, room, page, controls)
    _reading(room, page, controls)
    _editing(room, page, controls)
    _keeping(room, page, controls)


def _making(services: Services, room: LinesRoom, page: Page, controls: Controls) -> None:
    @guarded
    def make(character: str, model: str, *wish: Any) -> Any:
        room.make(character, model, Wish(*wish))
        return "", time.time_ns()

    @guarded
    def take(character: str, file: str) -> Any:
        found = room.take_file(character, Path(file))
        gr.Info(f"{len(lines.lines(room.store, found.id)):,} lines were read.", title="Your file")
        return found.id, time.time_ns()

    def of_run(act: Any) -> Any:
        @guarded
        def handler(character: str) -> Any:
            run = room.under_way(character)
            if run:
                act(run.id)
            return time.time_ns()

        return handler

    def learn(preset: str) -> str:
        return preset  # the prune that follows is as thorough, unless the writer says otherwise

    controls.who.input(lambda who: gr.Row(visible=who == "server"), controls.who, controls.server, **page.private)
    controls.preset.input(learn, controls.preset, controls.prune_preset, **page.private)
    controls.make.click(make, [page.character, page.model, controls.who, controls.preset, controls.url, controls.server_model],
                        [controls.set_id, controls.pulse], trigger_mode="once", **page.private)
    controls.file.upload(take, [page.character, controls.file], [controls.set_id, controls.pulse], **page.private)
    for button, act in ((controls.making_stop, services.jobs.stop), (controls.making_resume, services.jobs.resume),
                        (controls.making_kill, services.jobs.kill), (controls.making_drop, lambda id: runs.remove(room.store, id))):
        button.click(of_run(act), page.character, controls.pulse, trigger_mode="once", **page.private)


def _reading(room: LinesRoom, page: Page, controls: Controls) -> None:
    @guarded
    def approve(set_id: str) -> Any:
        room.approve(set_id)
        return set_id, time.time_ns()

    controls.sets.input(lambda set_id: (set_id or "", lines_table.PAGE, time.time_ns()), controls.sets,
                        [controls.set_id, controls.most, controls.pulse], **page.private)
    controls.more.click(lambda most: (most + lines_table.PAGE, time.time_ns()), controls.most, [controls.most, controls.pulse],
                        **page.private)
    controls.approve.click(approve, controls.shown_set, [controls.set_id, controls.pulse], trigger_mode="once", **page.private)


def _editing(room: LinesRoom, page: Page, controls: Controls) -> None:
    @guarded
    def edit(set_id: str, table: list[list[Any]], search: str, about: str, most: int, seen: dict[str, Any]) -> Any:
        return edited(room, set_id, table, Filter(search or "", about, most), seen)

    @guarded
    def take_out(set_id: str, table: list[list[Any]]) -> Any:
        changed, gone = room.take_out(set_id, lines_table.ticked(table))
        if changed != set_id:
            gr.Info(COPIED, title="A copy was made")
        text = f"{len(gone):,} {'line was' if len(gone) == 1 else 'lines were'} deleted."
        return changed, changed, gone, gr.Row(visible=True), text, time.time_ns()

    @guarded
    def undo(gone: list[str]) -> Any:
        room.put_back(gone)
        return [], gr.Row(visible=False), time.time_ns()

    asked = [controls.shown_set, controls.table, controls.search, controls.about, controls.most, controls.seen]
    # One edit gives the event twice, at once: the second must find the copy that the first has made.
    now_shown = [controls.set_id, controls.shown_set]
    controls.table.input(edit, asked, [*now_shown, controls.seen, controls.pulse], trigger_mode="always_last",
                         concurrency_limit=1, **page.private)
    controls.delete.click(take_out, [controls.shown_set, controls.table],
                          [*now_shown, controls.gone_lines, controls.undo_box, controls.undo_text, controls.pulse],
                          trigger_mode="once", **page.private)
    controls.undo.click(undo, controls.gone_lines, [controls.gone_lines, controls.undo_box, controls.pulse],
                        trigger_mode="once", **page.private)


def _keeping(room: LinesRoom, page: Page, controls: Controls) -> None:
    """Sets renamed, deleted, and put back."""
    def name_of(set_id: str) -> str | None:
        found = lines.line_set(room.store, set_id)
        return found.name if found else None

    @guarded
    def delete(set_id: str) -> Any:
        gone = room.delete(set_id)
        text = f"{html.escape(gone.name or 'A set of lines')} was deleted. Runs that learned from it keep their lines."
        return "", gone.id, gr.Row(visible=True), text, gr.Row(visible=False), gr.Row(visible=False), time.time_ns()

    @guarded
    def undelete(set_id: str) -> Any:
        return room.undelete(set_id).id, gr.Row(visible=False), time.time_ns()

    form = NameForm(controls.rename_set_box, controls.set_title, controls.rename_set_yes, controls.rename_set_no,
                    controls.named_set)
    listen_to_renaming(page, form, controls.rename_set, controls.shown_set, controls.pulse, name_of, room.rename)
    controls.delete_set.click(delete, controls.shown_set,
                              [controls.set_id, controls.gone_set, controls.gone_set_box, controls.gone_set_text,
                               controls.rename_set_box, controls.undo_box, controls.pulse], trigger_mode="once", **page.private)
    controls.undelete_set.click(undelete, controls.gone_set, [controls.set_id, controls.gone_set_box, controls.pulse],
                                trigger_mode="once", **page.private)


def edited(room: LinesRoom, set_id: str, table: list[list[Any]], wanted: Filter, seen: dict[str, Any]) -> Any:
    """Keep what a writer typed into the table: the set's id twice, what was seen, the pulse. A tick alone changes nothing.

    A text that no line may have is told, and the table shows the library's again.
    """
    every = lines.lines(room.store, set_id)
    repaint = {**seen, "rows": None}
    try:
        found = lines_table.edits(every, table)
        changed = room.edit(set_id, found)
    except UserError as error:
        gr.Warning(html.escape(str(error)), title="Not changed")
        return set_id, set_id, repaint, time.time_ns()
    if changed != set_id:
        gr.Info(COPIED, title="A copy was made")
        return changed, changed, repaint, time.time_ns()
    shown = lines_table.matching(lines.lines(room.store, set_id), wanted)[:wanted.most]
    if [line.position for line in shown] != sorted(lines_table.position_of(row) for row in table):
        return set_id, set_id, repaint, time.time_ns()
    if not found:
        return gr.skip()
    return set_id, set_id, {**seen, "rows": rows_key(set_id, shown)}, time.time_ns()  # the page shows it already

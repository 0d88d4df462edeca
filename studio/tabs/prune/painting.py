"""What the page shows, painted from the library: only the parts that have changed since this page last looked.

`seen` remembers a key for each part. A part is painted when its key is another one, so that nothing flickers, and
a look at what runs costs nothing while nothing happens.
"""

import hashlib
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr
from gradio.components.plot import PlotData

from engine.base.errors import UserError
from studio.figures.words import dedupe_labels
from studio.services import Services
from studio.store import characters, lines
from studio.store.lines import CalibrationLine, LineSet
from studio.store.runs import ACTIVE, Run
from studio.tabs.prune import drawing, lines_table
from studio.tabs.prune.layout import Controls
from studio.tabs.prune.lines_room import LinesRoom
from studio.tabs.prune.lines_table import ALL, Filter
from studio.tabs.prune.room_news import Facts, RoomNews, figure_stamp, stamp_html
from studio.tabs.prune.runs_html import PAGE
from studio.tabs.prune.runs_room import RunsRoom
from studio.workers.view import RunView

Updates = dict[Any, Any]
NOT_RESPONDING = "not responding"


@dataclass(frozen=True)
class Look:
    """What one page looks at. `set_id`, `run_id`: chosen by the writer, "" for the newest; `other`: a run to compare with;
    `runs`: how many of the newest are listed."""

    character: str = ""
    set_id: str = ""
    run_id: str = ""
    other: str = ""
    filter: Filter = field(default_factory=Filter)
    runs: int = PAGE


class Painter:
    """Paints one page. `whole`: also what only this page's own listeners change, else what runs do."""

    def __init__(self, services: Services, lines_room: LinesRoom, runs_room: RunsRoom, controls: Controls) -> None:
        self.services, self.store = services, services.store
        self.lines_room, self.runs_room, self.controls = lines_room, runs_room, controls
        self.room_news, self.drawings = RoomNews(services, lines_room, runs_room), drawing.Drawings()

    def paint(self, look: Look, seen: dict[str, Any], whole: bool = True) -> Updates:
        """Component updates, {} when there is nothing new."""
        part = _Parts(dict(seen))
        character = characters.get(self.store, look.character) if look.character else None
        known = bool(character)
        part.show("room", known, lambda: {self.controls.room: gr.Column(visible=known),
                                          self.controls.empty: gr.HTML(visible=not known)})
        if known:
            facts = self.room_news.facts(look.character, look.run_id, look.runs)
            self._stamp(facts.stamp, part)
            self._lines(facts, look, part, whole)
            self._runs(facts, look, part, whole)
        return {**part.updates, self.controls.seen: part.seen} if part.updates else {}

    def paint_figures(self, look: Look, seen: dict[str, Any]) -> Updates:
        """The figures that grow, of the run that the page shows, as the page gets them; {} when there is nothing new.

        Many pages may ask for them, so nothing is left to be done for each.
        """
        part = _Parts(dict(seen))
        run = self.runs_room.chosen(look.character, look.run_id)
        if run is None or part.seen.get("shown run") != run.id:  # another run has begun: the whole is painted soon
            return {}
        view = self.services.watcher.view(run.id)
        self._stamp({**part.seen["stamp"], **figure_stamp(run, view)}, part)
        self._figures(run, view, part, drawing.GROWING)
        sent = {one: value.model_dump() if isinstance(value, PlotData) else value for one, value in part.updates.items()}
        return {**sent, self.controls.seen: part.seen} if sent else {}

    def _stamp(self, stamp: dict[str, str], part: "_Parts") -> None:
        part.show("stamp", stamp, lambda: {self.controls.stamp: stamp_html(stamp)})

    def _lines(self, facts: Facts, look: Look, part: "_Parts", whole: bool) -> None:
        controls, run = self.controls, facts.making
        word = facts.words[run.id] if run else ""
        revision = self.services.watcher.view(run.id).revision if run else 0
        part.show("making", (run.id, word, revision, run.sentence) if run else None, lambda: {
            controls.making: self.room_news.making_html(run, facts.words) if run else ""})
        part.show("making buttons", word, lambda: {
            controls.making_stop: gr.Button(visible=word in ("waiting for its turn", "starting", "running")),
            controls.making_resume: gr.Button(visible=word in ("stopped", "failed")),
            controls.making_drop: gr.Button(visible=word in ("stopped", "failed")),
            controls.making_kill: gr.Button(visible=word in ("stopping", NOT_RESPONDING))})
        sets = facts.sets
        chosen = next((one for one in sets if one.id == look.set_id), sets[0] if sets else None)
        part.show("sets", (chosen and chosen.id, [(one.id, one.state, one.name) for one in sets]), lambda: {
            controls.sets: gr.Dropdown(dedupe_labels([(lines_table.label(one), one.id) for one in sets]),
                                       value=chosen.id if chosen else None),
            controls.no_lines: gr.HTML(visible=chosen is None), controls.lines_box: gr.Column(visible=chosen is not None),
            controls.shown_set: chosen.id if chosen else "",
            controls.approve: gr.Button("Approved" if chosen and chosen.state == "approved" else "Approve these lines",
                                        interactive=bool(chosen and chosen.state != "approved")),
            controls.from_lines: _from_lines(chosen)})
        if chosen and (whole or part.seen.get("set") != chosen.id):
            self._table(chosen.id, look, part)

    def _table(self, set_id: str, look: Look, part: "_Parts") -> None:
        controls = self.controls
        found = lines.line_set(self.store, set_id)
        assert found
        every = lines.lines(self.store, set_id)
        categories = lines_table.categories(every)
        wanted = look.filter if look.filter.category in [name for _, name in categories] else replace(look.filter, category=ALL)
        fit = lines_table.matching(every, wanted)
        shown = fit[:wanted.most]
        part.seen["set"] = set_id
        part.show("rows", rows_key(set_id, shown), lambda: {controls.table: lines_table.rows(shown)})
        part.show("categories", categories, lambda: {controls.category: gr.Dropdown(categories, value=wanted.category)})
        version = characters.head(self.store, look.character).number
        summary = lines_table.summary_html(found, every, len(shown), len(fit), version)
        part.show("summary", summary, lambda: {controls.summary: summary, controls.more: gr.Button(visible=len(shown) < len(fit))})

    def _runs(self, facts: Facts, look: Look, part: "_Parts", whole: bool) -> None:
        controls, run = self.controls, facts.run
        part.show("runs", facts.table, lambda: {controls.runs: facts.table})
        part.show("shown run", run and run.id, lambda: {controls.shown_run: run.id if run else "",
                                                        controls.live: gr.Column(visible=run is not None)})
        if run:
            self._head(run, facts, part)
            rows = drawing.rows_shown(run, facts.view)
            part.show("figure rows", rows, lambda: {
                row: gr.Row(visible=shown) for row, shown in zip(controls.figure_rows, rows, strict=True)})
            self._figures(run, facts.view, part)
            if whole or part.seen.get("compared") != run.id:
                part.seen["compared"] = run.id
                self._compare(run, look.other, part)

    def _head(self, run: Run, facts: Facts, part: "_Parts") -> None:
        controls, word = self.controls, facts.words[run.id]
        about = self.room_news.about(run)
        part.show("progress", (run.id, word, facts.view.revision, run.name, run.sentence, about), lambda: {
            controls.progress: self.room_news.progress_html(run, facts.view, facts.words)})
        part.show("buttons", (run.id, word), lambda: {
            controls.stop: gr.Button(visible=run.state in ("queued", "starting", "running")),
            controls.resume: gr.Button(visible=run.state in ("stopped", "failed")),
            controls.kill: gr.Button(visible=run.state in ACTIVE and word in ("stopping", NOT_RESPONDING)),
            controls.remove: gr.Button(interactive=run.state not in ACTIVE)})

    def _figures(self, run: Run, view: RunView, part: "_Parts", only: Sequence[str] = ()) -> None:
        for name, key, draw in drawing.figures_of(run, view):
            if not only or name in only:
                self._figure(name, key, draw, part)

    def _figure(self, name: str, key: Any, draw: Callable[[], Any], part: "_Parts") -> None:
        def updates() -> Updates:
            figure, caption = self.drawings.get(name, key, draw)
            return {self.controls.figures[name]: figure, self.controls.captions[name]: caption}

        part.show(name, key, updates)

    def _compare(self, run: Run, other: str, part: "_Parts") -> None:
        controls, others = self.controls, self.runs_room.others(run)
        value = other if other in [id for _, id in others] else None
        part.show("others", (others, value), lambda: {controls.compare_box: gr.Column(visible=bool(others)),
                                                      controls.other: gr.Dropdown(others, value=value)})
        pair = None
        if value:
            try:
                pair = self.runs_room.overlaps(run, value)
            except UserError as error:
                gr.Warning(html.escape(str(error)), title="Please look")
        part.show("overlap", bool(pair), lambda: {controls.overlap_row: gr.Row(visible=bool(pair))})
        if pair:
            for name, figure in zip(("overlap-kept", "overlap-removed"), pair, strict=True):
                self._figure(name, (run.id, value), lambda figure=figure: figure, part)  # type: ignore[misc]


class _Parts:
    """The updates so far, and the keys of all parts."""

    def __init__(self, seen: dict[str, Any]) -> None:
        self.seen, self.updates = seen, Updates()

    def show(self, name: str, key: Any, updates: Callable[[], Updates]) -> None:
        """Paint a part whose key is not the one it was painted with."""
        if name not in self.seen or self.seen[name] != key:
            self.updates |= updates()
            self.seen[name] = key


def rows_key(set_id: str, shown: list[CalibrationLine]) -> str:
    """Tells one content of the table from another."""
    content = repr((set_id, [(line.position, line.question, line.answer, line.category, line.source) for line in shown]))
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()


def _from_lines(chosen: LineSet | None) -> str:
    if chosen is None:
        return '<p class="prune-from">Make the lines first.</p>'
    name = html.escape(lines_table.label(chosen))
    if chosen.state != "approved":
        return f'<p class="prune-from">Learns from <b>{name}</b>. Approve these lines first.</p>'
    return f'<p class="prune-from">Learns from <b>{name}</b>.</p>'

"""What the page shows, painted from the library: only the parts that have changed since this page last looked.

`seen` remembers a key for each part. A part is painted when its key is another one, so that nothing flickers, and
a look at what runs costs nothing while nothing happens.
"""

import hashlib
import html
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.base.recipe import PRESETS
from studio.figures import bars, curves, heatmaps, ladder
from studio.figures.theme import caption_of
from studio.services import Services
from studio.store import characters, lines
from studio.store.lines import CalibrationLine, LineSet
from studio.store.runs import ACTIVE, Run
from studio.tabs.prune import lines_table, runs_html
from studio.tabs.prune.layout import Controls
from studio.tabs.prune.lines_room import LinesRoom
from studio.tabs.prune.lines_table import ALL, Filter
from studio.tabs.prune.runs_room import RunsRoom
from studio.workers.view import LEARNING, RunView

Updates = dict[Any, Any]
NOT_RESPONDING = "not responding"
LIVE = frozenset({"making", "progress"})  # what moves all the time while something runs
CURVE_SECONDS = 6.0  # between two drawings of the curves alone: they grow with every step of learning


@dataclass(frozen=True)
class Look:
    """What one page looks at. `set_id`, `run_id`: chosen by the writer, "" for the newest; `other`: a run to compare with."""

    character: str = ""
    set_id: str = ""
    run_id: str = ""
    other: str = ""
    filter: Filter = field(default_factory=Filter)
    is_open: bool = True


class Painter:
    """Paints one page. `whole`: also what only this page's own listeners change, else what runs do."""

    def __init__(self, services: Services, lines_room: LinesRoom, runs_room: RunsRoom, controls: Controls) -> None:
        self.services, self.store = services, services.store
        self.lines_room, self.runs_room = lines_room, runs_room
        self.controls = controls

    def paint(self, look: Look, seen: dict[str, Any], whole: bool = True) -> Updates:
        """Component updates, {} when there is nothing new."""
        part = _Parts(dict(seen))
        known = bool(look.character and characters.get(self.store, look.character))
        part.show("room", known, lambda: {self.controls.room: gr.Column(visible=known),
                                          self.controls.empty: gr.HTML(visible=not known)})
        if known:
            self._lines(look, part, whole)
            self._runs(look, part, whole)
        busy = known and look.is_open and self.runs_room.is_busy(look.character)
        part.show("timer", busy, lambda: {self.controls.timer: gr.Timer(active=busy)})
        return {**part.updates, self.controls.seen: {**part.seen, "painted": time.time()}} if part.updates else {}

    def glance(self, look: Look, seen: dict[str, Any]) -> tuple[Updates, bool]:
        """Updates of what moves all the time, and whether anything else waits to be painted. Many pages may look at once."""
        part = _Parts(dict(seen), LIVE)
        if look.character and characters.get(self.store, look.character):
            self._lines(look, part, False)
            self._runs(look, part, False)
            part.show("timer", look.is_open and self.runs_room.is_busy(look.character), Updates)
        kept = {**seen, **{name: part.seen[name] for name in LIVE if name in part.seen}}
        soon = time.time() - seen.get("painted", 0.0) < CURVE_SECONDS
        waits = bool(part.waiting - {"curves"}) or ("curves" in part.waiting and not soon)
        return ({**part.updates, self.controls.seen: kept} if part.updates else {}), waits

    def _lines(self, look: Look, part: "_Parts", whole: bool) -> None:
        controls = self.controls
        run = self.lines_room.under_way(look.character)
        word = self.services.jobs.state_word(run) if run else ""
        view = self.services.watcher.view(run.id) if run else RunView()
        part.show("making", (run.id, word, view.revision, run.sentence) if run else None, lambda: {
            controls.making: runs_html.progress_html(run, view, word) if run else ""})
        part.show("making buttons", word, lambda: {
            controls.making_stop: gr.Button(visible=word in ("waiting for its turn", "starting", "running")),
            controls.making_resume: gr.Button(visible=word in ("stopped", "failed")),
            controls.making_drop: gr.Button(visible=word in ("stopped", "failed")),
            controls.making_kill: gr.Button(visible=word in ("stopping", NOT_RESPONDING))})
        sets = self.lines_room.sets(look.character)
        chosen = self.lines_room.chosen(look.character, look.set_id)
        part.show("sets", (chosen and chosen.id, [(one.id, one.state, one.name) for one in sets]), lambda: {
            controls.sets: gr.Dropdown([(lines_table.label(one), one.id) for one in sets], value=chosen.id if chosen else None),
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

    def _runs(self, look: Look, part: "_Parts", whole: bool) -> None:
        controls, found = self.controls, self.runs_room.all(look.character)
        words_of = {run.id: self.services.jobs.state_word(run) for run in found}
        run = self.runs_room.chosen(look.character, look.run_id)
        table = runs_html.table_html(found, words_of, run.id if run else "")
        part.show("runs", table, lambda: {controls.runs: table})
        part.show("shown run", run and run.id, lambda: {controls.shown_run: run.id if run else "",
                                                        controls.live: gr.Column(visible=run is not None)})
        if run:
            word = words_of[run.id]
            view = self.services.watcher.view(run.id)
            self._head(run, view, word, part)
            self._figures(run, view, part)
            if whole or part.seen.get("compared") != run.id:
                part.seen["compared"] = run.id
                self._compare(run, look.other, part)

    def _head(self, run: Run, view: RunView, word: str, part: "_Parts") -> None:
        controls = self.controls
        learned = lines.line_set(self.store, run.line_set) if run.line_set else None
        about = runs_html.about(run, learned.name if learned else "")
        part.show("progress", (run.id, word, view.revision, run.name, run.sentence, about), lambda: {
            controls.progress: runs_html.run_html(run, view, word, about)})
        part.show("buttons", (run.id, word), lambda: {
            controls.stop: gr.Button(visible=run.state in ("queued", "starting", "running")),
            controls.resume: gr.Button(visible=run.state in ("stopped", "failed")),
            controls.kill: gr.Button(visible=run.state in ACTIVE and word in ("stopping", NOT_RESPONDING)),
            controls.remove: gr.Button(interactive=run.state not in ACTIVE)})

    def _figures(self, run: Run, view: RunView, part: "_Parts") -> None:
        """Each figure when its own data have changed. A resumed run makes some points anew, hence their values in the keys."""
        snapshots, last = view.snapshots, view.snapshots[-1] if view.snapshots else None
        readings = runs_html.measured(run, view)
        learning = view.stages.get(LEARNING)
        mask = (run.id, len(snapshots), last and (last.step, last.time))
        layer = run.summary.get("before", {}).get("intermediate_size")
        loss = PRESETS.get(run.spec.get("preset", ""), {}).get("loss", "kl")
        steps = learning.total if learning else 0
        drawn: list[tuple[str, Any, Callable[[], Any]]] = [
            ("kept", mask, lambda: heatmaps.kept_channels(last)),
            ("changes", mask, lambda: heatmaps.mask_changes(snapshots)),
            ("bars", mask, lambda: bars.changed_last(snapshots)),
            ("rescued", (mask, layer), lambda: bars.rescued(last, layer)),
            ("curves", (run.id, len(view.losses), view.losses[-1:], len(view.validation), view.validation[-1:], steps, *readings),
             lambda: curves.learning(view.losses, view.validation, readings, steps, loss)),
            ("ladder", (run.id, *readings), lambda: ladder.ladder(readings.values()))]
        rows = (bool(view.losses or view.validation or readings), bool(snapshots), bool(snapshots))
        part.show("figure rows", rows, lambda: {
            row: gr.Row(visible=shown) for row, shown in zip(self.controls.figure_rows, rows, strict=True)})
        for name, key, draw in drawn:
            self._figure(name, key, draw, part)

    def _figure(self, name: str, key: Any, draw: Callable[[], Any], part: "_Parts") -> None:
        def updates() -> Updates:
            figure = draw()
            return {self.controls.figures[name]: figure, self.controls.captions[name]: caption_html(caption_of(figure))}

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
    """The updates so far, and the keys of all parts. `only`: the parts to paint; the others wait."""

    def __init__(self, seen: dict[str, Any], only: frozenset[str] | None = None) -> None:
        self.seen, self.updates = seen, Updates()
        self.only = only
        self.waiting: set[str] = set()

    def show(self, name: str, key: Any, updates: Callable[[], Updates]) -> None:
        """Paint a part whose key is not the one it was painted with."""
        if name in self.seen and self.seen[name] == key:
            return
        if self.only is not None and name not in self.only:
            self.waiting.add(name)
        else:
            self.updates |= updates()
            self.seen[name] = key


def rows_key(set_id: str, shown: list[CalibrationLine]) -> str:
    """Tells one content of the table from another."""
    content = repr((set_id, [(line.position, line.question, line.answer, line.category, line.source) for line in shown]))
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()


def caption_html(caption: str) -> str:
    """What a figure shows, folded away."""
    return f'<details class="prune-caption"><summary>What this shows</summary><p>{html.escape(caption)}</p></details>'


def _from_lines(chosen: LineSet | None) -> str:
    if chosen is None:
        return '<p class="prune-from">Make the lines first.</p>'
    name = html.escape(lines_table.label(chosen))
    if chosen.state != "approved":
        return f'<p class="prune-from">Learns from <b>{name}</b>. Approve these lines first.</p>'
    return f'<p class="prune-from">Learns from <b>{name}</b>.</p>'

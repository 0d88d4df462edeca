"""Prune: the lines that a character is learned from, and the runs that carve the model down to it.

Every listener changes the library, or what this page looks at, and gives the pulse; the pulse paints. What runs do comes
with the page's news (assets/prune_news.js), and is painted when the news says so. What is shown is always read from the
library, so that a reload, a second tab and a restart show the same.
"""

import time
from typing import Any

import gradio as gr

from studio.page import Page, guarded
from studio.services import Services
from studio.tabs.prune import line_listeners, lines_table, room_news, run_listeners, runs_html
from studio.tabs.prune.layout import Controls
from studio.tabs.prune.lines_room import LinesRoom
from studio.tabs.prune.lines_table import Filter
from studio.tabs.prune.painting import Look, Painter
from studio.tabs.prune.queueing import Queueing
from studio.tabs.prune.runs_room import RunsRoom


def build(services: Services, page: Page, tab: gr.Tab) -> None:
    """The room with its listeners."""
    controls, queueing = Controls(), Queueing(services)
    lines_room, runs_room = LinesRoom(services, queueing), RunsRoom(services, queueing)
    painter = Painter(services, lines_room, runs_room, controls)
    services.news.tell(room_news.NAME, painter.room_news.tell)
    _painting(painter, page, controls)
    _opening(page, tab, controls)
    line_listeners.listen(services, lines_room, page, controls)
    run_listeners.listen(services, runs_room, page, tab, controls)


def _painting(painter: Painter, page: Page, controls: Controls) -> None:
    asked = [page.character, controls.set_id, controls.run_id, controls.other_id, controls.search, controls.about, controls.most,
             controls.runs_most, controls.seen]

    def look_of(character: str, set_id: str, run_id: str, other: str, search: str, about: str, most: int,
                runs_most: int) -> Look:
        return Look(character, set_id, run_id, other, Filter(search or "", about, most), runs_most)

    @guarded
    def paint(*values: Any) -> Any:
        return painter.paint(look_of(*values[:-1]), values[-1]) or gr.skip()

    @guarded
    def paint_news(*values: Any) -> Any:
        return painter.paint(look_of(*values[:-1]), values[-1], whole=False) or gr.skip()

    @guarded
    def paint_figures(*values: Any) -> Any:
        return painter.paint_figures(look_of(*values[:-1]), values[-1]) or gr.skip()

    controls.pulse.change(paint, asked, controls.painted, concurrency_limit=None, **page.private)
    controls.stamp.state(paint_news, asked, controls.painted, concurrency_limit=None, **page.private)
    # Each output costs the studio time, painted or not, on every page that looks.
    controls.stamp.figures(paint_figures, asked, controls.painted_figures, postprocess=False, **page.poll)


def _opening(page: Page, tab: gr.Tab, controls: Controls) -> None:
    """What the page looks at begins anew with a character."""
    fresh = [controls.set_id, controls.run_id, controls.other_id, controls.search, controls.about, controls.most,
             controls.runs_most, controls.undo_box, controls.gone_box, controls.rename_box, controls.gone_set_box,
             controls.rename_set_box, controls.pulse]

    @guarded
    def begin() -> Any:
        return "", "", "", "", lines_table.ALL, lines_table.PAGE, runs_html.PAGE, *[gr.Row(visible=False)] * 5, time.time_ns()

    page.character.change(begin, None, fresh, **page.private)
    page.revision.change(time.time_ns, None, controls.pulse, **page.private)
    tab.select(time.time_ns, None, controls.pulse, **page.private)
    controls.runs.focus(time.time_ns, None, controls.pulse, **page.private)
    controls.search.change(time.time_ns, None, controls.pulse, trigger_mode="always_last", **page.private)
    for listed, kept in ((controls.category, controls.about), (controls.other, controls.other_id)):
        listed.input(lambda value: (value or "", time.time_ns()), listed, [kept, controls.pulse], **page.private)

"""What runs do to the Prune room: what moves all the time, as HTML, and stamps that tell when the rest is to be painted.

A page knows by which stamps it was painted; when the news has others, it asks for a painting. Knows no component.
"""

import hashlib
import html
from dataclasses import dataclass
from typing import Any

from studio.services import Services
from studio.store import characters, lines, runs
from studio.store.lines import LineSet
from studio.store.runs import Run
from studio.tabs.prune import drawing, runs_html
from studio.tabs.prune.lines_room import LinesRoom
from studio.tabs.prune.runs_room import RunsRoom
from studio.workers.view import RunView

NAME = "prune"
Stamp = dict[str, str]  # masks, curves: of the figures that grow; state: of everything else


@dataclass(frozen=True)
class Facts:
    """What is known of a character's lines and runs right now. `found`: the newest runs, of `names`, (id, name, state) of all;
    `run`: the one looked at; `words`: the state of each of these runs."""

    making: Run | None
    sets: list[LineSet]
    found: list[Run]
    names: list[tuple[str, str, str]]
    run: Run | None
    view: RunView
    words: dict[str, str]

    @property
    def table(self) -> str:
        """The newest runs and the one looked at, as HTML."""
        shown = self.found if self.run is None or self.run.id in [one.id for one in self.found] else [*self.found, self.run]
        return runs_html.table_html(shown, self.words, self.run.id if self.run else "", len(self.names))

    @property
    def stamp(self) -> Stamp:
        """By what a painting of these facts is known again."""
        making = self.making and (self.making.id, self.words[self.making.id])
        rows, other = None, []
        if self.run:
            rows = drawing.rows_shown(self.run, self.view)
            other = [key for name, key, _ in drawing.figures_of(self.run, self.view) if name not in drawing.GROWING]
        shown = [self.words[one.id] for one in self.found[:runs_html.PAGE]]
        state = (making, [(one.id, one.state, one.name) for one in self.sets], self.names,
                 shown, self.run and (self.run.id, self.words[self.run.id]), rows, other)
        return {"state": _digest(state), **figure_stamp(self.run, self.view)}


class RoomNews:
    """Reads the facts, and tells pages of them."""

    def __init__(self, services: Services, lines_room: LinesRoom, runs_room: RunsRoom) -> None:
        self.services, self.store = services, services.store
        self.lines_room, self.runs_room = lines_room, runs_room

    def facts(self, character: str, run_id: str, most: int = runs_html.PAGE) -> Facts:
        """Of a character, of its newest runs (`most`, at least PAGE), and of a run of it; "" for the newest."""
        making, found = self.lines_room.under_way(character), self.runs_room.newest(character, most)
        run = self.runs_room.chosen(character, run_id)
        every = {one.id: one for one in (*found, making, run) if one}
        return Facts(making, self.lines_room.sets(character), found, runs.names(self.store, character, "prune"), run,
                     self.services.watcher.view(run.id) if run else RunView(),
                     {id: self.services.jobs.state_word(one) for id, one in every.items()})

    def tell(self, question: str) -> dict[str, Any]:
        """News for pages that show "SLUG/RUN"; RUN may be missing. {} for an unknown character."""
        slug, _, run_id = question.partition("/")
        character = characters.get(self.store, slug)
        if character is None:
            return {}
        facts = self.facts(character.id, run_id)
        return {"run": facts.run.id if facts.run else "", **facts.stamp, "pace": self.services.news.pace(NAME),
                "making": self.making_html(facts.making, facts.words) if facts.making else "",
                "progress": self.progress_html(facts.run, facts.view, facts.words) if facts.run else ""}

    def making_html(self, run: Run, words_of: dict[str, str]) -> str:
        """The run that makes lines."""
        return runs_html.progress_html(run, self.services.watcher.view(run.id), words_of[run.id])

    def progress_html(self, run: Run, view: RunView, words_of: dict[str, str]) -> str:
        """The run looked at."""
        return runs_html.run_html(run, view, words_of[run.id], self.about(run))

    def about(self, run: Run) -> str:
        """What a run was asked for, as plain text."""
        learned = lines.line_set(self.store, run.line_set) if run.line_set else None
        return runs_html.about(run, learned.name if learned else "")


def figure_stamp(run: Run | None, view: RunView) -> Stamp:
    """The stamps of the figures that grow: of those that show masks, and of the curves."""
    keys = {name: key for name, key, _ in drawing.figures_of(run, view)} if run else {}
    return {"masks": _digest([keys.get(name) for name in drawing.OF_MASKS]), "curves": _digest(keys.get("curves"))}


def stamp_html(stamp: Stamp) -> str:
    """The stamp as the page's script finds it (assets/prune_news.js)."""
    return f'<i {" ".join(f"data-{name}={chr(34)}{html.escape(value)}{chr(34)}" for name, value in stamp.items())}></i>'


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "replace")).hexdigest()[:16]

"""Compare: the dense model and a pruned one answer the same message side by side, blind, and a person votes.

One listener, `follow`, paints everything from the library and the answers under way; every other listener changes the
library or what this page looks at, and then gives the pulse that starts `follow`. A timer gives it too when something
changed elsewhere. The newest `follow` of a page ends the ones before it: a page that cancels one itself may wait for ever
for the end of one that it has cancelled before it began.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from studio.page import Page, beat, guarded, only_while_shown
from studio.services import Services
from studio.sight import is_lost, look
from studio.tabs.answers import follow as follow_replies
from studio.tabs.compare import script_panel
from studio.tabs.compare.controls import GRID, ROOM, Controls, arena_html, frame, nobody, script_frame
from studio.tabs.compare.room import Room
from studio.tabs.compare.scene import Scene, settings_of, stamp
from studio.tabs.compare.script_panel import SCRIPT

# A vote is for the round that the page itself shows, whatever the server has painted since, or believes lost.
SHOWN_ROUND = "() => document.querySelector('#compare-arena [data-round]')?.dataset.round ?? ''"
PAGES = 256  # open pages that are remembered


def build(services: Services, page: Page, tab: gr.Tab) -> None:
    """The room with its listeners."""
    room, controls = Room(services), Controls()
    _painting(room, page, controls)
    _opening(room, page, tab, controls)
    _talking(room, page, controls)
    _voting(room, page, controls)
    _clearing(room, page, controls)
    script_panel.listen(services, page, tab, controls.script, controls.view)


class Turns:
    """Which `follow` of a page is the newest."""

    def __init__(self) -> None:
        self._newest: dict[str, object] = {}

    def take(self, session: str) -> Callable[[], bool]:
        """Begin one; whether it is still the newest of its page."""
        own = object()
        self._newest.pop(session, None)  # so that the pages that were at work last are the last
        self._newest[session] = own
        for old in list(self._newest)[:-PAGES]:
            self._newest.pop(old, None)
        return lambda: self._newest.get(session) is own


def paint(room: Room, controls: Controls, character: str, run: str | None, view: str, seen: dict[str, Any],
          is_newest: Callable[[], bool] = lambda: True) -> Iterator[dict[Any, Any]]:
    """Component updates: the comparison as it is now, then answers under way until their end, then the comparison again."""
    if not character:
        yield nobody(controls)
        return
    grid = view == GRID
    while is_newest():
        scene = room.scene(character, run or "", grid)
        if view == SCRIPT or not scene.runs:
            yield script_frame(controls, scene)
            return
        update = frame(controls, scene, grid, seen)
        seen = update[controls.seen]
        yield update
        shown = scene.shown
        if shown is None or not shown.busy:
            return
        for _ in follow_replies(*shown.replies):
            if not is_newest():
                return
            yield {controls.arena: arena_html(scene, grid, seen["stamp"])}
        if not shown.replies:
            time.sleep(0.1)  # between two answers of a grid


def _painting(room: Room, page: Page, controls: Controls) -> None:
    turns = Turns()
    asked = [page.character, *controls.look, controls.seen]

    @guarded
    def follow(request: gr.Request, character: str, run: str | None, view: str, seen: dict[str, Any]) -> Any:
        yield from paint(room, controls, character, run, view, seen, turns.take(str(request.session_hash)))

    @guarded
    def look_for_news(character: str, run: str | None, view: str, seen: dict[str, Any], sight: str) -> Any:
        if not character or view == SCRIPT:
            return gr.skip()
        found = look_again(room.scene(character, run or "", view == GRID), seen, sight)
        return gr.skip() if found is None else (found, beat())

    controls.timer.tick(look_for_news, [*asked, controls.sight], [controls.seen, controls.pulse], js=look(ROOM),
                        **page.poll)
    controls.pulse.change(follow, asked, controls.painted, concurrency_limit=None, trigger_mode="multiple", **page.private)


def look_again(scene: Scene, seen: dict[str, Any], sight: str) -> dict[str, Any] | None:
    """What counts as seen when the room is to be painted anew; None where the page shows the scene.

    Nothing counts where the page lost what it was sent: `sight` is what it says that it shows (studio.sight).
    """
    now = stamp(scene)
    if now != seen.get("stamp"):
        return seen
    return {} if is_lost(sight, now) else None


def _opening(room: Room, page: Page, tab: gr.Tab, controls: Controls) -> None:
    @guarded
    def open_room() -> Any:
        settings = settings_of(room.services)
        return {controls.blind: settings["blind"], **controls.samplers.shown(settings["sampling"]), controls.seen: {},
                controls.pulse: beat()}

    @guarded
    def choose(character: str, run: str | None) -> Any:
        room.choose(character, run or "")
        return beat()

    @guarded
    def pick(character: str, picks: list[str]) -> Any:
        room.pick(character, picks)

    @guarded
    def warm(character: str, run: str | None, view: str) -> None:
        if view not in (GRID, SCRIPT) and character:
            room.warm(character, run or "")

    opened = [*controls.settings, controls.seen, controls.pulse]
    only_while_shown(page, tab, controls.timer)
    for begin in (page.character.change, tab.select):
        begin(open_room, None, opened, **page.private)
    for begin in (tab.select, controls.run.input, controls.message.focus):  # both alike, so that neither has a head start
        begin(warm, [page.character, controls.run, controls.view], None, **page.poll)
    controls.run.input(choose, [page.character, controls.run], controls.pulse, **page.private)
    controls.view.input(beat, None, controls.pulse, **page.private)
    controls.picks.input(pick, [page.character, controls.picks], None, **page.private)
    sliders = controls.samplers.components
    for begin in (controls.blind.input, *(one.release for one in sliders), *(one.input for one in sliders)):
        begin(guarded(room.change_settings), controls.settings, None, trigger_mode="always_last", **page.private)


def _talking(room: Room, page: Page, controls: Controls) -> None:
    @guarded
    def send(character: str, run: str | None, picks: list[str], view: str, blind: bool, text: str) -> Any:
        if view == GRID:
            room.ask_grid(character, picks, text)
        else:
            room.send(character, run or "", text, blind)
        return "", beat()

    @guarded
    def regenerate(character: str, run: str | None, blind: bool) -> Any:
        room.regenerate(character, run or "", blind)
        return beat()

    @guarded
    def stop(character: str, run: str | None, view: str) -> None:
        room.stop(room.scene(character, run or "", view == GRID))

    saying = [page.character, controls.run, controls.picks, controls.view, controls.blind, controls.message]
    for begin in (controls.message.submit, controls.send.click):
        begin(send, saying, [controls.message, controls.pulse], trigger_mode="once", **page.private)
    controls.regenerate.click(regenerate, [page.character, controls.run, controls.blind], controls.pulse, trigger_mode="once",
                              **page.private)
    controls.stop.click(stop, [page.character, *controls.look], None, **page.poll)


def _voting(room: Room, page: Page, controls: Controls) -> None:
    for verdict, button in controls.votes.items():

        @guarded
        def vote(shown: str, verdict: str = verdict) -> Any:
            room.vote(shown, verdict)
            return beat()

        button.click(vote, controls.sight, controls.pulse, js=SHOWN_ROUND, trigger_mode="once", **page.private)

    @guarded
    def vote_cell(event: gr.EventData) -> Any:
        said = event._data if isinstance(event._data, dict) else {}
        if said.get("do") not in ("good", "bad"):
            return gr.skip()
        room.vote_cell(str(said.get("answer", "")), said["do"] == "good")
        return beat()

    controls.arena.click(vote_cell, None, controls.pulse, **page.private)


def _clearing(room: Room, page: Page, controls: Controls) -> None:
    @guarded
    def anew(character: str, run: str | None) -> Any:
        room.begin_anew(character, run or "")
        return beat()

    @guarded
    def clear(character: str, run: str | None, view: str) -> Any:
        room.clear(character, run or "", view == GRID)
        return beat()

    @guarded
    def undo(character: str, run: str | None, view: str) -> Any:
        room.undo(character, run or "", view == GRID)
        return beat()

    controls.anew.click(anew, [page.character, controls.run], controls.pulse, **page.private)
    for button, act in ((controls.clear, clear), (controls.undo, undo)):
        button.click(act, [page.character, controls.run, controls.view], controls.pulse, **page.private)

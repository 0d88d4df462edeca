"""The Compare room's components, and what they show of a scene. Knows no listener."""

from typing import Any

import gradio as gr

from studio.figures.theme import caption_of
from studio.figures.votes import votes
from studio.sight import marked
from studio.tabs.answers import SamplingControls
from studio.tabs.compare.grid_view import grids_html
from studio.tabs.compare.scene import Scene, stamp
from studio.tabs.compare.script_panel import SCRIPT, Panel
from studio.tabs.compare.statistics import run_votes
from studio.tabs.compare.view import NOBODY, empty_html, pair_html, tally_html
from studio.tabs.models import choices_of

TICK = 1.0  # seconds between two looks whether there is news
PAIR, GRID = "pair", "grid"
ROOM = "compare"
VOTES = {"left": "Left is better", "tie": "Tie", "both_bad": "Both bad", "right": "Right is better"}
_HAND_ON = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (button) trigger("click", { do: button.dataset.do, answer: button.dataset.answer || "" });
});"""
_TO_PRUNE = "() => document.getElementById('room-prune-button')?.click()"


class Controls:
    """The components: who is compared, the answers, the votes, the message, and what the votes say."""

    def __init__(self) -> None:
        self.seen = gr.State({})
        # Not a State: the page itself must see it change, and it hears of a State's change only through the queue.
        self.pulse = gr.Textbox("", visible="hidden", label="Pulse", elem_id="compare-pulse")
        self.sight = gr.Textbox(visible="hidden", label="What this page shows")
        with gr.Column(visible=True, elem_id="compare-empty-box") as self.empty_box:
            self.empty = gr.HTML(NOBODY)
            self.to_prune = gr.Button("Go to the Prune room", variant="primary", elem_id="compare-to-prune", visible=False)
        with gr.Column(visible=False, elem_id="compare-work") as self.work:
            self._top()
            self._talk()
        self.script = Panel()
        self.to_prune.click(None, js=_TO_PRUNE)
        self.timer = gr.Timer(TICK, active=False)

    def _talk(self) -> None:
        with gr.Column(elem_id="compare-talk") as self.talk:
            self.arena = gr.HTML(elem_id="compare-arena", js_on_load=_HAND_ON, apply_default_css=False)
            with gr.Row(visible=False, elem_id="compare-votes") as self.vote_row:
                self.votes = {verdict: gr.Button(word, elem_id=f"compare-vote-{verdict.removeprefix('both_')}", min_width=90)
                              for verdict, word in VOTES.items()}
            self._composer()
            with gr.Row(visible=False, elem_id="compare-tally-row") as self.tally_row:
                self.tally = gr.HTML(elem_id="compare-tally-box")
                self.plot = gr.Plot(show_label=False, container=False, elem_id="compare-figure")

    def _top(self) -> None:
        with gr.Row(elem_id="compare-top"):
            self.view = gr.Radio([("Two answers", PAIR), ("Grid", GRID), ("Test script", SCRIPT)], value=PAIR, label="View",
                                 show_label=False, container=False, elem_id="compare-view", min_width=310, scale=0)
            self.run = gr.Dropdown([], label="Pruned model", show_label=False, container=False, filterable=False,
                                   elem_id="compare-run", min_width=240, scale=3)
            self.blind = gr.Checkbox(True, label="Blind until the vote", container=False, elem_id="compare-blind",
                                     min_width=170, scale=0)
        self.picks = gr.CheckboxGroup([], label="Pruned models in the grid", info="The dense (whole) model is always there.",
                                      visible=False, elem_id="compare-picks")

    def _composer(self) -> None:
        with gr.Row(elem_id="compare-composer", elem_classes="tight"):
            self.message = gr.Textbox(placeholder="Write as the player. Enter sends, Shift+Enter begins a new line.",
                                      label="Your message", show_label=False, lines=1, max_lines=8, scale=5, container=False,
                                      elem_id="compare-message", max_length=20_000)
            self.send = gr.Button("Send", variant="primary", scale=0, min_width=90, elem_id="compare-send")
            self.stop = gr.Button("Stop (Esc)", variant="stop", scale=0, min_width=116, elem_id="compare-stop")
        with gr.Row(elem_id="compare-tools", elem_classes="tight"):
            self.regenerate = gr.Button("Regenerate", size="sm", scale=0, min_width=110, elem_id="compare-regenerate")
            self.anew = gr.Button("New conversation", size="sm", scale=0, min_width=140, elem_id="compare-new")
            self.clear = gr.Button("Clear rounds and votes", size="sm", scale=0, min_width=170, elem_id="compare-clear")
            self.undo = gr.Button("Undo clear", size="sm", variant="primary", scale=0, min_width=110, visible=False,
                                  elem_id="compare-undo")
        with gr.Accordion("How they answer", open=False, elem_id="compare-settings"):
            self.samplers = SamplingControls("compare")
            self.samplers.more()

    @property
    def settings(self) -> list[Any]:
        """In the order of room.change_settings."""
        return [self.blind, *self.samplers.components]

    @property
    def look(self) -> list[Any]:
        """What this page looks at."""
        return [self.run, self.view]

    @property
    def painted(self) -> list[Any]:
        """What `frame` and `nobody` set."""
        return [self.empty_box, self.empty, self.to_prune, self.work, self.run, self.picks, self.blind, self.arena, self.vote_row,
                self.regenerate, self.anew, self.clear, self.undo,
                self.tally_row, self.tally, self.plot, self.seen, self.talk, self.script.box]


def arena_html(scene: Scene, grid: bool, painted: str) -> str:
    """The answers. `painted`: the stamp of what is shown with them."""
    return marked(grids_html(scene) if grid else pair_html(scene), ROOM, painted, is_busy(scene))


def is_busy(scene: Scene) -> bool:
    """Whether an answer is under way or waits for its turn."""
    return bool(scene.shown and scene.shown.busy)


def nobody(controls: Controls) -> dict[Any, Any]:
    """Component updates while no character is chosen."""
    return {controls.empty_box: gr.Column(visible=True), controls.empty: NOBODY, controls.to_prune: gr.Button(visible=False),
            controls.work: gr.Column(visible=False), controls.seen: {}, controls.script.box: gr.Column(visible=False)}


def script_frame(controls: Controls, scene: Scene) -> dict[Any, Any]:
    """Component updates for the view of the test script; without a pruned model, the dense one can be tested."""
    found = {controls.talk: gr.Column(visible=False), controls.picks: gr.CheckboxGroup(visible=False),
             controls.run: gr.Dropdown(visible=False), controls.blind: gr.Checkbox(visible=False),
             controls.script.box: gr.Column(visible=True), controls.seen: {"stamp": stamp(scene)}}
    if scene.runs:
        return {**found, controls.empty_box: gr.Column(visible=False), controls.work: gr.Column(visible=True)}
    return {**found, controls.empty_box: gr.Column(visible=True), controls.empty: marked(empty_html(scene), ROOM, stamp(scene)),
            controls.to_prune: gr.Button(visible=not scene.waiting), controls.work: gr.Column(visible=False)}


def frame(controls: Controls, scene: Scene, grid: bool, seen: dict[str, Any]) -> dict[Any, Any]:
    """Component updates for all but the answers' growing; lists and the figure only when they have changed."""
    present: dict[str, Any] = {
        "stamp": stamp(scene), "grid": grid, "choices": choices_of(scene.runs), "character": scene.character,
        "votes": repr(run_votes(scene.runs, scene.tallies))}
    busy, pair = is_busy(scene), scene.pair
    found = {controls.empty_box: gr.Column(visible=False), controls.work: gr.Column(visible=True),
             controls.talk: gr.Column(visible=True), controls.script.box: gr.Column(visible=False),
             controls.arena: arena_html(scene, grid, present["stamp"]),
             controls.vote_row: gr.Row(visible=bool(pair and pair.can_vote)),
             controls.regenerate: gr.Button(visible=pair is not None and not busy),
             controls.anew: gr.Button(visible=pair is not None), controls.clear: gr.Button(visible=_clearable(scene, grid)),
             controls.undo: gr.Button(visible=scene.undo and not busy), controls.blind: gr.Checkbox(visible=not grid),
             controls.tally_row: gr.Row(visible=not grid), controls.tally: tally_html(scene), controls.seen: present,
             controls.run: gr.Dropdown(present["choices"], value=scene.run.id if scene.run else None, visible=not grid)}
    if (present["choices"], present["character"], grid) != (seen.get("choices"), seen.get("character"), seen.get("grid")):
        found[controls.picks] = gr.CheckboxGroup(present["choices"], value=scene.picks, visible=grid)
    if present["votes"] != seen.get("votes"):
        found[controls.plot] = _plot(scene)
    return found


def _clearable(scene: Scene, grid: bool) -> bool:
    tally = scene.tallies.get(scene.run.id) if scene.run else None
    return bool(scene.grids) if grid else bool(scene.pair or (tally and tally.total))


def _plot(scene: Scene) -> Any:
    data = run_votes(scene.runs, scene.tallies)
    figure = votes(data)
    return gr.Plot(figure, label=caption_of(figure), visible=any(one.decided for one in data))

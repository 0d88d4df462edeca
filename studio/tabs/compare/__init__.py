"""Compare: the dense model and a pruned one answer the same message side by side, blind, and a person votes.

Answers, votes and results come by the live channel, which also shows and hides what can be done. Listeners change the
library or what this page looks at, and paint the lists and fields; the page asks for that too when something changed
elsewhere.
"""

from dataclasses import replace
from typing import Any

import gradio as gr

from studio.page import Page, at_once, guarded, live_html
from studio.services import Services
from studio.store import rounds, values
from studio.tabs.answers import Composer, SamplingControls, ViewLink, changing
from studio.tabs.compare import script
from studio.tabs.compare.controller import GRID, LOOKS, PAIR, SCRIPT, Controller, ViewState

ROOM = "compare"
VOTES = {"left": "Left is better", "tie": "Tie", "both_bad": "Both bad", "right": "Right is better"}
_TO_PRUNE = "() => window.personaStudioGo('prune')"
# A vote is for the round that the page itself shows, whatever has been asked since.
_SHOWN_ROUND = "() => document.querySelector('#compare-arena [data-round]')?.dataset.round ?? ''"


class Controls:
    """The components: which models are compared, the answers, the votes, the message, and what the votes say."""

    def __init__(self) -> None:
        self.state = gr.State(ViewState())
        self.shown_round = gr.Textbox(visible="hidden", label="Round that is shown")
        self.link = ViewLink(ROOM)
        with gr.Column(elem_id="compare-empty-box", elem_classes="live-shown"):
            live_html("compare-empty")
            to_prune = gr.Button("Go to the Prune room", variant="primary", elem_id="compare-to-prune", elem_classes="live-shown")
            to_prune.click(None, js=_TO_PRUNE)
        with gr.Column(elem_id="compare-work", elem_classes="live-shown"):
            self._top()
            with gr.Column(elem_id="compare-talk", elem_classes="live-shown"):
                self._talk()
        self.script = script.Panel()

    def _top(self) -> None:
        with gr.Row(elem_id="compare-top"):
            self.view = gr.Radio([("Two answers", PAIR), ("Grid", GRID), ("Test script", SCRIPT)], value=PAIR, label="View",
                                 show_label=False, container=False, elem_id="compare-view", min_width=310, scale=0)
            self.run = gr.Dropdown([], label="Pruned model", show_label=False, container=False, filterable=False,
                                   elem_id="compare-run", elem_classes="live-shown", min_width=240, scale=3)
            self.blind = gr.Checkbox(True, label="Blind until the vote", container=False, elem_id="compare-blind",
                                     elem_classes="live-shown", min_width=170, scale=0)
        self.picks = gr.CheckboxGroup([], label="Pruned models in the grid", info="The dense (whole) model is always there.",
                                      elem_id="compare-picks", elem_classes="live-shown")

    def _talk(self) -> None:
        self.arena = live_html("compare-arena", apply_default_css=False)
        with gr.Row(elem_id="compare-votes", elem_classes="live-shown"):
            self.votes = {verdict: gr.Button(word, elem_id=f"compare-vote-{verdict.removeprefix('both_')}", min_width=90)
                          for verdict, word in VOTES.items()}
        self.composer = Composer(ROOM)
        with gr.Row(elem_id="compare-tools", elem_classes="tight"):
            self.regenerate = gr.Button("Regenerate", size="sm", scale=0, min_width=110, elem_id="compare-regenerate",
                                        elem_classes="live-shown")
            self.new = gr.Button("New conversation", size="sm", scale=0, min_width=140, elem_id="compare-new",
                                 elem_classes="live-shown")
            self.clear = gr.Button("Clear rounds and votes", size="sm", scale=0, min_width=170, elem_id="compare-clear",
                                   elem_classes="live-shown")
            self.undo = gr.Button("Undo clear", size="sm", variant="primary", scale=0, min_width=110, elem_id="compare-undo",
                                  elem_classes="live-shown")
        with gr.Accordion("How they answer", open=False, elem_id="compare-settings"):
            self.samplers = SamplingControls(ROOM)
            self.samplers.more()
        with gr.Row(elem_id="compare-tally-row", elem_classes="live-shown"):
            live_html("compare-tally-box")
            live_html("compare-figure")

    @property
    def settings(self) -> list[Any]:
        """In the order of Controller.change_settings."""
        return [self.blind, *self.samplers.components]

    @property
    def painted(self) -> list[Any]:
        """What `paint` sets."""
        return [self.composer.row, self.link.component, self.link.seen, self.state, self.run, self.picks, *self.settings,
                self.script.models, *self.script.judge.inputs]


def paint(controller: Controller, controls: Controls, state: ViewState, seen: dict[str, Any]) -> dict[Any, Any]:
    """Component updates for what the page looks at; lists and fields only where they differ from what is `seen`."""
    if not state.character:
        return {controls.state: state, **controls.link.shows(state.look(), {})}
    now = controller.settings(controller.scene(state), state.model)
    state = replace(state, run=now["run"] or "")
    changed = {name for name in now if now["character"] != seen.get("character") or now[name] != seen.get(name)}
    found = {controls.state: state, **controls.link.shows(state.look(), now)}
    if not seen.get("character"):
        found[controls.composer.row] = gr.Row(visible=True)
    if changed & {"runs", "run"}:
        found[controls.run] = gr.Dropdown(now["runs"], value=now["run"])
    if changed & {"runs", "picks"}:
        found[controls.picks] = gr.CheckboxGroup(now["runs"], value=now["picks"])
    if "tested" in changed:
        tested = [choice for _, choice in now["tested"]]
        found[controls.script.models] = gr.CheckboxGroup(now["tested"], value=tested[:script.MOST_MODELS])
    if "sampling" in changed or "blind" in changed:
        found |= {controls.blind: now["blind"], **controls.samplers.shown(now["sampling"])}
    if "judge" in changed:
        found |= controls.script.judge.shown(controller.services)
    return found


def build(services: Services, page: Page, tab: gr.Tab) -> None:
    """The room with its listeners."""
    controller, controls = Controller(services), Controls()
    services.live.part(ROOM, controller.contents, "character", *LOOKS, stamp=services.answers_stamp)
    script.listen(services, page, controls.script)
    page = page.in_turn(ROOM)
    _opening(controller, page, tab, controls)
    _talking(controller, page, controls)
    _voting(controller, page, controls)


def _opening(controller: Controller, page: Page, tab: gr.Tab, controls: Controls) -> None:
    live = controller.services.live

    @guarded
    def open_room(state: ViewState, seen: dict[str, Any], character: str, model: str, run: str) -> Any:
        run = run or (state.run if state.character == character else "")
        return paint(controller, controls, replace(state, character=character, model=model, run=run), seen)

    @guarded
    def repaint(state: ViewState, _: dict[str, Any], *asked: str) -> Any:
        return open_room(state, {}, *asked)

    @guarded
    def choose(state: ViewState, seen: dict[str, Any], run: str | None) -> Any:
        values.set_value(controller.store, f"compare-run:{state.character}", run or "")
        return {page.run: run or "", **paint(controller, controls, replace(state, run=run or ""), seen)}

    @guarded
    def turn(state: ViewState, seen: dict[str, Any], view: str) -> Any:
        return paint(controller, controls, replace(state, view=view), seen)

    def keep(state: ViewState, seen: dict[str, Any], link: str, picks: list[str], *settings: Any) -> Any:
        of = controls.link.look_of(link).get("of", "")  # whose picks they were when the page sent them
        values.set_value(controller.store, f"compare-picks:{of}", picks)
        controller.change_settings(*settings)
        if of != state.character:
            return gr.skip()
        now = controller.settings(controller.scene(state), state.model)
        return controls.link.keeps(state.look(), seen, now, "picks", "blind", "sampling")

    view = [controls.state, controls.link.seen]
    opened = [*view, page.character, page.model, page.run]
    for begin in (page.character.change, page.model.change, page.revision.change, tab.select):
        begin(open_room, opened, controls.painted, **page.private)
    controls.link.component.click(repaint, opened, controls.painted, **page.private)
    for begin in (tab.select, controls.run.input, controls.composer.message.focus):
        begin(guarded(controller.warm), controls.state, None, **{**page.poll, "trigger_mode": "always_last"})
    controls.run.input(choose, [*view, controls.run], [page.run, *controls.painted], **at_once(page.private))
    controls.view.input(turn, [*view, controls.view], controls.painted, **at_once(page.private))
    sliders = controls.samplers.components
    for begin in (controls.picks.input, controls.blind.input, *(one.release for one in sliders), *(one.input for one in sliders)):
        begin(changing(live, ROOM, keep), [*view, controls.link.component, controls.picks, *controls.settings],
              [controls.link.seen, controls.link.component], trigger_mode="always_last", **page.private)


def _talking(controller: Controller, page: Page, controls: Controls) -> None:
    def send(state: ViewState, picks: list[str], blind: bool, text: str) -> str:
        if state.is_grid:
            controller.ask_grid(state, picks, text)
        else:
            controller.send(state, text, blind)
        return ""

    def regenerate(state: ViewState, blind: bool) -> None:
        controller.regenerate(state, blind)

    composer, live = controls.composer, controller.services.live
    asked = [controls.state, controls.picks, controls.blind, composer.message]
    for begin in (composer.message.submit, composer.send.click):
        begin(changing(live, ROOM, send), asked, composer.message, trigger_mode="once", **page.private)
    controls.regenerate.click(changing(live, ROOM, regenerate), [controls.state, controls.blind], None, trigger_mode="once",
                              **page.private)
    composer.stop.click(changing(live, ROOM, controller.stop), controls.state, None, **page.poll)
    for button, act in ((controls.new, controller.start_conversation), (controls.clear, controller.clear),
                        (controls.undo, controller.undo)):
        button.click(changing(live, ROOM, act), controls.state, None, **page.private)


def _voting(controller: Controller, page: Page, controls: Controls) -> None:
    live = controller.services.live

    def act(event: gr.EventData, state: ViewState) -> None:
        said = event._data if isinstance(event._data, dict) else {}
        if said.get("do") == "suggest":
            controller.suggest(state, str(said.get("text", "")))
        elif said.get("do") in ("good", "bad"):
            rounds.vote_cell(controller.store, str(said.get("answer", "")), said["do"] == "good")

    for verdict, button in controls.votes.items():

        def vote(shown: str, verdict: str = verdict) -> None:
            controller.vote(shown, verdict)

        button.click(changing(live, ROOM, vote), controls.shown_round, None, js=_SHOWN_ROUND, trigger_mode="once", **page.private)
    controls.arena.click(changing(live, ROOM, act), controls.state, None, trigger_mode="once", **page.private)

"""The test script in the Compare room: which models are tested, the run and its stop, and the results as they come.

A timer looks for news while the room is open; all else reads the library.
"""

from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.base.sampling import DEFAULTS
from engine.cards.script import read_script
from studio.page import Page, guarded, only_while_shown
from studio.services import Services
from studio.store import characters, runs, script_runs, values
from studio.tabs.answers import card_of
from studio.tabs.compare.script_view import Column, script_html
from studio.tabs.models import DENSE, Contender, dense_of, finished, pruned_of, removed_by, short_name
from studio.tabs.models import choices_of as labels_of
from studio.theme import ASSETS

SCRIPT = "script"  # the view of the room
_DENSE = "dense:"  # before a dense model's name, as a choice
MOST_MODELS = 7
_KEEP_OPEN = (ASSETS / "keep_open.js").read_text(encoding="utf-8")


class Panel:
    """The panel's components."""

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_id="compare-script") as self.box:
            self.models = gr.CheckboxGroup([], label="Models to test", elem_id="compare-script-models")
            with gr.Row(elem_classes="tight"):
                self.run = gr.Button("Run the test script", variant="primary", scale=0, min_width=180,
                                     elem_id="compare-script-run")
                self.stop = gr.Button("Stop", variant="stop", scale=0, min_width=90, visible=False,
                                      elem_id="compare-script-stop")
                self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, scale=0, min_width=120,
                                      elem_id="compare-script-seed")
            with gr.Accordion("A judge for what no rule can tell", open=False), gr.Row():
                self.url = gr.Textbox(label="Address", placeholder="http://127.0.0.1:8080/v1", elem_id="compare-judge-url",
                                      info="A server with OpenAI's chat completions and log-probabilities. Empty: no judge. Its "
                                           "key is taken from the environment (PERSONA_STUDIO_JUDGE_KEY) alone.")
                self.judge = gr.Textbox(label="Model", placeholder="its name on that server", elem_id="compare-judge-model")
            self.results = gr.HTML(elem_id="compare-script-results", js_on_load=_KEEP_OPEN, apply_default_css=False)
            self.seen = gr.State("")
            self.timer = gr.Timer(1.0, active=False)


def contenders(services: Services, character: str, model: str) -> dict[str, Contender]:
    """Who can be tested, by choice: the dense models first, then the pruned ones, newest first."""
    found = finished(services, character)
    dense = [dense_of(run) for run in found] or [Contender(None, model, DENSE, 0.0, 0)]
    named = {f"{_DENSE}{one.model}": one for one in dense}
    return {**named, **{run.id: pruned_of(services, run) for run in found}}


def choices_of(services: Services, character: str, model: str) -> list[tuple[str, str]]:
    """(label, choice) of those."""
    labels = {run: label for label, run in labels_of(finished(services, character))}
    return [(labels.get(choice) or f"{DENSE} ({short_name(one)})", choice)
            for choice, one in contenders(services, character, model).items()]


def begin(services: Services, character: str, model: str, chosen: list[str], seed: float | None, url: str, judge: str) -> None:
    """Run the script on the chosen models. Raises UserError."""
    known = contenders(services, character, model)
    wanted = [one for choice, one in known.items() if choice in chosen]  # the dense ones first
    if not wanted:
        raise UserError("No model is chosen.", "Tick at least one above.")
    if len(wanted) > MOST_MODELS:
        raise UserError(f"At most {MOST_MODELS} models are tested at once.", "Untick some.")
    if bool(url.strip()) != bool(judge.strip()):
        raise UserError("A judge needs an address and the name of its model.", "Fill in both, or neither.")
    if not 0 <= (seed or 0) < 2**32:
        raise UserError("The seed must lie between 0 and 4294967295.")
    card_of(characters.head(services.store, character))  # before anything is written: it must be able to speak
    values.set_value(services.store, "compare-judge", [url.strip(), judge.strip()])
    services.scripts.begin(character, [(one.run, one.model) for one in wanted], DEFAULTS.as_dict(), int(seed or 0),
                           (url.strip(), judge.strip()) if url.strip() else None)


def results_html(services: Services, character: str) -> str:
    """The newest test of each model, as it is now."""
    store = services.store
    tests = sorted(script_runs.newest(store, character), key=lambda one: _removed(services, one))
    columns = [Column(_name(services, one), one, script_runs.answers(store, one.id)) for one in tests]
    busy = services.scripts.character() == character
    stage, done, total = services.scripts.progress
    progress = (f"{stage or 'starting'}: {done:,} of {total:,}" if total else "Starting…") if busy else ""
    try:
        questions = len(read_script(card_of(characters.head(store, character))).questions)
    except UserError:
        questions = 0
    return script_html(columns, questions, progress, services.scripts.warnings if busy else [])


def _name(services: Services, one: script_runs.ScriptRun) -> str:
    run = runs.get(services.store, one.run) if one.run else None
    if run is None:
        return f"{DENSE} ({short_name(Contender(None, one.model, DENSE, 0.0, 0))})"
    return f"{run.name} · {pruned_of(services, run).name}"


def _removed(services: Services, one: script_runs.ScriptRun) -> float:
    """How much is gone of a tested model, 0 to 1: the order of the columns, whichever was tested last."""
    run = runs.get(services.store, one.run) if one.run else None
    return removed_by(run) if run else 0.0


def listen(services: Services, page: Page, tab: gr.Tab, panel: Panel, view: Any) -> None:
    """The panel's listeners; `view`: the room's choice of views."""
    shown = [panel.results, panel.run, panel.stop, panel.seen]

    def look(character: str, seen: str) -> Any:
        if not character:
            return [gr.skip()] * 4
        busy = services.scripts.character() == character
        now = results_html(services, character)
        if now == seen:
            return [gr.skip()] * 4
        return [now, gr.Button(visible=not busy), gr.Button(visible=busy), now]

    def look_if_shown(character: str, seen: str, view: str) -> Any:
        """Without a pruned model the panel is there in every view."""
        return look(character, seen) if view == SCRIPT or not finished(services, character) else [gr.skip()] * 4

    @guarded
    def open_panel(character: str, model: str) -> Any:
        url, judge = values.get_value(services.store, "compare-judge", ["", ""], tuple[str, str])
        choices = choices_of(services, character, model) if character else []
        return [gr.CheckboxGroup(choices, value=[choice for _, choice in choices[:MOST_MODELS]]), url, judge,
                *look(character, "")]

    @guarded
    def run(character: str, model: str, chosen: list[str], seed: float | None, url: str, judge: str) -> Any:
        begin(services, character, model, chosen, seed, url, judge)
        return look(character, "")

    opened = [panel.models, panel.url, panel.judge, *shown]
    only_while_shown(page, tab, panel.timer)
    for event in (page.character.change, tab.select, view.input):
        event(open_panel, [page.character, page.model], opened, **page.private)
    panel.timer.tick(guarded(look_if_shown), [page.character, panel.seen, view], shown, **page.poll)
    panel.run.click(run, [page.character, page.model, panel.models, panel.seed, panel.url, panel.judge], shown,
                    trigger_mode="once", **page.private)
    panel.stop.click(guarded(services.scripts.stop), None, None, **page.poll)

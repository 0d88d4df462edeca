"""Room 5, Export: a finished run becomes a folder with a name, proven to load, ready for engines; a server; a cast's plan.

The form goes through Gradio. What it shows of the run that is chosen, of an export under way and of past exports comes
through the live channel.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.base.files import read_json, slug
from engine.base.sizes import FILE_TYPES, WRITTEN
from engine.base.weights import known_shapes
from engine.export.engines import DEFAULT_TYPE, TARGETS
from studio.live import figure
from studio.page import COPY, Page, at_once, guarded, live_html
from studio.services import Services
from studio.store import characters, runs
from studio.store.runs import Run
from studio.tabs.export import serving, shipping, view
from studio.tabs.export.planner import Planner, listen
from studio.tabs.models import choices_of, removed_by
from studio.uploads import servable
from studio.workers.commands import result_folder

ROOM, SHIP, SERVE, CAST = "export", "ship", "serve", "cast"
_TO_PRUNE = ("element.addEventListener('click', ({target}) => "
             "{ if (target.closest('#export-to-prune')) personaStudioGo('prune'); });")
_LOOK = f"(run) => {{ personaStudioLive.look({{run: run ?? ''}}, '{ROOM}'); return []; }}"


class Controls:
    """The room's components."""

    def __init__(self) -> None:
        self.empty = gr.HTML(view.NO_RUN, visible=False, elem_id="export-empty", js_on_load=_TO_PRUNE)
        with gr.Column(visible=False) as self.whole:
            self.view = gr.Radio([("Export", ROOM), ("What to ship", SHIP), ("Serve", SERVE), ("Plan a cast", CAST)], value=ROOM,
                                 label="View", show_label=False, container=False, elem_id="export-view", elem_classes="views")
            with gr.Row(equal_height=False) as self.making:
                with gr.Column(scale=3, min_width=320):
                    self._form()
                with gr.Column(scale=3, min_width=320):
                    live_html("export-figure")
                    live_html("export-past")
                    self.detail = live_html("export-detail", COPY)
            self.shipping = shipping.Panel()
            self.serving = serving.Panel()
            self.planner = Planner()

    def _form(self) -> None:
        self.run = gr.Dropdown([], label="Pruned model", elem_id="export-run")
        live_html("export-report")
        with gr.Group():
            self.name = gr.Textbox(label="Name", max_length=100, elem_id="export-name",
                                   info="The folder gets this name, with dashes for spaces.")
            targets = [(one.label, one.id) for one in TARGETS.values()]
            self.engines = gr.CheckboxGroup(targets, value=["ollama"], label="Ready for", elem_id="export-engines",
                                            info="Each gets a folder with a page that explains how to use it; they share one GGUF "
                                                 "file. With none, it is the model for Python.")
            self.python = gr.Checkbox(label="Also the model for Python", elem_id="export-python",
                                      info="For transformers, vLLM and whoever wants to train it further. Without it the folder "
                                           "is smaller. Your own copy stays here either way.")
            self.zip = gr.Checkbox(label="Also make a zip to share", elem_id="export-zip")
        with gr.Accordion("For engineers", open=False, elem_id="export-more"):
            types = [(f"{name} · {'about ' if FILE_TYPES[name].better else ''}{FILE_TYPES[name].bits:.3g} bits", name)
                     for name in WRITTEN]
            self.gguf = gr.CheckboxGroup(types, label="GGUF files", elem_id="export-gguf",
                                         info="Each is loaded by llama.cpp and compared with the folder before it is kept. With "
                                              f"none chosen, an engine gets {DEFAULT_TYPE}.")
            self.measure = gr.Checkbox(label="Measure speed and memory, dense and pruned", elem_id="export-measure",
                                       info="Loads both models once more. Takes a minute with the starter.")
            live_html("export-sizes")
        self.start = gr.Button("Export", variant="primary", elem_id="export-start")
        self.progress = live_html("export-progress")


def build(services: Services, page: Page, tab: gr.Tab) -> None:
    """The room, its live parts, and its listeners."""
    controls = Controls()
    services.live.part(ROOM, lambda look: library_parts(services, look), "character", "run", "export", stamp=services.library_stamp)
    services.live.part(ROOM, lambda look: {"export-progress": progress(services, look["character"])}, "character")

    @guarded
    def open_room(character: str, shown: str | None, chosen: str) -> Any:
        return open_character(services, character, shown, chosen)

    @guarded
    def propose(run: str) -> Any:
        found = runs.get(services.store, run)
        return proposed_name(services, found) if found else gr.skip()

    @guarded
    def start(run: str | None, name: str, zipped: bool, engines: list[str], gguf: list[str], python: bool, measure: bool) -> None:
        if not run:
            raise UserError("No pruned model is chosen.")
        services.jobs.submit_export(run, name, zipped, {"engines": engines, "gguf": gguf, "measure": measure,
                                                         "gguf_only": bool(engines or gguf) and not python})
        services.live.touch(ROOM)

    @guarded
    def act(event: gr.EventData) -> None:
        do, id = str(event._data.get("do")), str(event._data.get("id"))
        {"stop": services.jobs.stop, "forget": lambda id: runs.delete_export(services.store, id),
         "undo": lambda id: runs.undelete_export(services.store, id)}[do](id)
        services.live.touch(ROOM)

    # One after the other: the second finds the run that the first has chosen, and leaves a name that was typed meanwhile.
    gr.on([page.character.change, tab.select], open_room, [page.character, controls.run, page.run],
          [controls.empty, controls.whole, controls.run, controls.name], trigger_mode="always_last", **page.private)
    controls.run.change(None, controls.run, None, js=_LOOK, **page.private)
    controls.run.input(propose, controls.run, controls.name, **at_once(page.private))
    controls.run.input(lambda run: run or "", controls.run, page.run, **at_once(page.private))
    views = {ROOM: controls.making, SHIP: controls.shipping.whole, SERVE: controls.serving.whole, CAST: controls.planner.whole}
    controls.view.change(lambda view: [type(one)(visible=view == name) for name, one in views.items()], controls.view,
                         list(views.values()), **page.private)
    asked = [controls.run, controls.name, controls.zip, controls.engines, controls.gguf, controls.python, controls.measure]
    controls.start.click(start, asked, None, **page.private)
    for element in (controls.detail, controls.progress):
        element.click(act, None, None, **page.private)
    shipping.listen(services, page, controls.shipping)
    serving.listen(services, page, controls.serving, [controls.view.change, tab.select], controls.view, controls.run)
    listen(services, page, controls.planner, [controls.view.change, tab.select], controls.view)


def open_character(services: Services, character: str, shown: str | None, chosen: str = "") -> tuple[Any, ...]:
    """The form for a character: what it says when empty, whether it is shown, the pruned models, and a name for the export.

    `shown`: the run in the form; where it is one of the character's, it stays, with the name typed for it, unless another of
    them was `chosen` since.
    """
    found = runs.list_runs(services.store, character=character, kinds=["prune"], states=["done"]) if character else []
    known = {run.id: run for run in found}
    run = known.get(chosen) or known.get(shown or "") or next(iter(found), None)
    name = gr.skip() if run and run.id == shown else proposed_name(services, run) if run else ""
    comes = runs.list_runs(services.store, character, ["prune"], ("queued", *runs.ACTIVE)) if character else []
    empty = view.COMES if comes else view.NO_RUN if character else view.NOBODY
    return (gr.HTML(empty, visible=not found), gr.Column(visible=bool(found)),
            gr.Dropdown(choices_of(found), value=run.id if run else None), name)


def proposed_name(services: Services, run: Run) -> str:
    """A name for the export: the character's and what was removed; Llama's licence wants its name in front."""
    found = characters.get(services.store, run.character)
    name = f"{slug(found.char if found else run.name)}-{round(100 * removed_by(run))}"
    licence = str(run.summary.get("base", {}).get("licence") or "")
    return f"llama-{name}" if licence.startswith("llama") and licence != "llama2" else name


def library_parts(services: Services, look: Mapping[str, str]) -> dict[str, Any]:
    """What the room shows from the library: the run and the past export that a page looks at, else the newest export."""
    character = characters.get(services.store, look["character"])
    if character is None:
        return {}
    run = runs.get(services.store, look["run"]) if look["run"] else None
    found = runs.list_exports(services.store, character=character.id)
    deleted = runs.list_exports(services.store, character=character.id, deleted=True)
    chosen = next((one for one in [*found, *deleted] if one.id == look["export"]), found[0] if found else None)
    packed = Path(chosen.zip) if chosen and chosen.zip else None
    archive = servable(packed) if packed and packed.is_file() else ""
    parts = {"export-past": view.past_html(found, chosen), "export-detail": view.export_html(chosen, archive) if chosen else ""}
    if run is None:
        return parts
    return {**parts, "export-report": view.report_html(run), "export-figure": figure(view.readings_figure(run)),
            "export-sizes": _sizes(services, run)}


def _sizes(services: Services, run: Run) -> str:
    """A run's sizes, with what its newest export measured; "" where its files are gone."""
    folder = result_folder(services.settings, run)
    if folder is None or not (shapes := known_shapes(folder)):
        return ""
    try:
        config = read_json(folder / "config.json")
    except UserError:
        config = {}
    proof: dict[str, Any] = {}
    for one in reversed(runs.list_exports(services.store, run=run.id)):  # the newest figure of each kind counts
        proof = {**proof, **{name: one.proof[name] for name in ("timed", "files") if one.proof.get(name)}}
    before = run.summary.get("before", {})
    kept, dense_channels = int(config.get("intermediate_size") or 0), int(before.get("intermediate_size", 0))
    return (view.sizes_html(shapes, config, int(before.get("parameters", 0)), view.measured_of(run.summary, proof))
            + view.badges_html(kept, dense_channels))


def progress(services: Services, character: str) -> str:
    """The character's export under way, else the next one, else how the last one ended."""
    found = characters.get(services.store, character)
    run = runs.foremost(runs.list_runs(services.store, character=found.id, kinds=["export"])) if found else None
    return view.progress_html(run, services.watcher.view(run.id), services.jobs.shown_state(run)) if run else ""

"""What the Export room shows for a character, a run and a past export, from the library; and the news of exports under way."""

from pathlib import Path
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.base.files import read_json, slug
from engine.base.model_folder import known_shapes
from studio.services import Services
from studio.serving import servable
from studio.store import characters, runs
from studio.store.runs import Run
from studio.tabs.export import size_table, view
from studio.tabs.models import choices_of, removed_by
from studio.workers.commands import result_folder


def finished_runs(services: Services, character: str) -> list[Run]:
    """The character's pruned models that can be exported, newest first."""
    return runs.list_runs(services.store, character=character, kinds=["prune"], states=["done"]) if character else []


def proposed_name(services: Services, run: Run) -> str:
    """A name for the export: the character's and what was removed; Llama's licence wants its name in front."""
    found = characters.get(services.store, run.character)
    name = f"{slug(found.char if found else run.name)}-{round(100 * removed_by(run))}"
    licence = str(run.summary.get("base", {}).get("licence") or "")
    return f"llama-{name}" if licence.startswith("llama") and licence != "llama2" else name


def present_export_run(services: Services, character: str) -> Run | None:
    """The export job of the character to tell about: the one under way, else the next to come, else the last."""
    return runs.foremost(runs.list_runs(services.store, character=character, kinds=["export"])) if character else None


def show_character(services: Services, character: str, chosen: str = "") -> tuple[Any, ...]:
    """All of the room for a character; see Room.of_character. The news follow at the timer's next tick.

    `chosen`: the run that the page shows; where it is still one of the character's, it stays, with the name typed for it.
    """
    found = finished_runs(services, character)
    same = chosen in [run.id for run in found]
    run_id = chosen if same else found[0].id if found else None
    of_run = (gr.skip(),) * 4 if same else show_run(services, run_id)
    return (gr.HTML(view.NO_RUN if character else view.NOBODY, visible=not found), gr.Column(visible=bool(found)),
            gr.Dropdown(choices_of(found), value=run_id),
            *of_run, *show_past(services, character), gr.Timer(active=bool(found)), run_id or "")


def show_run(services: Services, run_id: str | None) -> tuple[Any, ...]:
    """What the room says of a run; see Room.of_run."""
    run = runs.get(services.store, run_id) if run_id else None
    if run is None:
        return "", None, "", ""
    truth = truth_of(services, run)
    sizes = size_table.table_html(truth) + size_table.badges_html(truth) if truth else ""
    return view.report_html(run), view.readings_figure(run), proposed_name(services, run), sizes


def truth_of(services: Services, run: Run) -> size_table.Truth | None:
    """A run's sizes, with what its newest export measured; None where its files are gone."""
    folder = result_folder(services.settings, run)
    if folder is None or not (shapes := known_shapes(folder)):
        return None
    try:
        config = read_json(folder / "config.json")
    except UserError:
        config = {}
    proof: dict[str, Any] = {}
    for one in reversed(runs.list_exports(services.store, run=run.id)):  # the newest figure of each kind counts
        proof = {**proof, **{name: one.proof[name] for name in ("timed", "files") if one.proof.get(name)}}
    before = run.summary.get("before", {})
    return size_table.Truth(shapes, config, int(before.get("parameters", 0)), int(before.get("intermediate_size", 0)),
                            size_table.measured_of(run.summary, proof))


def show_past(services: Services, character: str, chosen: str = "") -> tuple[Any, ...]:
    """The list of past exports, and the one that is chosen, else the newest."""
    found = runs.list_exports(services.store, character=character) if character else []
    ids = [one.id for one in found]
    choice = chosen if chosen in ids else ids[0] if ids else None
    radio = gr.Radio([(view.export_label(one), one.id) for one in found], value=choice, visible=bool(found))
    return radio, *show_export(services, choice)


def show_export(services: Services, export_id: str | None) -> tuple[Any, ...]:
    """A past export; see Room.of_export."""
    export = runs.get_export(services.store, export_id) if export_id else None
    if export is None:
        return "", gr.DownloadButton(visible=False), gr.Button(visible=False)
    has_zip = bool(export.zip) and Path(export.zip).is_file()
    download = gr.DownloadButton(visible=False)
    if has_zip:
        download = gr.DownloadButton(value=servable(Path(export.zip)), visible=True)
    return view.export_html(export), download, gr.Button(visible=True)


def read_news(services: Services, character: str, seen: str, chosen: str = "") -> Any:
    """How the character's exports are getting on; a skip while nothing is new, and no more ticks once all have ended.

    `chosen`: the run that the page shows, whose table of sizes gains by what an export measured.
    """
    run = present_export_run(services, character)
    if run is None:
        return ("", gr.Button(visible=False), gr.Timer(active=False), "", *(gr.skip() for _ in range(5)))
    run_view, word = services.watcher.view(run.id), services.jobs.state_word(run)
    now = f"{run.id} {run.state} {word} {run_view.revision}"
    if now == seen:
        return gr.skip()
    going = run.state in ("queued", *runs.ACTIVE)
    another = bool(seen) and not seen.startswith(run.id)  # the one told about before has ended
    ended = run.state == "done" or another
    past = (*show_past(services, character), show_run(services, chosen)[3]) if ended else tuple(gr.skip() for _ in range(5))
    return view.progress_html(run, run_view, word), gr.Button(visible=going), gr.Timer(active=going), now, *past

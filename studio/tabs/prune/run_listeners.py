"""The listeners of step 2: the slider, the buttons that queue, and what can be done with a run."""

import html
import time
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from studio.page import NameForm, Page, guarded, listen_to_renaming
from studio.services import Services
from studio.store import runs
from studio.tabs.prune.cut import Plan, facts_html, fault_html, likes_html, remaining_figure, shape_of
from studio.tabs.prune.layout import Controls
from studio.tabs.prune.runs_html import PAGE
from studio.tabs.prune.runs_room import RunsRoom


def listen(services: Services, room: RunsRoom, page: Page, tab: gr.Tab, controls: Controls) -> None:
    """Register them."""
    _sizing(services, page, tab, controls)
    _starting(room, page, controls)
    _minding(services, room, page, controls)
    _keeping(room, page, controls)


def _sizing(services: Services, page: Page, tab: gr.Tab, controls: Controls) -> None:
    @guarded
    def foretell(model: str, percent: float, multiple: int) -> Any:
        return sizes(services, model, Plan(percent, multiple))

    @guarded
    def look_up(model: str, percent: float, multiple: int) -> Any:
        return sizes(services, model, Plan(percent, multiple), wait=True)

    asked, shown = [page.model, controls.percent, controls.multiple], [controls.facts, controls.likes, controls.remains]
    controls.percent.change(foretell, asked, shown, trigger_mode="always_last", **page.poll)
    controls.multiple.change(foretell, asked, shown, trigger_mode="always_last", **page.poll)
    for begin in (tab.select, page.model.change):
        begin(look_up, asked, shown, **page.private)


def sizes(services: Services, model: str, plan: Plan, wait: bool = False) -> tuple[str, str, Any]:
    """The facts, the badges and the figure of a cut; where the model cannot be pruned, why."""
    try:
        shape = shape_of(services, model, wait)
    except UserError as error:
        return fault_html(error), "", remaining_figure(None, plan)
    return facts_html(shape, plan), likes_html(shape, plan), remaining_figure(shape, plan)


def _starting(room: RunsRoom, page: Page, controls: Controls) -> None:
    @guarded
    def start(character: str, set_id: str, model: str, name: str, *plan: Any) -> Any:
        run = room.prune(character, set_id, model, Plan(*plan), name)
        gr.Info("It is in the list of runs below.", title="Queued")
        return run.id, "", time.time_ns()

    @guarded
    def queue_three(character: str, set_id: str, model: str, *plan: Any) -> Any:
        queued, left = room.prune_ladder(character, set_id, model, Plan(*plan))
        waiting = "1 run waits" if len(queued) == 1 else f"{len(queued)} runs wait"
        gr.Info(html.escape(f"{waiting} in the queue. {left}"), title="Queued")
        return "", time.time_ns()

    plan = [controls.percent, controls.multiple, controls.prune_preset, controls.bits, controls.recover, controls.seed]
    chosen = [page.character, controls.shown_set, page.model]
    for begin in (controls.start.click, controls.name.submit):
        begin(start, [*chosen, controls.name, *plan], [controls.run_id, controls.name, controls.pulse], trigger_mode="once",
              **page.private)
    controls.ladder.click(queue_three, [*chosen, *plan], [controls.run_id, controls.pulse], trigger_mode="once", **page.private)


def _minding(services: Services, room: RunsRoom, page: Page, controls: Controls) -> None:
    @guarded
    def choose(chosen: str, most: int, event: gr.EventData) -> Any:
        more = event._data.get("more")
        return (chosen, most + PAGE, time.time_ns()) if more else (str(event._data.get("run", "")), most, time.time_ns())

    def of_run(act: Any) -> Any:
        @guarded
        def handler(run_id: str) -> Any:
            act(run_id)
            return time.time_ns()

        return handler

    looked_at = [controls.run_id, controls.runs_most]
    controls.runs.click(choose, looked_at, [*looked_at, controls.pulse], **page.private)
    for button, act in ((controls.stop, services.jobs.stop), (controls.resume, services.jobs.resume),
                        (controls.kill, services.jobs.kill)):
        button.click(of_run(act), controls.shown_run, controls.pulse, trigger_mode="once", **page.private)


def _keeping(room: RunsRoom, page: Page, controls: Controls) -> None:
    def name_of(run_id: str) -> str | None:
        run = runs.get(room.store, run_id)
        return run.name if run else None

    @guarded
    def remove(run_id: str) -> Any:
        run = runs.get(room.store, run_id)
        room.remove(run_id)
        return run_id, gr.Row(visible=True), f"{html.escape(run.name if run else '')} was deleted.", "", time.time_ns()

    @guarded
    def put_back(run_id: str) -> Any:
        room.put_back(run_id)
        return run_id, gr.Row(visible=False), time.time_ns()

    form = NameForm(controls.rename_box, controls.title, controls.rename_yes, controls.rename_no, controls.named_run)
    listen_to_renaming(page, form, controls.rename, controls.shown_run, controls.pulse, name_of, room.rename)
    controls.remove.click(remove, controls.shown_run, [controls.gone_run, controls.gone_box, controls.gone_text, controls.run_id,
                                                       controls.pulse], trigger_mode="once", **page.private)
    controls.put_back.click(put_back, controls.gone_run, [controls.run_id, controls.gone_box, controls.pulse], trigger_mode="once",
                            **page.private)

"""The listeners of the Prune room: the forms, and the buttons of what the live channel shows."""

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.base.job import PRESET_LABELS
from studio.page import ENGINEER, Page, at_once, figure_html, guarded, in_sight, looks
from studio.services import Services
from studio.store import lines, runs, values
from studio.tabs import verdict
from studio.tabs.prune.cut import Plan, facts_html, fault_html, likes_html, remaining_figure, shape_of
from studio.tabs.prune.layout import WISHES, Controls
from studio.tabs.prune.lines_controller import Edit, LinesController, LinesOptions
from studio.tabs.prune.runs_controller import RunsController

_WISH = f"(percent) => {sorted(WISHES.values())}.includes(percent) ? percent : null"
COPIED = "Approved lines do not change, so your change went into a copy. Approve the copy to use it."
# The set that the page shows, in place of the second value.
_WITH_SET = ("(character, _, ...others) => "
             "[character, document.querySelector('#prune-from [data-set]')?.dataset.set ?? '', ...others]")
BEGUN = ("#prune-making :is(.running, p.quiet)", "#prune-run")  # the lines under way, else the run
Actions = dict[str, Callable[..., Any]]


def _doing(services: Services, actions: Actions) -> Callable[..., Any]:
    """A listener that does what the pressed button says. `actions`: by name, each called with the button's data; it may
    return updates."""
    @guarded
    def act(event: gr.EventData) -> Any:
        data = dict(event._data)
        try:
            updates = actions[str(data["do"])](data)
            return updates if isinstance(updates, dict) else gr.skip()
        finally:
            services.live.touch("prune")

    return act


def listen_to_lines(services: Services, room: LinesController, page: Page, controls: Controls) -> None:
    """Step 1: lines made, read, edited, approved."""
    _making(services, room, page, controls)
    gone_set, gone_lines = controls.gone_set, controls.gone_lines

    def seen(set_id: str) -> dict[Any, Any]:
        return {controls.looks: looks(set=set_id)}

    def edit(data: dict[str, Any]) -> Any:
        changed = room.edit(data["id"], Edit(int(data["position"]), data.get("question"), data.get("answer")))
        return copied(data["id"], changed)

    def decide(data: dict[str, Any]) -> Any:
        if data["decision"] == "" and "answer" in data:  # a rewriting is taken back with its text
            edit(data)
        return copied(data["id"], room.decide(data["id"], int(data["position"]), data["decision"]))

    def copied(before: str, after: str) -> dict[Any, Any]:
        if before != after:
            gr.Info(COPIED, title="A copy was made")
        return seen(after)

    def take_out(data: dict[str, Any]) -> Any:
        changed, gone = room.take_out(data["id"], data["ticked"])
        text = f"{len(gone):,} {'line was' if len(gone) == 1 else 'lines were'} deleted."
        return {**copied(data["id"], changed), **gone_lines.shown(text, gone)}

    def delete(data: dict[str, Any]) -> Any:
        gone = room.delete(data["id"])
        text = f"{gone.name or 'A set of lines'} was deleted. Runs that learned from it keep their lines."
        return {**seen(""), **gone_lines.hidden(), **gone_set.shown(text, gone.id)}

    def approve(data: dict[str, Any]) -> Any:
        return seen(room.approve(data["id"]).id)

    def rename(data: dict[str, Any]) -> None:
        room.rename(data["id"], data["name"])

    actions: Actions = {"edit": edit, "decide": decide, "delete-lines": take_out, "delete": delete, "approve": approve,
                        "rename": rename}
    # One after the other: the second edit of an approved set must find the copy that the first has made.
    controls.lines.click(_doing(services, actions), None, [controls.looks, *gone_set.parts, *gone_lines.parts],
                         trigger_mode="multiple", concurrency_limit=1, **page.private)
    _undoing(services, page, gone_lines, controls, room.put_back)
    _undoing(services, page, gone_set, controls, lambda gone: seen(room.undelete(gone).id))


def _undoing(services: Services, page: Page, notice: Any, controls: Controls, undo: Callable[[Any], dict[Any, Any] | None]) -> None:
    @guarded
    def take_back(gone: Any) -> Any:
        updates = undo(gone) or {}
        services.live.touch("prune")
        return {**updates, **notice.hidden()}

    notice.undo.click(take_back, notice.gone, [notice.row, controls.looks], trigger_mode="once", **page.private)
    page.character.change(notice.hidden, None, notice.row, **page.private)


def _making(services: Services, room: LinesController, page: Page, controls: Controls) -> None:
    @guarded
    def make(character: str, model: str, *options: Any) -> Any:
        room.make(character, model, LinesOptions(*options))
        services.live.touch()
        return looks(set="")

    @guarded
    def take(character: str, file: str) -> Any:
        found = room.take_file(character, Path(file))
        gr.Info(f"{len(lines.lines(room.store, found.id)):,} lines were read.", title="Your file")
        services.live.touch("prune")
        return looks(set=found.id)

    controls.who.input(lambda who: gr.Row(visible=who == "server"), controls.who, controls.server, **at_once(page.private))
    controls.make.click(make, [page.character, page.model, controls.who, controls.preset, controls.url, controls.server_model],
                        controls.looks, trigger_mode="once", **page.private)
    controls.file.upload(take, [page.character, controls.file], controls.looks, **page.private)
    controls.making.click(_doing(services, {
        **_job_actions(services), "drop": lambda data: runs.remove(room.store, data["id"])}),
        None, None, trigger_mode="once", **page.private)


def _job_actions(services: Services) -> Actions:
    jobs = services.jobs
    return {"stop": lambda data: jobs.stop(data["id"]), "kill": lambda data: jobs.kill(data["id"]),
            "resume": lambda data: jobs.resume(data["id"])}


def listen_to_runs(services: Services, room: RunsController, page: Page, tab: gr.Tab, controls: Controls) -> None:
    """Step 2: the slider, the buttons that queue, and what can be done with a run."""
    _sizing(services, page, tab, controls)
    _presets(services, page, tab, controls)
    _starting(services, room, page, controls)

    def remove(data: dict[str, Any]) -> Any:
        run = runs.get(room.store, data["id"])
        room.remove(data["id"])
        return {controls.looks: looks(run="", at=""),
                **controls.gone_run.shown(f"{run.name if run else ''} was deleted.", data["id"])}

    def put_back(id: str) -> dict[Any, Any]:
        room.put_back(id)
        return {controls.looks: looks(run=id, at="")}

    def go(name: str) -> Callable[..., Any]:
        def to(data: dict[str, Any]) -> dict[Any, Any]:
            room.use(data["id"], speaks=name == "preview")
            return {page.run: data["id"], page.rooms: gr.Tabs(selected=name)}

        return to

    actions: Actions = {**_job_actions(services), "remove": remove, "rename": lambda data: room.rename(data["id"], data["name"]),
                        "talk": go("preview"), "compare": go("compare"), "export": go("export")}
    controls.progress.click(_doing(services, actions), None,
                            [controls.looks, page.run, page.rooms, *controls.gone_run.parts],
                            trigger_mode="once", **page.private)
    for part in (controls.verdict, controls.asking):
        part.click(_doing(services, verdict.actions(services)), None, [controls.looks], trigger_mode="once", **page.private)
    controls.judge.listen(services, page)
    tab.select(lambda: controls.judge.shown(services), None, controls.judge.inputs, **page.private)
    _undoing(services, page, controls.gone_run, controls, put_back)


def _presets(services: Services, page: Page, tab: gr.Tab, controls: Controls) -> None:
    """How thorough, kept over reloads. What is chosen for the lines is chosen for the prune, which can have another one."""
    names = ("lines-preset", "prune-preset")

    def keep(*chosen: str) -> None:
        for name, preset in zip(names[-len(chosen):], chosen, strict=True):
            values.set_value(services.store, name, preset)

    def kept() -> str:
        found = (values.get_value(services.store, name, "") for name in names)
        return json.dumps([one if one in PRESET_LABELS else "quick" for one in found])

    both, chosen = [controls.preset, controls.prune_preset], "personaStudioPresetChosen"
    controls.preset.input(None, controls.preset, both, js=f"(preset) => {{ window.{chosen} = true; return [preset, preset]; }}",
                          **page.private)
    controls.preset.input(guarded(keep), [controls.preset, controls.preset], None, **at_once(page.private))
    controls.prune_preset.input(guarded(keep), controls.prune_preset, None, **at_once(page.private),
                                js=f"(preset) => {{ window.{chosen} = true; return preset; }}")
    # What is kept may arrive after a choice on this page, which it must not paint over: the page itself decides.
    found = gr.Textbox(visible="hidden", label="Kept")
    for begin in (tab.select, page.character.change):
        begin(kept, None, found, **page.private)
    found.change(None, [found, *both], both, **page.private,
                 js=f"(kept, lines, prune) => kept && !window.{chosen} ? JSON.parse(kept) : [lines, prune]")


def _sizing(services: Services, page: Page, tab: gr.Tab, controls: Controls) -> None:
    def turn(engineer: bool) -> bool:
        values.set_value(services.store, ENGINEER, bool(engineer))
        services.live.touch("prune")
        return bool(engineer)

    controls.engineer.input(guarded(turn), controls.engineer, page.engineer, **at_once(page.private))
    page.engineer.change(lambda engineer: engineer, page.engineer, controls.engineer, **page.private)
    controls.wish.input(None, controls.wish, controls.percent, js="(percent) => percent", **page.private)
    controls.percent.change(None, controls.percent, controls.wish, js=_WISH, **page.private)
    for begin in (tab.select, page.character.change):  # as another page has left it
        begin(lambda: bool(values.get_value(services.store, ENGINEER, False)), None, controls.engineer, **page.private)

    @guarded
    def estimate(model: str, percent: float, multiple: int) -> Any:
        return sizes(services, model, Plan(percent, multiple))

    @guarded
    def look_up(model: str, percent: float, multiple: int) -> Any:
        return sizes(services, model, Plan(percent, multiple), wait=True)

    asked, shown = [page.model, controls.percent, controls.multiple], [controls.facts, controls.likes, controls.remains]
    controls.percent.change(estimate, asked, shown, trigger_mode="always_last", **page.poll)
    controls.multiple.change(estimate, asked, shown, trigger_mode="always_last", **page.poll)
    for begin in (tab.select, page.model.change):
        begin(look_up, asked, shown, **page.private)


def sizes(services: Services, model: str, plan: Plan, wait: bool = False) -> tuple[str, str, str]:
    """The facts, the badges and the figure of a cut; where the model cannot be pruned, why."""
    try:
        shape = shape_of(services, model, wait)
    except UserError as error:
        return fault_html(error), "", figure_html(remaining_figure(None, plan))
    return facts_html(shape, plan), likes_html(shape, plan), figure_html(remaining_figure(shape, plan))


def _starting(services: Services, room: RunsController, page: Page, controls: Controls) -> None:
    @guarded
    def start(character: str, set_id: str, model: str, name: str, *plan: Any) -> Any:
        if room.has_lines(character):
            run = room.prune(character, set_id, model, Plan(*plan), name)
            gr.Info("It is in the list of runs.", title="Queued")
        else:
            run = room.prune_whole(character, model, Plan(*plan), name)
            gr.Info("First the lines are made. Pruning follows by itself.", title="Queued")
        services.live.touch()
        return looks(run=run.id, at=""), ""

    @guarded
    def queue_three(character: str, set_id: str, model: str, *plan: Any) -> Any:
        queued, left = room.prune_ladder(character, set_id, model, Plan(*plan))
        waiting = "1 run waits" if len(queued) == 1 else f"{len(queued)} runs wait"
        gr.Info(html.escape(f"{waiting} in the queue. {left}"), title="Queued")
        services.live.touch()
        return looks(run="", at="")

    chosen = [page.character, controls.shown_set, page.model]
    for begin in (controls.start.click, controls.name.submit):
        begin(start, [*chosen, controls.name, *controls.plan], [controls.looks, controls.name], trigger_mode="once", js=_WITH_SET,
              **page.private).success(**in_sight(*BEGUN, wait=700))
    controls.ladder.click(queue_three, [*chosen, *controls.plan], controls.looks, trigger_mode="once", js=_WITH_SET, **page.private)

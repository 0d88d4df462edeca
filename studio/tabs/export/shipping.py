"""What to ship: every finished model of a character at every file type, how close, how large, how fast; a budget picks one.

The form goes through Gradio; the figure and what is picked come through the live channel, from what a page looks at.
"""

import html
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.base.files import slug
from engine.base.frontier import AXES, Budget, front, pick, verdict
from engine.base.pruning_events import Placed
from studio.figures import words
from studio.figures.frontier import tradeoff
from studio.live import figure
from studio.page import Page, guarded, live_html
from studio.services import Services
from studio.store import characters
from studio.store.runs import Run
from studio.tabs.models import finished, removed_by
from studio.workers.commands import result_folder

ROOM = "export"
FIELDS = ("size", "memory", "speed", "first")
WHAT = ('<h3>What to ship</h3><p class="quiet">Smaller by pruning, by fewer bits for each weight, or by both? This measures the '
        "dense model and every finished model of this character at each type of GGUF file that fits it: how far it is from the "
        "dense model with the whole card, "
        "on lines that none of them learned from, and how fast llama.cpp speaks with it on this machine.</p>")
NOTHING = '<p class="quiet">Measure takes some minutes a model with the starter.</p>'
_LOOK = ("(axis, size, memory, speed, first) => { personaStudioLive.look({ship_axis: axis ?? '', ship_size: String(size ?? ''), "
         "ship_memory: String(memory ?? ''), ship_speed: String(speed ?? ''), ship_first: String(first ?? '')}, 'export'); "
         "return []; }")


class Panel:
    """The controls."""

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_id="ship") as self.whole:
            gr.HTML(WHAT)
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=300):
                    with gr.Row(elem_classes="tight"):
                        self.start = gr.Button("Measure", variant="primary", elem_id="ship-start", elem_classes="live-shown")
                        self.stop = gr.Button("Stop", variant="stop", elem_id="ship-stop", elem_classes="live-shown")
                    live_html("ship-progress")
                    self.axis = gr.Radio([(one.short, name) for name, one in AXES.items()], value="size",
                                          label="Against", elem_id="ship-axis")
                    gr.HTML('<p class="quiet">What can your game afford? 0: no limit.</p>')
                    with gr.Group():
                        number = lambda label, name: gr.Number(0, label=label, minimum=0, elem_id=f"ship-{name}")
                        self.limits: list[Any] = [
                            number("Largest file, MB", "size"), number("Most memory, MB", "memory"),
                            number("Fewest tokens a second", "speed"), number("Longest wait for the first token, s", "first")]
                    live_html("ship-pick")
                    self.export = gr.Button("Export it", elem_id="ship-export", elem_classes="live-shown")
                with gr.Column(scale=3, min_width=320):
                    live_html("ship-figure")
                    live_html("ship-verdict")
            live_html("ship-table")


def listen(services: Services, page: Page, panel: Panel) -> None:
    """The panel's listeners and its live part."""
    names = [f"ship_{name}" for name in ("axis", *FIELDS)]
    services.live.part(ROOM, lambda look: contents(services, look), "character", *names,
                       stamp=services.shipping.stamp)

    @guarded
    def start(character: str) -> None:
        begin(services, character)
        services.live.touch(ROOM)

    @guarded
    def export(character: str, *limits: float | None) -> None:
        gr.Info(export_pick(services, character, budget_of(*limits)))
        services.live.touch(ROOM)

    form: list[Any] = [panel.axis, *panel.limits]
    gr.on([one.change for one in form], None, form, None, js=_LOOK, **page.private)
    panel.start.click(start, page.character, None, trigger_mode="once", **page.private)
    panel.stop.click(guarded(services.shipping.stop), None, None, **page.poll)
    panel.export.click(export, [page.character, *panel.limits], None, trigger_mode="once", **page.private)


def begin(services: Services, character: str) -> None:
    """Measure the character's models: of each kind the newest run. Raises UserError."""
    services.shipping.begin(character, asked_of(services, character))


def asked_of(services: Services, character: str) -> dict[str, Any]:
    """What is measured: the runs, their dense model and their lines, as fields of FrontierJob. Raises UserError."""
    found = kinds_of(finished(services, character))
    if not found:
        raise UserError("This character has no finished model yet.", "Prune it first.")
    works = [services.settings.run_folder(run.id) / "work" / "lines.jsonl" for run in found]
    lines = next((file for file in works if file.is_file()), None)
    if lines is None:
        raise UserError("The lines of these runs are missing, so nothing can be measured.", "Prune the character again.")
    return {"runs": [str(folder) for run in found if (folder := result_folder(services.settings, run))],
            "model": str(found[0].spec.get("model") or "starter"), "lines": str(lines)}


def kinds_of(found: list[Run]) -> list[Run]:
    """Of runs, newest first, the newest of each kind; all of the dense model that the newest was made from."""
    kinds: dict[tuple[Any, ...], Run] = {}
    for run in found:
        if run.spec.get("model") == found[0].spec.get("model"):
            kinds.setdefault((round(removed_by(run), 3), bool(run.spec.get("bake")), bool(run.spec.get("recover"))), run)
    return list(kinds.values())


def budget_of(size: Any = 0, memory: Any = 0, speed: Any = 0, first: Any = 0) -> Budget:
    """Limits from a form or an address; what is no number is no limit."""
    values = []
    for one in (size, memory, speed, first):
        value = 0.0
        with suppress(TypeError, ValueError):
            value = float(one or 0)
        values.append(value if 0 < value < float("inf") else 0.0)
    return Budget(*values)


def export_pick(services: Services, character: str, budget: Budget) -> str:
    """Export what the budget picks; a sentence on it. Raises UserError."""
    chosen = pick(services.shipping.points(character), budget)
    found = finished(services, character)
    run = next((one for one in found if str(result_folder(services.settings, one)) == chosen.model), None)
    person = characters.get(services.store, character)
    about = slug(person.char if person else "model")
    if run:
        services.jobs.submit_export(run.id, f"{about}-{round(100 * removed_by(run))}-{chosen.type}", False, {"gguf": [chosen.type]})
    elif chosen.sparsity or chosen.baked:
        raise UserError(f"The run of {chosen.name} is gone.", "Measure again.")
    else:
        asked = {**asked_of(services, character), "types": [chosen.type]}
        known = str(services.shipping.folder(character))
        services.jobs.submit_export(found[0].id, f"{about}-dense-{chosen.type}", False, {"dense": {"job": asked, "known": known}})
    return "The export is under way; see Export."


def contents(services: Services, look: Mapping[str, str]) -> dict[str, Any]:
    """What the view shows."""
    person = characters.get(services.store, look["character"]) if look["character"] else None
    if person is None:
        return {}
    character = person.id
    points = services.shipping.points(character)
    axis = look["ship_axis"] if look["ship_axis"] in AXES else "size"
    budget = budget_of(*(look[f"ship_{name}"] for name in FIELDS))
    chosen, sentence = None, ""
    if points:
        try:
            chosen = pick(points, budget)
        except UserError as error:
            sentence = str(error)
    busy = services.shipping.character() == character
    return {"ship-start": not busy, "ship-stop": busy, "ship-export": chosen is not None,
            "ship-verdict": f'<p>{html.escape(" ".join(verdict(points)))}</p>' if points else "",
            "ship-progress": progress_html(services, character), "ship-figure": figure(tradeoff(points, axis, chosen)),
            "ship-pick": pick_html(chosen, sentence, budget != Budget()),
            "ship-table": table_html(points, axis, chosen) if points else NOTHING}


def progress_html(services: Services, character: str) -> str:
    """The measurement under way, or how it ended."""
    shipping = services.shipping
    if (busy := shipping.character()) and busy != character:
        return '<p class="quiet">Another character is being measured.</p>'
    if busy:
        stage, done, total = shipping.progress
        share = f'<progress value="{done}" max="{total}"></progress>' if total else ""
        return (f'<div role="status"><p>{html.escape(stage or "Starting")}{f": {done:,} of {total:,}" if total else ""}</p>{share}'
                "</div>")
    return f'<p role="status">{html.escape(shipping.endings[character])}</p>' if shipping.endings.get(character) else ""


def pick_html(chosen: Placed | None, sentence: str, limited: bool) -> str:
    """What the limits pick, or why nothing."""
    if chosen is None:
        return f'<p role="status">{html.escape(sentence)}</p>' if sentence else ""
    speed = (f", {chosen.tokens_per_second:.0f} tokens a second, the first after {chosen.first_token_seconds:.2f} s"
             if chosen.rounds else "")
    kind = "" if chosen.sparsity or chosen.baked else (
        " It is the file that the dense model came from." if chosen.exact else
        " It is the dense model, quantised for this character.")
    return (f'<p role="status">{"Within these limits" if limited else "Without a limit"}: <b>{html.escape(chosen.name)} at '
            f"{chosen.type}</b>, {words.size(chosen.bytes)}, distance {chosen.kl:.3f}{speed}.{kind}</p>")


def table_html(points: list[Placed], axis: str, chosen: Placed | None) -> str:
    """All points, the smallest first."""
    best = front(points, AXES[axis])
    heads = ("Model", "Type", "Size", "Distance", "Same next word piece", "Tokens a second", "First token", "Memory")
    rows = []
    for point in sorted(points, key=lambda point: point.bytes):
        timed = ((f"{point.tokens_per_second:.0f}", f"{point.first_token_seconds:.2f} s", words.size(point.memory))
                 if point.rounds else ("–", "–", "–"))
        cells = (html.escape(point.name), point.type + (" (its source)" if point.exact else ""), words.size(point.bytes),
                 f"{point.kl:.3f}", words.percent(point.top1), *timed)
        bold = [f"<b>{cell}</b>" if point in best else cell for cell in cells]
        shown = "".join(f'<td data-head="{head}">{cell}</td>' for head, cell in zip(heads[1:], bold[1:], strict=True))
        rows.append(f'<tr class="{"chosen" if point == chosen else ""}"><th>{bold[0]}</th>{shown}</tr>')
    first = points[0]
    basis = (f"On {first.lines} lines that no model learned from; speeds are medians of {words.count(first.rounds, 'round')}, "
             f"{words.count(first.threads, 'thread')}, all files in turn on this machine. Bold: no other is closer for the same or "
             "less." if first.rounds else f"On {first.lines} lines that no model learned from.")
    top = "".join(f"<th>{head}</th>" for head in heads)
    return (f'<div class="size-scroll"><table class="size-table"><thead><tr>{top}</tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table></div><p class="quiet">{basis}</p>')

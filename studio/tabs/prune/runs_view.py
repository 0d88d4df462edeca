"""Runs as the page shows them: the list, and one of them with its stages, warnings and end. Its pictures are in pictures.py.

Everything is escaped.

The seconds of a stage under way are counted in the page (assets/live.js), so that only what happens is sent.
"""

import html
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.base.ids import BASELINES, StageId
from engine.base.job import PRESET_LABELS, Recipe
from engine.base.settings import knobs
from studio import labels
from studio.figures import words
from studio.store.runs import ACTIVE, SILENT, Run
from studio.tabs.models import is_called
from studio.tabs.prune.lines_view import rename_html
from studio.workers import pace
from studio.workers.view import RunView, StageView

PILLS = {"done": "done", "failed": "failed", "stopped": "stopped", "running": "running", "starting": "running",
         "stopping": "running", SILENT: "failed", "damaged": "failed"}  # colours
PAGE = 20  # runs in the list at first, and more at each asking


@dataclass(frozen=True)
class Reading:
    """A run's last reading on the test lines. `kl`: nats a token; `top1`: share of tokens, 0 to 1."""

    kl: float
    top1: float
    lines: int


def final_reading(run: Run) -> Reading | None:
    """What a finished run reached."""
    found = list((run.summary.get("readings") or {}).values())
    return Reading(found[-1]["kl"], found[-1]["top1"], found[-1]["lines"]) if len(found) > 1 else None


def removed_share(run: Run) -> float:
    """The share of the feed-forward channels that a run removes: as cut, else as asked for."""
    before, after = (run.summary.get(name, {}).get("intermediate_size") for name in ("before", "after"))
    return 1 - after / before if before and after else float(run.spec.get("sparsity", 0.0))


def table_html(found: Sequence[Run], states: dict[str, str], chosen: str, total: int = 0) -> str:
    """Runs, each with a button that chooses it; where there are more of them in all, a button that asks for more.

    `states`: by the run's id, as Jobs.shown_state says.
    """
    if not found:
        return '<p class="prune-empty">Nothing pruned yet. Choose how much to remove, and press Prune.</p>'
    body = "".join(_row(run, states[run.id], run.id == chosen) for run in found)
    heads = "".join(f"<th scope='col'>{name}</th>" for name in ("Name", "Removed", "State", "Distance", "Size", "Made"))
    more = (f'<p><button data-look="runs" value="{len(found) // PAGE * PAGE + PAGE}">Show more</button> '
            f'<span class="quiet">{len(found):,} of {total:,} runs</span></p>' if total > len(found) else "")
    return (f'<div class="prune-scroll"><table class="prune-runs"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
            f'</div>{more}'
            f'<p class="quiet engineer">{words.DISTANCE}</p>')


def _row(run: Run, state: str, chosen: bool) -> str:
    reading, after = final_reading(run), run.summary.get("after", {})
    distance = "–"
    if reading:
        distance = f"{words.figure(reading.kl)} <small>on {words.count(reading.lines, 'line')}</small>"
    size = words.size(after["bytes"]) if after.get("bytes") else "–"
    button = f'<button data-look="run" data-clears="at" value="{html.escape(run.id)}" aria-pressed="{json.dumps(chosen)}">'
    return (f'<tr class="{"chosen" if chosen else ""}"><td>{button}{html.escape(run.name)}</button></td>'
            f'<td>{words.removed(removed_share(run))}</td>'
            f'<td>{pill("damaged" if run.damaged else state)}</td>'
            f'<td>{distance}</td><td>{size}</td><td>{words.moment(run.made)}</td></tr>')


def pill(state: str) -> str:
    """A state in its colour."""
    return f'<i class="pill {PILLS.get(state, "")}">{labels.RUN_STATES[state]}</i>'


def run_html(run: Run, view: RunView, state: str, about: str, char: str = "", how: bool = True,
             left: float | None = None, basis: str = "") -> str:
    """One run: name, state, what it is about, its end, what one can do with it; and `how` it went: stages and warnings.

    `about` and `char`, the character's name, are plain text; `left`: seconds until it ends, None where that is not known, and its
    `basis`.
    """
    head = (f'<div class="prune-head"><h4>{html.escape(run.name)}</h4> {pill(state)}</div>'
            f'<p class="quiet">{html.escape(about)}</p>')
    until = f'<p id="prune-left">{words.remaining(left).capitalize()} for the whole run, {basis}.</p>' if left is not None else ""
    went = until + stages_html(run, view) if how else ""
    return (f'<div class="prune-run" data-run-shown="{html.escape(run.id)}">{head}{ending_html(run, state)}{_next(run, char)}{went}'
            f'{_warnings(view)}</div>{_buttons(run, state, how)}')


def _next(run: Run, char: str) -> str:
    """What a finished run is for: a click each."""
    if run.state != "done" or run.damaged:
        return ""
    buttons = (("talk", f"Talk to {char}" if char else "Talk", "primary "), ("compare", "Compare blind", ""),
               ("export", "Export", ""))
    shown = "".join(f'<button id="prune-to-{do}" class="{kind}large" data-do="{do}" data-id="{html.escape(run.id)}">'
                    f'{html.escape(word)}</button>' for do, word, kind in buttons)
    return f'<div class="live-buttons prune-next">{shown}</div>'


def _buttons(run: Run, state: str, how: bool) -> str:
    """What else can be done with a run now."""
    id = html.escape(run.id)
    went = (f'<button id="prune-went" data-look="how" value="{"" if how else "all"}" aria-expanded="{json.dumps(how)}">'
            f'How it went</button>' if run.state == "done" else "")
    disabled = " disabled" if run.state in ACTIVE else ""
    buttons = [f'<button id="prune-stop-run" data-do="stop" data-id="{id}">Stop</button>'
               if run.state in ("queued", "starting", "running") else "",
               f'<button id="prune-resume" class="primary" data-do="resume" data-id="{id}">Resume</button>'
               if run.state in ("stopped", "failed") else "",
               f'<button id="prune-kill" class="stop" data-do="kill" data-id="{id}">End at once</button>'
               if state in ("stopping", SILENT) else "",
               rename_html("run", run.id, run.name, "Rename", ("prune-rename", "prune-title")),
               f'<button id="prune-delete" data-do="remove" data-id="{id}"{disabled}>Delete</button>']
    return f'<div class="live-buttons">{went}{"".join(buttons)}</div>'


def progress_html(run: Run, view: RunView, state: str, follows: bool = False) -> str:
    """A run that makes lines: its state and stages. `follows`: a prune follows by itself."""
    then = '<p class="quiet">When the lines are there, pruning follows by itself.</p>' if follows else ""
    return (f'<div class="prune-run"><div class="prune-head"><b>{html.escape(run.name)}</b> {pill(state)}</div>{then}'
            f'{ending_html(run, state)}{stages_html(run, view)}{_warnings(view)}</div>{_making_buttons(run, state)}')


def _making_buttons(run: Run, state: str) -> str:
    id, ended = html.escape(run.id), state in ("stopped", "failed")
    buttons = [("stop", "Stop", state in ("queued", "starting", "running")), ("resume", "Resume", ended),
               ("kill", "End at once", state in ("stopping", SILENT)), ("drop", "Dismiss", ended or state == "done")]
    shown = "".join(f'<button id="prune-lines-{action}" data-do="{action}" data-id="{id}">{title}</button>'
                    for action, title, wanted in buttons if wanted)
    return f'<div class="live-buttons">{shown}</div>'


def stages_html(run: Run, view: RunView) -> str:
    """Every stage with its steps, seconds and time to go."""
    if not view.stages:
        begins = "It is starting. Loading its libraries takes a while."
        waits = {"queued": "It begins when the runs before it have ended.", "starting": begins, "running": begins}
        return f'<p class="quiet">{waits.get(run.state, "")}</p>' if run.state in waits else ""
    alive = run.state in ACTIVE
    never = pace.left_out(run)
    shown = [one for one in view.stages.values() if one.state != "skipped" and not (one.state == "waiting" and one.key[0] in never)]
    return f'<ol class="prune-stages">{"".join(_stage(one, alive) for one in shown)}</ol>{_writing(view) if alive else ""}'


def _writing(view: RunView) -> str:
    """The answer that is being written."""
    one = view.writing
    return f'<p class="prune-writing"><b>{html.escape(one.question)}</b> {html.escape(one.answer)} …</p>' if one else ""


def _stage(stage: StageView, alive: bool) -> str:
    running = stage.state == "running" and alive
    state = stage.state if running or stage.state != "running" else "stopped"
    bar = (f'<div class="bar" role="progressbar" aria-label="{labels.stage(*stage.key)}" aria-valuemin="0" '
           f'aria-valuemax="100" aria-valuenow="{stage.share * 100:.0f}"><i style="width:{stage.share * 100:.0f}%"></i></div>'
           if running and stage.total else "")
    notes = []
    if stage.total and state in ("running", "stopped", "failed"):
        whole, part = divmod(stage.done + (stage.under_way if running else 0), 1)
        notes.append(f"{whole:,.0f} of {stage.total:,}" + (f", the next one {words.percent(part)}" if round(part, 2) else ""))
    if running:
        notes.append(f'<time data-since="{(stage.at or time.time()) - stage.seconds:.1f}"></time>')
    elif stage.seconds >= 0.5:
        notes.append(words.duration(stage.seconds))
    elif state == "reused":
        notes.append("kept from before")
    if running and stage.eta is not None:
        notes.append(words.remaining(stage.eta))
    return (f'<li class="{state}"><span>{labels.stage(*stage.key)}</span><small>{" · ".join(notes)}</small>{bar}</li>')


def ending_html(run: Run, state: str) -> str:
    """The last sentence of a run; for one that does not respond, or whose entry is damaged, what can be done."""
    if run.damaged:
        return f'<p class="prune-end failed">{html.escape(run.fault)}</p>'
    if run.state == "done" and run.kind == "prune":
        return f'<p class="prune-end done">{_done(run)}</p>'
    if state == SILENT:
        return ('<p class="prune-end failed">This run has not reported anything for minutes. It may only be slow. '
                'If nothing changes, end it at once; it can go on later from its last saved step.</p>')
    if run.state == "stopping":
        return '<p class="prune-end">It stops after the current step and keeps what it has done.</p>'
    return f'<p class="prune-end {run.state}">{html.escape(run.sentence)}</p>' if run.sentence else ""


def _done(run: Run) -> str:
    parts = [f"Done in {words.duration(run.summary['seconds'])}." if run.summary.get("seconds") else "Done."]
    before, after = run.summary.get("before", {}), run.summary.get("after", {})
    if before.get("parameters") and after.get("parameters") and removed_share(run):
        share = 1 - after["parameters"] / before["parameters"]
        parts.append(f"{words.removed(share)} of the model is gone: {words.size(before['bytes'])} became "
                     f"{words.size(after['bytes'])}.")
    reading = final_reading(run)
    if reading:
        parts.append(f"On {words.count(reading.lines, 'line')} that it did not learn from, it picks the same next word "
                     f"piece as the dense model {words.percent(reading.top1)} of the time{_beside(run)}. "
                     "Its verdict says whether it is still the same character.")
    if baked := run.summary.get("choices", {}).get(StageId.BAKE):
        parts.append(f"Before the first word it reads {words.count(baked['prompt_tokens'], 'word piece')} "
                     f"instead of {baked['whole_prompt_tokens']:,}.")
    return " ".join(parts)


def _beside(run: Run) -> str:
    """How the best of the one-shot methods reads, to follow the sentence on the run."""
    simple = [found for name, found in run.summary["readings"].items() if name in BASELINES]
    if not simple:
        return ""
    best = max(simple, key=lambda one: one["top1"])
    return f"; the best of the simpler cuts manages {words.percent(best['top1'])}"


def _warnings(view: RunView) -> str:
    found = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in view.warnings)
    return f'<ul class="prune-warnings">{found}</ul>' if found else ""


def about(run: Run, set_name: str) -> str:
    """What a run was asked for, as one line of plain text: the settings that differ from their defaults, by their labels."""
    spec: dict[str, Any] = run.spec
    changed = [one.label if spec[name] is True else f"{one.label}: {spec[name]}" for name, one in knobs(Recipe).items()
               if name != "sparsity" and spec.get(name, one.default) != one.default]
    removed = f"{words.removed(removed_share(run))} removed"
    parts = ["" if is_called(run, removed) else removed, str(spec.get("model", "")).rsplit("/", 1)[-1],
             PRESET_LABELS.get(str(spec.get("preset")), ""), *changed, f"card version {run.version}",
             f"from “{set_name}”" if set_name else ""]
    return " · ".join(filter(None, parts))

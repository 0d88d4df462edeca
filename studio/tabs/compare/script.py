"""The test script in the Compare room: which models are tested, the test and its stop, and the results as they come.

Results are questions by models: pass, fail or not judged, and the answers on a click. Everything is escaped.
"""

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.base.ids import Verdict
from engine.base.sampling import DEFAULTS
from engine.cards.script import read_script
from studio.figures.words import count
from studio.labels import VERDICTS
from studio.page import Page, guarded, live_html
from studio.services import Services
from studio.store import characters, runs, script_runs
from studio.store.runs import Run
from studio.store.script_runs import ScriptAnswer, ScriptRun
from studio.tabs.answers import card_of, changing, text_html
from studio.tabs.judges import Chosen, JudgeFields, check, choose, says_html
from studio.tabs.models import DENSE, Contender, common_type, dense_of, finished, pruned_of, removed_by, short_name
from studio.tabs.models import choices_of as labels_of

MOST_MODELS = 7
_DENSE = "dense:"  # before a dense model's name, as a choice
_SIGNS: dict[str, str] = {Verdict.PASS: "✓", Verdict.FAIL: "✕", Verdict.OPEN: "–"}
_STATES = {"running": "under way", "stopped": "stopped before its end", "failed": "failed", "done": ""}
HOW = ("Each question is asked once, so one answer decides: another seed can turn a verdict. Exact rules are checked on the text. "
       "What needs a judge is “not judged” without one; with one, 50 of 100 points pass. A question fails as soon as one of its "
       "rules is broken. A small model fails many, on the dense model too: compare the columns, not the score alone.")


class Panel:
    """The panel's components."""

    def __init__(self) -> None:
        with gr.Column(elem_id="compare-script", elem_classes="live-shown"):
            self.models = gr.CheckboxGroup([], label="Test script", elem_id="compare-script-models",
                                           info="The ticked models answer the same questions, and rules check what they say.")
            with gr.Row(elem_classes="tight"):
                self.run = gr.Button("Run the test script", variant="primary", scale=0, min_width=180,
                                     elem_id="compare-script-run", elem_classes="live-shown")
                self.stop = gr.Button("Stop", variant="stop", scale=0, min_width=90, elem_id="compare-script-stop",
                                      elem_classes="live-shown")
                self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, scale=0, min_width=120,
                                      elem_id="compare-script-seed")
            self.judge = JudgeFields("compare")
            live_html("compare-script-results", apply_default_css=False)


def contents(services: Services, character: str) -> dict[str, Any]:
    """The live contents: the newest test of each model, as it is now."""
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
    results = script_html(columns, questions, progress, services.scripts.warnings if busy else [])
    return {"compare-judge-says": says_html(services), "compare-script-results": results,
            "compare-script-run": not busy, "compare-script-stop": busy}


def choices_of(services: Services, found: Sequence[Run], model: str) -> list[tuple[str, str]]:
    """(label, choice) of the models that can be tested: the dense ones first, then the pruned ones `found`, newest first."""
    labels = {run: label for label, run in labels_of(found)}
    return [(labels.get(choice) or f"{DENSE} ({short_name(one)})", choice)
            for choice, one in _contenders(services, found, model).items()]


def begin(services: Services, character: str, model: str, chosen: list[str], seed: float | None, judge: Chosen) -> None:
    """Run the script on the chosen models. Raises UserError."""
    known = _contenders(services, finished(services, character), model)
    wanted = [one for choice, one in known.items() if choice in chosen]  # the dense ones first
    if not wanted:
        raise UserError("No model is chosen.", "Tick at least one above.")
    if len(wanted) > MOST_MODELS:
        raise UserError(f"At most {MOST_MODELS} models are tested at once.", "Untick some.")
    by = check(judge)
    if not 0 <= (seed or 0) < 2**32:
        raise UserError("The seed must be a whole number from 0 to 4294967295.")
    card_of(characters.head(services.store, character))  # before anything is written: it must be able to speak
    services.scripts.begin(character, [(one.run, one.model) for one in wanted], DEFAULTS.as_dict(), int(seed or 0),
                           by if judge.judge else None, common_type(one.model for one in wanted))


def listen(services: Services, page: Page, panel: Panel) -> None:
    """The panel's listeners."""
    def run(character: str, model: str, chosen: list[str], seed: float | None, *judge: str) -> None:
        begin(services, character, model, chosen, seed, choose(services, *judge))

    panel.run.click(changing(services.live, "compare", run),
                    [page.character, page.model, panel.models, panel.seed, panel.judge.judge, panel.judge.model], None,
                    trigger_mode="once", **page.private)
    panel.judge.listen(services, page)
    panel.stop.click(guarded(services.scripts.stop), None, None, **page.poll)


def _contenders(services: Services, found: Sequence[Run], model: str) -> dict[str, Contender]:
    dense = [dense_of(run) for run in found] or [Contender(None, model, DENSE, 0.0, 0)]
    return {**{f"{_DENSE}{one.model}": one for one in dense}, **{run.id: pruned_of(services, run) for run in found}}


def _name(services: Services, one: ScriptRun) -> str:
    run = runs.get(services.store, one.run) if one.run else None
    if run is None:
        return f"{DENSE} ({short_name(Contender(None, one.model, DENSE, 0.0, 0))})"
    return f"{run.name} · {pruned_of(services, run).name}"


def _removed(services: Services, one: ScriptRun) -> float:
    """How much is gone of a tested model, 0 to 1: the order of the columns, whichever was tested last."""
    run = runs.get(services.store, one.run) if one.run else None
    return removed_by(run) if run else 0.0


@dataclass(frozen=True)
class Column:
    """One model's newest test."""

    name: str
    run: ScriptRun
    answers: Sequence[ScriptAnswer]


def script_html(columns: Sequence[Column], questions: int, progress: str, warnings: Sequence[str]) -> str:
    """Counts by model, then every question with each model's verdict. `questions`: how many the card asks; `progress`: HTML."""
    notes = "".join(f'<p class="chat-note warn">{html.escape(one)}</p>' for one in warnings)
    busy = f'<p class="quiet" role="status" id="compare-script-progress">{progress}</p>' if progress else ""
    if not columns:
        return (f'<div class="versus script-results">{notes}{busy}<p class="versus-invite">The script of this character has '
                f"{count(questions, 'question')}. Tick models above and run it; you can read and change the questions in "
                "Draft, under “Test script”.</p></div>")
    order = list(dict.fromkeys(answer.question for column in columns for answer in column.answers))
    found = {(column.run.id, answer.question): answer for column in columns for answer in column.answers}
    rows = "".join(_row(columns, [found.get((column.run.id, question)) for column in columns]) for question in order)
    return (f'<div class="versus script-results">{notes}{busy}{_counts(columns)}{rows}'
            '<details class="chat-measures" data-key="how"><summary>How this is judged</summary>'
            f"<p>{html.escape(HOW)}</p></details></div>")


def _counts(columns: Sequence[Column]) -> str:
    cells = []
    for column in columns:
        total = len(column.answers)
        sums = {verdict: sum(answer.verdict == verdict for answer in column.answers) for verdict in _SIGNS}
        parts = "".join(f'<li class="script-{_css(verdict)}"><b>{number}</b> {VERDICTS[verdict]}</li>'
                        for verdict, number in sums.items())
        preferred = [answer.preferred for answer in column.answers if answer.preferred is not None]
        judged = (f"<p>The judge gives it {sum(preferred) / len(preferred):.0f} of 100 against the first model "
                  f"(50: alike; n = {len(preferred)}, both orders).</p>" if preferred else "")
        state = column.run.sentence or _STATES[column.run.state]
        basis = f"n = {total} · card version {column.run.version} · seed {column.run.seed}"
        basis += f" · judge {column.run.judge}" if column.run.judge else " · no judge"
        cells.append(f'<article class="script-sum"><h3>{html.escape(column.name)}</h3><ul class="measure">{parts}</ul>{judged}'
                     f'<p class="quiet measure">{html.escape(basis)}</p>'
                     f'{f"<p class=quiet>{html.escape(state)}</p>" if state else ""}</article>')
    return f'<div class="grid-cells script-sums" id="compare-script-sums">{"".join(cells)}</div>'


def _row(columns: Sequence[Column], answers: Sequence[ScriptAnswer | None]) -> str:
    first = next(answer for answer in answers if answer)
    cells = "".join(_cell(column, answer) for column, answer in zip(columns, answers, strict=True))
    said = " … ".join(first.lines)
    return (f'<section class="grid-round script-question"><p class="grid-line">{html.escape(said)}</p>'
            f'<div class="grid-cells">{cells}</div></section>')


def _cell(column: Column, answer: ScriptAnswer | None) -> str:
    name = html.escape(column.name)
    if answer is None:
        yet = " yet" if column.run.state == "running" else ""
        return f'<div class="script-cell quiet">{name}: not asked{yet}</div>'
    broken = [check for outcome in ("fail", "open") for check in answer.checks if check["outcome"] == outcome]
    talk = "".join(f"<p class=quiet>{html.escape(line)}</p><p>{text_html(said) or '<span class=quiet>Said nothing.</span>'}</p>"
                   for line, said in zip(answer.lines, answer.answers, strict=False))
    rules = Counter((check["outcome"], check["rule"], check["detail"]) for check in answer.checks)
    checks = "".join(f'<li class="script-{outcome}"><b>{_SIGNS.get(outcome, "–")}</b> {html.escape(rule)}'
                     f'{": " + html.escape(detail) if detail else ""}{f" ({times} rules)" if times > 1 else ""}</li>'
                     for (outcome, rule, detail), times in rules.items())
    why = f'<small>{html.escape(broken[0]["detail"] or broken[0]["rule"])}</small>' if broken else ""
    kind, key = _css(answer.verdict), f"{column.run.model} {answer.question}"
    return (f'<details class="script-cell script-{kind}" data-key="{html.escape(key)}"><summary>'
            f'<b>{_SIGNS[answer.verdict]} {VERDICTS[answer.verdict]}</b> <span class="quiet">{name}</span>{why}</summary>'
            f'<div class="script-said">{talk}<ul>{checks}</ul></div></details>')


def _css(verdict: str) -> str:
    return verdict.replace(" ", "-")

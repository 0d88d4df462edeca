"""The test script's results as HTML: questions by models, pass, fail or not judged, the answers on a click. All escaped.

Knows no library and no page.
"""

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from studio.figures.words import count
from studio.store.script_runs import ScriptAnswer, ScriptRun
from studio.tabs.answers import text_html

SIGNS = {"pass": "✓", "fail": "✕", "not judged": "–"}
_STATES = {"running": "under way", "stopped": "stopped before its end", "failed": "failed", "done": ""}
HOW = ("Each question is asked once, so one answer decides: another seed can turn a verdict. Exact rules are checked on the text. "
       "What needs a judge is “not judged” without one; with one, 50 of 100 points pass. A question fails as soon as one of its "
       "rules is broken. A small model fails many, on the dense model too: compare the columns, not the score alone.")


@dataclass(frozen=True)
class Column:
    """One model's newest test."""

    name: str
    run: ScriptRun
    answers: Sequence[ScriptAnswer]


def script_html(columns: Sequence[Column], questions: int, progress: str, warnings: Sequence[str]) -> str:
    """Counts by model, then every question with each model's verdict. `questions`: how many the card asks now."""
    notes = "".join(f'<p class="chat-note warn">{html.escape(one)}</p>' for one in warnings)
    busy = f'<p class="quiet" role="status" id="compare-script-progress">{html.escape(progress)}</p>' if progress else ""
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
        sums = {verdict: sum(answer.verdict == verdict for answer in column.answers) for verdict in SIGNS}
        parts = "".join(f'<li class="script-{verdict.replace(" ", "-")}"><b>{number}</b> {verdict}</li>'
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
    checks = "".join(f'<li class="script-{outcome}"><b>{SIGNS.get(outcome, "–")}</b> {html.escape(rule)}'
                     f'{": " + html.escape(detail) if detail else ""}{f" ({times} rules)" if times > 1 else ""}</li>'
                     for (outcome, rule, detail), times in rules.items())
    why = f'<small>{html.escape(broken[0]["detail"] or broken[0]["rule"])}</small>' if broken else ""
    kind, key = answer.verdict.replace(" ", "-"), f"{column.run.model} {answer.question}"
    return (f'<details class="script-cell script-{kind}" data-key="{html.escape(key)}"><summary>'
            f'<b>{SIGNS[answer.verdict]} {answer.verdict}</b> <span class="quiet">{name}</span>{why}</summary>'
            f'<div class="script-said">{talk}<ul>{checks}</ul></div></details>')

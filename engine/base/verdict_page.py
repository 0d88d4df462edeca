"""The verdict as HTML: a part of a page for the studio, and a page of its own that can be passed on. No script, nothing fetched."""

import difflib
import html
import re
import time
from collections.abc import Callable, Sequence

from engine.base.evaluation_events import Assessed, Compared
from engine.base.evidence import DENSE, OUTCOMES, Asked, Evaluation, Telling, Voiced, headline, recommend
from engine.base.files import resource
from engine.base.ids import Outcome

HOW = ("All models were asked the same, and are compared answer by answer. The line is the 95 % interval of the difference from "
       "the dense model, better to the right; the shaded band is the margin within which a difference does not count. “Holds”: "
       "the whole interval is right of the band's left end. “Lost”: all of it is left of that. Else nobody can tell yet: more "
       "questions make the interval shorter.")
_WIDTH, _MIDDLE, _HEIGHT = 170, 100, 22  # px; no difference is at _MIDDLE
_ALIKE = 0.6  # of two texts, words and spaces counted: below it marks would be everywhere
_WORD = re.compile(r"\w+|\W+")


def verdict_html(result: Evaluation, first: str = "", button: Callable[[Telling], str] = lambda one: "") -> str:
    """The verdict on all runs. With `first`, a run's id: its headline alone, and the rest folded away. `button`: HTML below each
    telling answer, for what can be done with it."""
    runs = result.runs()
    head = "".join(f"<h2>{html.escape(headline(result, one.id))}</h2>" for one in runs if one.id == first or not first)
    words = recommend(result)
    head += (f"<p><b>{html.escape(words)}</b></p>" if words else "") + f'<p class="soft">{html.escape(_basis(result))}</p>'
    shown = [one for one in runs if one.id == first] or runs
    numbered = [one for one in result.measures if any(figure.mean is not None for figure in _figures(result, one))]
    rest = "".join([_table(result, runs, numbered) + f'<p class="soft">{HOW}</p>' if numbered else "",
                    _without(result, [one for one in result.measures if one not in numbered]),
                    *(f'<p class="soft">{html.escape(words)}</p>' for words in (result.judge, *result.notes) if words),
                    *(_talks(result, run, button) for run in shown)])
    folded = f"<details><summary>Measure by measure, and where they differ</summary>{rest}</details>" if first else rest
    return f'<section class="verdict" aria-label="Verdict">{head}{folded}</section>'


def verdict_page(result: Evaluation) -> str:
    """A whole page, for light and dark, phones and paper."""
    title = html.escape(f"{result.character}: is it still the character?")
    style = resource("assets/verdict.css").read_text(encoding="utf-8")
    return ("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            f"<title>{title}</title><style>:root {{ color-scheme: light dark; }} body {{ font: 16px/1.5 ui-sans-serif, system-ui, "
            f'sans-serif; max-width: 1000px; margin: 0 auto; padding: 28px 18px; }}\n{style}</style></head>'
            f"<body>{verdict_html(result)}</body></html>\n")


def _basis(result: Evaluation) -> str:
    """What all figures rest on."""
    dense = next((one for one in result.speakers if one.id == DENSE), None)
    made = time.strftime("%Y-%m-%d", time.gmtime(result.made)) if result.made else ""
    every = "both" if len(result.runs()) == 1 else "all"
    parts = [f"Beside the dense model {result.dense}", f"{every} at {dense.type}" if dense and dense.type else "",
             f"{result.replies:,} answers in all", f"{result.seeds:,} to each question" if result.seeds > 1 else "",
             "a quick look" if result.quick else "", made]
    return " · ".join(filter(None, parts))


def _figures(result: Evaluation, asked: Asked) -> list[Assessed]:
    return [one for one in result.figures if one.measure == asked.name]


def _notes(result: Evaluation, asked: Asked) -> list[str]:
    """What is said of a measure's numbers, or why there are none, each once."""
    notes = dict.fromkeys(one.note for one in _figures(result, asked) if one.note)
    return [html.escape(one[:1].upper() + one[1:].rstrip(".") + ".") for one in notes]


def _table(result: Evaluation, runs: Sequence[Voiced], measures: Sequence[Asked]) -> str:
    """A row for each measure that has a number."""
    heads = "".join(f'<th scope="col">{html.escape(one.name)}</th>' for one in runs)
    rows = []
    for asked in measures:
        dense = _cell("Dense", _mean(result.figure(asked.name, DENSE), asked))
        cells = "".join(_cell(run.name, _finding(asked, result.finding(asked.name, run.id), result.figure(asked.name, run.id)))
                        for run in runs)
        about = (f"<b>{html.escape(asked.label)}</b><small>{html.escape(asked.about)}</small>"
                 + "".join(f'<small class="note">{words}</small>' for words in _notes(result, asked)))
        rows.append(f'<tr><td>{about}</td>{dense}{cells}</tr>')
    return (f'<table class="verdict-table"><thead><tr><th scope="col">Measure</th><th scope="col">Dense</th>{heads}</tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table>')


def _without(result: Evaluation, measures: Sequence[Asked]) -> str:
    """The measures that have no number of anybody, by why."""
    groups: dict[str, list[str]] = {}
    for one in measures:
        groups.setdefault(" ".join(_notes(result, one)), []).append(html.escape(one.label))
    rows = "".join(f"<li><b>{', '.join(labels)}.</b> {why}</li>" for why, labels in groups.items())
    return f'<h3>Not measured</h3><ul class="soft">{rows}</ul>' if rows else ""


def _cell(name: str, content: str) -> str:
    return f'<td data-of="{html.escape(name)}">{content}</td>'


def _mean(figure: Assessed | None, asked: Asked) -> str:
    if figure is None or figure.mean is None:
        return "–"
    return f"{value_words(figure.mean, asked.unit)}<small>on {figure.items:,} questions{_missing(figure)}</small>"


def _missing(figure: Assessed) -> str:
    return f", {figure.missing:,} without a value" if figure.missing else ""


def _finding(asked: Asked, finding: Compared | None, figure: Assessed | None) -> str:
    """A run's mark, its interval as a drawing, and its figures."""
    if finding is None or finding.difference is None or finding.low is None or finding.high is None:
        return f'<span class="verdict-mark unmeasured">{OUTCOMES[Outcome.UNMEASURED]}</span>'
    more = f"; about {finding.more:,} more would decide" if finding.outcome is Outcome.UNSURE and finding.more else ""
    mark = f'<span class="verdict-mark {finding.outcome}">{OUTCOMES[finding.outcome]}</span>'
    value = value_words(figure.mean, asked.unit) if figure and figure.mean is not None else "–"
    return (f"{mark}{_drawing(finding, asked.unit)}{value}"
            f"<small>on {finding.items:,} questions{_missing(figure) if figure else ''}{more}</small>")


def _drawing(finding: Compared, unit: str) -> str:
    """The interval of the difference beside its margin; what is too wide for the drawing is cut at its ends."""
    assert finding.difference is not None and finding.low is not None and finding.high is not None
    scale = 30 / finding.margin if finding.margin else 1.0
    at = lambda value: min(max(_MIDDLE + value * scale, 2.0), _WIDTH - 2.0)
    band, middle, kind = at(-finding.margin), _HEIGHT / 2, finding.outcome
    difference, low, high = (value_words(one, unit, sign=True) for one in (finding.difference, finding.low, finding.high))
    said = f"Difference {difference}, interval {low} to {high}, margin {value_words(finding.margin, unit)}"
    return (f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(said)}"><title>{html.escape(said)}</title>'
            f'<rect class="band" x="{band:.1f}" y="2" width="{_MIDDLE - band:.1f}" height="{_HEIGHT - 4}"></rect>'
            f'<line class="zero" x1="{_MIDDLE}" x2="{_MIDDLE}" y1="0" y2="{_HEIGHT}"></line>'
            f'<line class="range {kind}" x1="{at(finding.low):.1f}" x2="{at(finding.high):.1f}" y1="{middle}" y2="{middle}"></line>'
            f'<circle class="{kind}" cx="{at(finding.difference):.1f}" cy="{middle}" r="4.5"></circle></svg>')


def value_words(value: float, unit: str, sign: bool = False) -> str:
    """A value in its unit, for people: a share in per cent."""
    form = "+" if sign else ""
    if unit.startswith("share"):
        return f"{100 * value:{form}.0f} %"
    return f"{value:{form}.2f}" + (f" {unit}" if unit and not sign else "")


def _talks(result: Evaluation, run: Voiced, button: Callable[[Telling], str]) -> str:
    found = [one for one in result.telling if one.speaker == run.id]
    labels = {one.name: one.label for one in result.measures}
    if not found:
        return ""
    return f"<h3>Where they differ most: dense beside {html.escape(run.name)}</h3>" + "".join(
        _talk(one, run.name, labels.get(one.measure, ""), button(one)) for one in found)


def _talk(one: Telling, name: str, label: str, button: str) -> str:
    asked = " / ".join(one.lines[-3:])
    dense, run = one.dense[-1] if one.dense else "", one.run[-1] if one.run else ""
    by = f'<p class="soft">{html.escape(label)}</p>' if label else ""
    return (f'<div class="verdict-talk"><p>“{html.escape(asked)}”</p>{by}<div><div><small>Dense</small>{_marked(run, dense)}</div>'
            f"<div><small>{html.escape(name)}</small>{_marked(dense, run)}</div></div>{button}</div>")


def _marked(other: str, text: str) -> str:
    """The text as HTML, with the words marked that the other text has not; without marks where the two have little in common."""
    if not text.strip():
        return '<span class="soft">(said nothing)</span>'
    first, second = _WORD.findall(other), _WORD.findall(text)
    matcher, parts = difflib.SequenceMatcher(None, first, second, autojunk=False), []
    if matcher.ratio() < _ALIKE:
        return html.escape(text)
    for tag, _, _, begin, end in matcher.get_opcodes():
        words = html.escape("".join(second[begin:end]))
        parts.append(words if tag == "equal" or not words.strip() else f"<mark>{words}</mark>")
    return "".join(parts)

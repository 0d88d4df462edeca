"""The lines of a set as the page shows them: which of them, and as HTML. Their text is untrusted; everything is escaped."""

import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.base.questions import split_of
from studio import labels
from studio.figures import words
from studio.store.lines import CalibrationLine, LineSet

PAGE = 200  # lines shown at first, and more by each press
COMING = '<p class="prune-empty" id="prune-no-lines">They appear here when all of them are written.</p>'
EMPTY = ('<p class="prune-empty" id="prune-no-lines">No lines yet. Make some, or use your own: a JSON or JSONL file with '
         'a question and an answer in each entry.</p>')
# Name and heading of each column, and what a line has in it.
COLUMNS: dict[str, tuple[str, Callable[[CalibrationLine], Any]]] = {
    "number": ("No.", lambda line: line.position), "question": ("Question", lambda line: line.question),
    "answer": ("Answer", lambda line: line.answer), "about": ("About", lambda line: category(line.category)),
    "from": ("From", lambda line: labels.source(line.source)),
    "used": ("Used", lambda line: labels.SPLITS[split_of(line.question)])}
EDITABLE = ("question", "answer")
_KEYS = ('<p class="quiet">By the keyboard: arrow keys go from cell to cell, Enter changes a text, Space ticks; K, R, D and B '
         "keep, rewrite, drop and take back.</p>")


@dataclass(frozen=True)
class Filter:
    """Which lines of a set are shown: those with `search` in question or answer, of `category`, the first `most` by `sort`."""

    search: str = ""
    category: str = ""
    sort: str = "number"
    most: int = PAGE

    @classmethod
    def of(cls, look: Mapping[str, str], lines: Sequence[CalibrationLine]) -> "Filter":
        """What a page asks for. A category that is not there any more counts as none."""
        about = look["about"] if look["about"] in {line.category for line in lines} else ""
        return cls(look["search"], about, look["sort"] if look["sort"] in COLUMNS else "number",
                   int(look["lines"]) if look["lines"].isdecimal() else PAGE)


def matching(lines: Sequence[CalibrationLine], wanted: Filter) -> list[CalibrationLine]:
    """The lines that fit, all of them."""
    needle = wanted.search.strip().casefold()
    fit = [line for line in lines if (not wanted.category or line.category == wanted.category)
           and (needle in line.question.casefold() or needle in line.answer.casefold())]
    return sorted(fit, key=COLUMNS[wanted.sort][1])


def lines_html(sets: Sequence[LineSet], chosen: LineSet | None, lines: Sequence[CalibrationLine], wanted: Filter,
               version: int, review: str = "") -> str:
    """The sets, the `review` of the chosen one (HTML), and its lines as a table, folded. `version`: of the card now."""
    if chosen is None:
        return EMPTY
    fit = matching(lines, wanted)
    shown = fit[:wanted.most]
    return (_head(sets, chosen) + summary_html(chosen, lines, len(shown), len(fit), version) + review
            + f'<details id="prune-all" data-key="all-lines"><summary>All lines as a table</summary>{_search(lines, wanted)}'
            + table_html(chosen, shown) + _buttons(chosen, wanted.most, len(shown) < len(fit)) + "</details>")


def from_html(chosen: LineSet | None, coming: bool = False) -> str:
    """Which set a prune would learn from. `coming`: its first one is being made."""
    if chosen is None and coming:
        return '<p class="prune-from">The lines are being made.</p>'
    if chosen is None:
        return ('<p class="prune-from">There are no lines yet. Prune makes them and goes on by itself. To read them first, '
                'press Make the lines.</p>')
    first = "" if chosen.state == "approved" else " Approve these lines first."
    return (f'<p class="prune-from" data-set="{html.escape(chosen.id)}">Learns from <b>{html.escape(label(chosen))}</b>.'
            f'{first}</p>')


def options_html(choices: Sequence[tuple[str, str]], chosen: str) -> str:
    """The options of a select: (label, value)."""
    return "".join(f'<option value="{html.escape(value)}"{" selected" if value == chosen else ""}>{html.escape(label)}</option>'
                   for label, value in choices)


def rename_html(kind: str, id: str, name: str, title: str, ids: tuple[str, str]) -> str:
    """A button that opens a form for a new name. `ids`: of the button and of the field."""
    opener, field = ids
    return (f'<details class="rename" data-key="{html.escape(kind + id)}"><summary id="{opener}">{title}</summary>'
            f'<form data-do="rename" data-id="{html.escape(id)}"><label id="{field}"><input name="name" maxlength="80" '
            f'aria-label="New name" value="{html.escape(name)}"></label><button id="{field}-save" class="primary">Save</button>'
            f'</form></details>')


def category(name: str) -> str:
    """A category as the table shows it."""
    return name.replace("_", " ")


def reasons(rejected: Mapping[str, int]) -> str:
    """Counts by reason, most frequent first; "" for none. Escaped."""
    found = sorted(rejected.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {labels.rejection(reason)}" for reason, count in found if count)


def _head(sets: Sequence[LineSet], chosen: LineSet) -> str:
    named = words.dedupe_labels([(label(one), one.id) for one in sets])
    id = html.escape(chosen.id)
    return (f'<div class="live-fields"><label>Lines<select id="prune-sets" data-look="set">{options_html(named, chosen.id)}'
            f'</select></label></div><div class="live-buttons">'
            f'{rename_html("set", chosen.id, chosen.name, "Rename set", ("prune-rename-set", "prune-set-title"))}'
            f'<button id="prune-delete-set" data-do="delete" data-id="{id}">Delete set</button></div>')


def _search(lines: Sequence[CalibrationLine], wanted: Filter) -> str:
    return ('<div class="live-fields"><label>Search<input id="prune-search" data-look="search" maxlength="200" '
            f'placeholder="Any word" value="{html.escape(wanted.search)}"></label>'
            f'<label>About<select id="prune-category" data-look="about">{options_html(categories(lines), wanted.category)}'
            '</select></label></div>')


def _buttons(chosen: LineSet, most: int, has_more: bool) -> str:
    more = (f'<button id="prune-more-lines" class="large" data-look="lines" value="{most + PAGE}">Show more</button>'
            if has_more else "")
    return (f'<div class="live-buttons"><button id="prune-delete-lines" class="large" data-do="delete-lines" '
            f'data-id="{html.escape(chosen.id)}">Delete ticked lines</button>{more}</div>')


def table_html(chosen: LineSet, shown: Sequence[CalibrationLine]) -> str:
    """The lines as an ARIA grid (assets/prune.js has its keys); question and answer can be edited in place, lines be ticked."""
    head = '<th role="columnheader" class="tick" tabindex="-1"><span class="visually-hidden">Tick</span></th>' + "".join(
        f'<th role="columnheader" class="{name}"><button data-look="sort" value="{name}" tabindex="-1">{title}</button></th>'
        for name, (title, _) in COLUMNS.items())
    return (f'<div id="prune-table" data-id="{html.escape(chosen.id)}"><table role="grid" aria-label="Lines">'
            f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
            f'<tbody role="rowgroup">{"".join(_row(chosen, line) for line in shown)}</tbody></table></div>{_KEYS}')


def _row(chosen: LineSet, line: CalibrationLine) -> str:
    cells = "".join(f'<td role="gridcell" class="{name}" tabindex="-1">{_cell(name, title, html.escape(str(read(line))))}</td>'
                    for name, (title, read) in COLUMNS.items())
    return (f'<tr role="row" data-key="{html.escape(chosen.id)}-{line.position}" data-position="{line.position}">'
            f'<td role="gridcell" class="tick"><input type="checkbox" data-tick="{line.position}" tabindex="-1" '
            f'aria-label="Tick line {line.position}"></td>{cells}</tr>')


def _cell(name: str, title: str, text: str) -> str:
    if name not in EDITABLE:
        return text
    return (f'<div contenteditable="plaintext-only" data-field="{name}" tabindex="-1" role="textbox" aria-multiline="true" '
            f'aria-label="{title}">{text}</div>')


def categories(lines: Sequence[CalibrationLine]) -> list[tuple[str, str]]:
    """(label with its count, category), most frequent first."""
    counts = sorted(Counter(line.category for line in lines).items(), key=lambda one: (-one[1], one[0]))
    return [(f"All · {len(lines):,}", ""), *((f"{category(name)} · {count:,}", name) for name, count in counts)]


def summary_html(found: LineSet, lines: Sequence[CalibrationLine], shown: int, matches: int, version: int) -> str:
    """How many lines of each kind there are, what was left out, and whether a run may learn from them."""
    sides = Counter(split_of(line.question) for line in lines)
    held_out = sides["validation"] + sides["test"]
    state = '<i class="pill done">ready</i>' if found.state == "approved" else '<i class="pill">to be read</i>'
    parts = [f"<b>{len(lines):,} {'line' if len(lines) == 1 else 'lines'}</b> {state}",
             f"{sides['train']:,} to learn from, {held_out:,} held out ({sides['validation']:,} to choose the best version, "
             f"{sides['test']:,} to report how good it is)"]
    broken = sum(not line.complete for line in lines)
    if broken:
        parts.append(f"{broken:,} {'answer was' if broken == 1 else 'answers were'} too long and cut at a sentence")
    if rejected := reasons(found.rejected):
        parts.append(f"Answers that were thrown away: {rejected}" if found.run else f"Left out of the file: {rejected}")
    if version != found.version:
        parts.append(f"Made for version {found.version} of the card, which is now at version {version}")
    if shown < matches:
        parts.append(f"The first {shown:,} of {matches:,} are shown")
    elif matches < len(lines):
        parts.append(f"{matches:,} match your search")
    return f'<ul class="prune-summary" id="prune-summary"><li>{"</li><li>".join(parts)}</li></ul>'


def label(found: LineSet) -> str:
    """A set in the list."""
    return " · ".join([found.name or "Lines", words.moment(found.made), *([] if found.state == "approved" else ["to be read"])])

"""The lines of a set as a table: which of them are shown, and what a writer changed in it.

Text of lines is untrusted: it reaches the page as plain text of a table, never as HTML or Markdown.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.base.questions import split_of
from studio.store.lines import CalibrationLine, LineSet
from studio.tabs.prune import words

HEADERS = ["✓", "No.", "Question", "Answer", "About", "From", "Used"]
TYPES: list[Literal["bool", "number", "str"]] = ["bool", "number", "str", "str", "str", "str", "str"]
WIDTHS: list[str | int] = ["44px", "52px", "220px", "320px", "92px", "104px", "92px"]
FIXED = [1, 4, 5, 6]  # columns that cannot be edited
PAGE = 200  # lines shown at first, and more by each press
ALL = ""


@dataclass(frozen=True)
class Filter:
    """Which lines of a set are shown: those with `search` in question or answer, of `category`, the first `most`."""

    search: str = ""
    category: str = ALL
    most: int = PAGE


@dataclass(frozen=True)
class Edit:
    """A line's new texts; None where it stays."""

    position: int
    question: str | None
    answer: str | None


def matching(lines: Sequence[CalibrationLine], wanted: Filter) -> list[CalibrationLine]:
    """The lines that fit, all of them."""
    needle = wanted.search.strip().casefold()
    return [line for line in lines if (not wanted.category or line.category == wanted.category)
            and (needle in line.question.casefold() or needle in line.answer.casefold())]


def rows(lines: Sequence[CalibrationLine]) -> list[list[Any]]:
    """The table's rows. The number is the line's position in its set, by which edits find it."""
    return [[False, line.position, line.question, line.answer, words.category(line.category), words.source(line.source),
             words.split(split_of(line.question))] for line in lines]


def edits(lines: Sequence[CalibrationLine], table: Sequence[Sequence[Any]]) -> list[Edit]:
    """What differs between the library's lines and the table, which a page may have sorted."""
    known = {line.position: line for line in lines}
    found = []
    for row in table:
        line = known.get(position_of(row))
        if line:
            question, answer = (str(row[place] if row[place] is not None else "") for place in (2, 3))
            if (question, answer) != (line.question, line.answer):
                found.append(Edit(line.position, question if question != line.question else None,
                                  answer if answer != line.answer else None))
    return found


def ticked(table: Sequence[Sequence[Any]]) -> list[int]:
    """Positions of the lines with a tick."""
    return [position_of(row) for row in table if row and row[0] in (True, "true", "True") and position_of(row) > 0]


def position_of(row: Sequence[Any]) -> int:
    """The number of a row; 0 for a row that someone added."""
    try:
        return int(row[1])
    except (TypeError, ValueError, IndexError):
        return 0


def categories(lines: Sequence[CalibrationLine]) -> list[tuple[str, str]]:
    """(label with its count, category), most frequent first."""
    counts = sorted(Counter(line.category for line in lines).items(), key=lambda one: (-one[1], one[0]))
    return [(f"All · {len(lines):,}", ALL), *((f"{words.category(name)} · {count:,}", name) for name, count in counts)]


def summary_html(found: LineSet, lines: Sequence[CalibrationLine], shown: int, matches: int, version: int) -> str:
    """How many lines of each kind there are, what was left out, and whether the set is approved; escaped."""
    sides = Counter(split_of(line.question) for line in lines)
    held_out = sides["validation"] + sides["test"]
    approved = found.state == "approved"
    state = '<i class="pill done">approved</i>' if approved else '<i class="pill">to be read</i>'
    parts = [f"<b>{len(lines):,} {'line' if len(lines) == 1 else 'lines'}</b> {state}",
             f"{sides['train']:,} to learn from, {held_out:,} held out ({sides['validation']:,} to choose the best mask, "
             f"{sides['test']:,} to report how good it is)"]
    broken = sum(not line.complete for line in lines)
    if broken:
        parts.append(f"{broken:,} {'answer was' if broken == 1 else 'answers were'} too long and cut at a sentence")
    if rejected := words.reasons(found.rejected):
        parts.append(f"Answers that were thrown away: {rejected}" if found.run else f"Left out of the file: {rejected}")
    if version != found.version:
        parts.append(f"Made for version {found.version} of the card, which is now at version {version}")
    if shown < matches:
        parts.append(f"The first {shown:,} of {matches:,} are shown")
    elif matches < len(lines):
        parts.append(f"{matches:,} match your search")
    return f'<ul class="prune-summary"><li>{"</li><li>".join(parts)}</li></ul>'


def label(found: LineSet) -> str:
    """A set in the list."""
    return " · ".join(filter(None, (found.name or "Lines", words.moment(found.made),
                                    "approved" if found.state == "approved" else "to be read")))

"""Rows to tables: every method's means with intervals, and what of the baselines' loss ours takes away.

Intervals are drawn over characters and, within each, over its held-out lines of
all seeds (intervals.py). Where the readings line by line are not in
the work folder, a cell counts as one line, and the table says so. Works from
rows and files alone; no model is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals import Interval, Numbers, bootstrap_mean, bootstrap_reduction
from benchmarks.measures import MEASURES, line_file
from benchmarks.methods import DENSE, LADDER, OURS, PAPER, RECOVERED, Kind, of_kind
from benchmarks.plan import Plan
from engine.base.files import read_json
from engine.running import print_table

Row = dict[str, Any]
# Drop reductions that we want at a sparsity: of the default, and with recovery, against a kind of baseline.
WANTED = {0.25: {"paper": (0.5, None), "published": (0.6, 0.75), "reconstructed": (0.25, 0.5)},
          0.5: {"paper": (0.5, None), "published": (0.5, 0.7), "reconstructed": (0.2, 0.5)}}
KINDS = {"paper": ("the paper's", (PAPER,)), "published": ("best one-shot as published", of_kind(Kind.PUBLISHED)),
         "reconstructed": ("best one-shot with least squares", of_kind(Kind.RECONSTRUCTED))}
SEED = 0  # of the bootstrap


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and the cells as text."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def show(self, markdown: bool) -> None:
        """Print it for a terminal, or as Markdown."""
        if not markdown:
            print_table(self.title, self.columns, self.rows)
            return
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        print("\n".join([f"{self.title}\n", *(f"| {' | '.join(line)} |" for line in lines), ""]))


def print_tables(plan: Plan, rows: Sequence[Row], markdown: bool) -> None:
    """Two tables and the side conditions for each sparsity of the plan that has rows of its model."""
    own = [row for row in rows if row["model"] == plan.model]
    for sparsity in plan.sparsities:
        some = [row for row in own if row["sparsity"] == sparsity]
        if some:
            methods_table(plan, some).show(markdown)
            reductions_table(plan, some).show(markdown)
            print("\n".join([*side_conditions(some), ""]))


def key_of(row: Row) -> tuple[str, int]:
    """The cell of a row among those of one model and sparsity."""
    return row["character"], row["seed"]


def groups(plan: Plan, *methods: Sequence[Row]) -> tuple[list[list[Numbers]], bool]:
    """For each method an array (lines, 2) a character, of KL in nats and answer tokens; and whether they are read by line.

    `methods`: rows of one model and sparsity, the same cells for all. Characters come in one order, a character's
    seeds one after the other.
    """
    files = [{key_of(row): line_file_of(plan, row) for row in rows} for rows in methods]
    by_line = all(file is not None for one in files for file in one.values())
    found = []
    for rows, own in zip(methods, files, strict=True):
        parts: dict[str, list[Numbers]] = {}
        for row in sorted(rows, key=key_of):
            file = own[key_of(row)]
            if by_line and file is not None:
                reading = read_json(file)
                values = np.array([reading["kl"], reading["tokens"]], dtype=np.float64).T
                values = values[values[:, 1] > 0]
            else:
                values = np.array([[row["kl"], 1.0]])
            parts.setdefault(row["character"], []).append(values)
        found.append([np.concatenate(part) for part in parts.values()])
    return found, by_line


def line_file_of(plan: Plan, row: Row) -> Path | None:
    """The readings line by line that belong to a row, where the work folder has them and they are the row's."""
    if row["character"] not in plan.characters:
        return None
    file = line_file(plan.cell_folder(row["character"], row["seed"], row["sparsity"]), row["method"])
    if not file.exists():
        return None
    reading = read_json(file)
    return file if abs(sum(reading["kl"]) / sum(reading["tokens"]) - row["kl"]) <= 1e-6 * (1 + row["kl"]) else None


def methods_table(plan: Plan, rows: Sequence[Row]) -> Table:
    """Every method's means over the cells that it was measured in; rows of one model and sparsity."""
    lines, whole = [], True
    further = {name: one for name, one in MEASURES.items() if name != "kl"}
    for method in LADDER:
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        (values,), by_line = groups(plan, own)
        whole = whole and by_line
        cells = [_mean(own, name, one.form) for name, one in further.items()]
        lines.append([method, span(bootstrap_mean(values, SEED)), *cells, _mean(own, "tokens", ",.0f"),
                      _mean(own, "seconds", ",.0f"), str(len(own))])
    title = f"{rows[0]['model']}, sparsity {rows[0]['sparsity']:.0%}, {rows[0]['preset']}: {basis(rows, whole)}"
    return Table(title, ["method", MEASURES["kl"].column, *(one.column for one in further.values()), "tokens", "seconds", "cells"],
                 lines)


def _mean(rows: Sequence[Row], name: str, form: str) -> str:
    """A measure's mean over the rows that have it."""
    found = [row[name] for row in rows if row.get(name) is not None]
    return format(sum(found) / len(found), form) if found else "–"


def basis(rows: Sequence[Row], by_line: bool) -> str:
    """What the figures rest on, in words."""
    held = {key_of(row): row["lines"] for row in rows}
    characters, seeds = ({key[place] for key in held} for place in (0, 1))
    count = lambda number, noun: f"{number:,} {noun}{'' if number == 1 else 's'}"
    without = f"characters {'and seeds' if len(seeds) > 1 else 'alone'} (no readings by line in the work folder)"
    drawn = "characters and lines" if by_line else without
    formats = " and ".join(sorted({row["dtype"] or "an unknown number format" for row in rows}))
    return (f"in {formats}, means over {count(len(characters), 'character')}, {count(len(seeds), 'seed')}, "
            f"{count(sum(held.values()), 'held-out line')}; 95 % intervals over {drawn}")


def span(interval: Interval) -> str:
    """A mean and its interval."""
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def reductions_table(plan: Plan, rows: Sequence[Row]) -> Table:
    """Drop reduction of ours against the paper's and the best baselines, beside what is wanted."""
    lines = []
    for kind, (title, names) in KINDS.items():
        for place, ours in enumerate((OURS, RECOVERED)):
            found = reduction(plan, rows, ours, names)
            if found is None:
                continue
            baseline, interval, cells = found
            wanted = WANTED.get(rows[0]["sparsity"], {}).get(kind, (None, None))[place]
            lines.append([ours, f"{title}: {baseline}", f"{interval.mean:.1%} [{interval.low:.1%}, {interval.high:.1%}]",
                          "" if wanted is None else f"{wanted:.0%}",
                          "" if wanted is None else "reached" if interval.mean >= wanted else "not reached", str(cells)])
    return Table("Drop reduction, 1 - KL / KL of the baseline, on the cells that both were measured in",
                 ["ours", "against", "drop reduction", "wanted", "", "cells"], lines)


def reduction(plan: Plan, rows: Sequence[Row], ours: str, baselines: Sequence[str]) -> tuple[str, Interval, int] | None:
    """The baseline with the lowest mean KL on the cells of `ours`, the drop reduction against it, and the number of cells.

    A baseline that lacks some of these cells takes part only where none has them all. None: nothing to compare.
    """
    by_cell = {method: {key_of(row): row for row in rows if row["method"] == method} for method in (ours, *baselines)}
    common = {name: sorted(by_cell[ours].keys() & by_cell[name].keys()) for name in baselines}
    most = max(map(len, common.values()), default=0)
    if not most:
        return None
    mean = lambda name: sum(by_cell[name][key]["kl"] for key in common[name]) / most
    best = min((name for name in baselines if len(common[name]) == most), key=mean)
    both, _ = groups(plan, *([by_cell[name][key] for key in common[best]] for name in (ours, best)))
    return best, bootstrap_reduction(both[0], both[1], SEED), most


def side_conditions(rows: Sequence[Row]) -> list[str]:
    """Sentences on what ours must not lose: identification beside the dense model's, neutral perplexity beside a baseline's."""
    said = []
    for ours in (OURS, RECOVERED):
        cells = {key_of(row) for row in rows if row["method"] == ours}
        own = [row for row in rows if key_of(row) in cells]
        mean = lambda name, method, own=own: np.mean([row[name] for row in own if row["method"] == method])
        # A method that lacks one of these cells would be averaged over easier or harder ones.
        there = {name for name in LADDER if cells and {key_of(row) for row in own if row["method"] == name} == cells}
        if ours not in there:
            continue
        has = lambda name, method, own=own: all(row.get(name) is not None for row in own if row["method"] == method)
        if DENSE in there and has("identification", ours) and has("identification", DENSE):
            said.append(f"{ours}: identified {mean('identification', ours):.1%}, dense {mean('identification', DENSE):.1%} "
                        "(with recovery wanted within 3 points of it).")
        if baselines := [name for name in (*of_kind(Kind.PUBLISHED), *of_kind(Kind.RECONSTRUCTED)) if name in there]:
            best = min(baselines, key=lambda name: mean("kl", name))
            if not has("neutral_ppl", ours) or not has("neutral_ppl", best):
                continue
            said.append(f"{ours}: neutral perplexity {mean('neutral_ppl', ours):,.1f}, the best baseline by KL ({best}) "
                        f"{mean('neutral_ppl', best):,.1f} (wanted no worse than that).")
    return said

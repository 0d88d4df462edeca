"""python -m benchmarks fidelity: every method of the ladder on the same held-out lines, cell by cell.

A row is written as soon as it is measured; rows that are there are not measured
again, so the same command goes on where it was stopped, and prints the tables
at once when all is done.
"""

import argparse
import gc
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import summary
from benchmarks.cells import Cell, Dense, Subject, load
from benchmarks.curves import print_curves
from benchmarks.measures import MEASURES, read
from benchmarks.methods import LADDER, RECOVERED, choose
from benchmarks.methods.whole_recipe import tidy
from benchmarks.plan import Plan, make_plan
from engine.base.errors import UserError
from engine.base.events import Event, Stage
from engine.base.files import explain_write_errors, read_json, write_json
from engine.base.ids import StageId
from engine.base.job import Process
from engine.running import Run
from engine.stages.context import SHORT

IDENTITY = ("model", "character", "sparsity", "seed", "method")
NEEDED = {*IDENTITY, "kl", "lines"}  # without them a row says nothing
KEYS = (*IDENTITY, *MEASURES, "lines", "tokens", "seconds", "preset", "dtype")
AGAIN = "Every row that was measured is kept. Give the same command again to go on."


def run(options: argparse.Namespace) -> int:
    """Measure what is missing, then print the tables."""
    plan, methods, again = make_plan(options), choose(options.methods), set(options.again)
    choose(options.again)
    if set(options.again) - set(methods):
        raise UserError(f"--again names {min(set(options.again) - set(methods))}, which --methods leaves out.",
                        "Name it in both, or its row would be forgotten and not measured.")
    results = Results(Path(options.json) if options.json else plan.workdir / "fidelity.json", plan.label)
    if not options.table:
        follow(measure(plan, methods, results, again))
    if not results.rows:
        raise UserError(f"There are no rows in {results.path} yet.", "Run the same command without --table.")
    summary.print_tables(plan, results.rows, options.markdown)
    curves = print_curves(plan, Path(options.curves) if options.curves else None)
    if options.figures:
        from benchmarks.figures import write_figures  # plotly takes a second to import

        own = [row for row in results.rows if row["model"] == plan.model and row["sparsity"] in plan.sparsities]
        print(f"Figures: {', '.join(map(str, write_figures(Path(options.figures), own, curves)))}")
    return 0


def follow(events: Generator[Event, None, None]) -> None:
    """Show a benchmark's events; Ctrl-C stops it after the step under way."""
    run = Run(Process())
    run.follow(_without_reused(events), lambda: False, "Stopped.", AGAIN)


def _without_reused(events: Generator[Event, None, None]) -> Iterator[Event]:
    """The events without the stages that were done already, of which every method has some."""
    try:
        yield from (event for event in events if not (isinstance(event, Stage) and event.reused))
    finally:
        events.close()


class Results:
    """The rows of a benchmark in a JSON file, written whole with each new row. Raises UserError for rows of another preset.

    A row keeps keys that are unknown here; a measure that it lacks is None.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path, self.label = path, label
        self.rows: list[dict[str, Any]] = self._read()

    def _read(self) -> list[dict[str, Any]]:
        rows = read_json(self.path) if self.path.exists() else []
        if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= NEEDED for row in rows):
            raise UserError(f"{self.path} is no list of rows of this benchmark.", "Name another --json.")
        rows = [{**dict.fromkeys(KEYS), **row} for row in rows]
        other = next((row["preset"] for row in rows if row["preset"] not in (None, self.label)), None)
        if other is not None:
            raise UserError(f"{self.path} holds rows of another preset ({other}); this run measures {self.label}.",
                            "Name another --json, or give that preset and its steps.")
        return rows

    def has(self, key: Sequence[Any]) -> bool:
        """Whether the row with these values of IDENTITY is there."""
        return any([row[name] for name in IDENTITY] == list(key) for row in self.rows)

    def keep_to(self, dtype: str, cell: Sequence[Any]) -> None:
        """Raises UserError where rows of a cell (model, character, sparsity, seed) were measured in another number format.

        The dense model answers otherwise in each: such rows have other lines, and cannot be compared.
        """
        other = next((row["dtype"] for row in self.rows if [row[name] for name in IDENTITY[:4]] == list(cell)
                      and row["dtype"] not in (None, dtype)), None)
        if other is not None:
            raise UserError(f"{self.path} holds rows of {cell[1]} in {other}; this run measures in {dtype}, on other lines.",
                            f"Give --dtype {other}, or name another --json.")

    def add(self, key: Sequence[Any], reading: dict[str, Any]) -> None:
        """Write a row; what another process wrote meanwhile stays."""
        self.rows = [row for row in self._read() if [row[name] for name in IDENTITY] != list(key)]
        row = {**dict(zip(IDENTITY, key, strict=True)), **reading, "preset": self.label}
        self._write([*self.rows, row])

    def forget(self, keys: Sequence[Sequence[Any]]) -> None:
        """Remove rows."""
        gone = [list(key) for key in keys]
        self._write([row for row in self._read() if [row[name] for name in IDENTITY] not in gone])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with explain_write_errors(self.path, "give the same command again"):
            write_json(self.path, rows)
        self.rows = rows


def measure(plan: Plan, methods: Sequence[str], results: Results, again: set[str] | None = None) -> Generator[Event, None, None]:
    """Measure all methods that have no row yet in all cells. Lines and masks that are in the work folder are used."""
    key = lambda name, seed, sparsity, method: (plan.model, name, sparsity, seed, method)
    dense: Dense | None = None
    if again:
        dense = yield from _load(plan)  # first, so that nothing is forgotten that cannot be measured again
        _check_format(plan, dense, results)
        results.forget([key(name, seed, sparsity, method) for name in plan.characters for seed in range(plan.seeds)
                        for sparsity in plan.sparsities for method in again])
    for name in plan.characters:
        for seed in range(plan.seeds):
            missing = {sparsity: [method for method in methods if not results.has(key(name, seed, sparsity, method))]
                       for sparsity in plan.sparsities}
            if not any(missing.values()):
                continue
            if dense is None:
                dense = yield from _load(plan)
                _check_format(plan, dense, results)
            subject = Subject(plan, name, seed, dense)
            yield from subject.prepare()
            for sparsity, left in missing.items():
                cell = Cell(subject, sparsity)
                for method in left:
                    reading = yield from _measure(cell, method)
                    results.add(key(name, seed, sparsity, method), {**reading, "dtype": SHORT[str(dense.ctx.dtype)]})
                tidy(cell, recovered=results.has(key(name, seed, sparsity, RECOVERED)))


def _load(plan: Plan) -> Generator[Event, None, Dense]:
    with explain_write_errors(plan.workdir, "give the same command again"):
        return (yield from load(plan))


def _check_format(plan: Plan, dense: Dense, results: Results) -> None:
    for name in plan.characters:
        for seed in range(plan.seeds):
            for sparsity in plan.sparsities:
                results.keep_to(SHORT[str(dense.ctx.dtype)], (plan.model, name, sparsity, seed))


def _measure(cell: Cell, method: str) -> Generator[Event, None, dict[str, Any]]:
    yield Stage(StageId.BENCHMARK, subject=f"{cell.subject.name}, seed {cell.subject.seed}, {cell.sparsity:.0%}: {method}")
    pruned = yield from LADDER[method].prune(cell)
    reading = yield from read(cell, method, pruned)
    if pruned.model is not None:  # a whole copy, in a circle of references: gone before the next method needs the memory
        del pruned
        gc.collect()
    return reading

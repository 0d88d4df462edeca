"""python -m benchmarks swap: is a mask its character's own?

Each character's test lines are served by every character's default mask, plain,
without reconstruction, and the share of channels that two masks have in common is shown
beside what chance gives (k / d_ff) and what another seed of the same character
gives. Works on the masks that `python -m benchmarks fidelity` left in its work folder, and
learns none.
"""

import argparse
from collections.abc import Generator, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from benchmarks.cells import Cell, Dense, Subject, load
from benchmarks.fidelity import follow
from benchmarks.meter import watched
from benchmarks.methods import OURS
from benchmarks.methods.learned import recipe_of
from benchmarks.methods.whole_recipe import CHOSEN, folder_of
from benchmarks.plan import Plan, make_plan
from benchmarks.summary import Table
from engine.base.errors import UserError
from engine.base.events import Event, Stage
from engine.base.files import read_json, write_json
from engine.base.ids import ReadingId, StageId
from engine.evaluation.fidelity import measure
from engine.models.ffn import masked
from engine.stages.mask import measured

Masks = dict[tuple[str, int], Tensor]  # (L, d_ff) of a character and a seed


def run(options: argparse.Namespace) -> int:
    """Measure what is missing, print the tables, keep the figures."""
    plan = make_plan(options)
    file = Path(options.json) if options.json else plan.workdir / "swap.json"
    found = {sparsity: find_masks(plan, sparsity) for sparsity in plan.sparsities}
    if all(len({name for name, _ in masks}) < 2 for masks in found.values()):
        raise UserError(f"There are no default masks of two characters in {plan.workdir}.",
                        "Run python -m benchmarks fidelity with the same options first.")
    follow(measure_swaps(plan, found, file))
    known = read_json(file)
    for sparsity, masks in found.items():
        for table in tables(plan, sparsity, masks, known):
            table.show(options.markdown)
    return 0


def find_masks(plan: Plan, sparsity: float) -> Masks:
    """The default masks in the work folder."""
    masks = {}
    for name in plan.characters:
        for seed in range(plan.seeds):
            recipe = recipe_of(plan.recipe(sparsity, seed), OURS)
            file = folder_of(plan.cell_folder(name, seed, sparsity), recipe) / CHOSEN
            if file.exists():
                masks[name, seed] = load_file(file)["mask"].float()
    return masks


def in_common(first: Tensor, second: Tensor) -> float:
    """The share of the first mask's kept channels (L, d_ff) that the second keeps as well, 0 to 1."""
    return float((first * second).sum() / first.sum())


def measure_swaps(plan: Plan, found: dict[float, Masks], file: Path) -> Generator[Event, None, None]:
    """KL of every character's test lines under every character's mask of the same seed, each written when it is read."""
    rows = read_json(file) if file.exists() else []
    known = {(row["preset"], row["model"], row["sparsity"], row["seed"], row["character"], row["served_by"]) for row in rows}
    dense: Dense | None = None
    for seed in range(plan.seeds):
        for name in plan.characters:
            left = [(sparsity, other) for sparsity, masks in found.items() for other, own in masks
                    if own == seed and (name, seed) in masks
                    and (plan.label, plan.model, sparsity, seed, name, other) not in known]
            if not left:
                continue
            dense = dense or (yield from load(plan))
            subject = Subject(plan, name, seed, dense)
            yield from subject.prepare()
            yield Stage(StageId.BENCHMARK, subject=f"{name}, seed {seed}: served by {len(left)} masks")
            for sparsity, other in left:
                reading = yield from _serve(Cell(subject, sparsity), found[sparsity][other, seed])
                yield measured(ReadingId.BENCHMARK, "test", reading, subject=f"{name} served by {other}, {sparsity:.0%}")
                rows.append({"model": plan.model, "preset": plan.label, "sparsity": sparsity, "seed": seed, "character": name,
                             "served_by": other, "kl": reading.kl, "lines": reading.lines})
                write_json(file, rows)


def _serve(cell: Cell, mask: Tensor) -> Generator[Event, None, Any]:
    def read() -> Any:
        with masked(cell.model, mask):
            return measure(cell.model, cell.subject.test, cell.subject.states)

    return (yield from watched("measure", sum(row.size for row in cell.subject.test), cell.counter, read))


def tables(plan: Plan, sparsity: float, masks: Masks, rows: Sequence[dict[str, Any]]) -> list[Table]:
    """KL under one's own mask and under others', and overlaps, at a sparsity."""
    own = [row for row in rows if (row["preset"], row["model"], row["sparsity"]) == (plan.label, plan.model, sparsity)]
    served = []
    for name in plan.characters:
        mine = [row["kl"] for row in own if row["character"] == row["served_by"] == name]
        others = [row["kl"] for row in own if row["character"] == name != row["served_by"]]
        if mine and others:
            served.append([name, f"{mean(mine):.3f}", f"{mean(others):.3f}", f"{min(others):.3f} to {max(others):.3f}",
                           f"{mean(others) / mean(mine):.2f}", str(len(mine) + len(others))])
    return [Table(f"{plan.model}, {sparsity:.0%}: KL of a character's test lines by whose mask serves them, nats a token",
                  ["character", "its own", "others', mean", "range", "times", "readings"], served),
            Table(f"{plan.model}, {sparsity:.0%}: share of kept channels that two masks have in common",
                  ["masks of", "mean", "range", "pairs"], overlaps(masks))]


def overlaps(masks: Masks) -> list[list[str]]:
    """Mean and range of `in_common` between characters (same seed), between seeds (same character), and by chance."""
    kinds: dict[str, list[float]] = {"two characters, same seed": [], "two seeds, same character": []}
    for (first, seed), (second, other) in combinations(masks, 2):
        if (first == second) != (seed == other):
            kinds[list(kinds)[first == second]].append(in_common(masks[first, seed], masks[second, other]))
    lines = [[kind, f"{mean(values):.1%}", f"{min(values):.1%} to {max(values):.1%}", str(len(values))]
             for kind, values in kinds.items() if values]
    chance = [float(mask.mean()) for mask in masks.values()]
    return [*lines, ["chance (k / d_ff)", f"{mean(chance):.1%}", "", ""]] if chance else lines

"""Validation KL against tokens spent: how much sooner ours is where the paper's learning ends.

The paper's tokens are those of its learning steps. Ours are all that the recipe has read until then: its curve begins
with Wanda's mask after the dense pass, and goes on over the refit of the start and the learning to the tuned layers.
Works from the files in the work folder.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import mask_folder
from benchmarks.methods import OURS, PAPER
from benchmarks.methods.learned import recipe_of
from benchmarks.methods.whole_recipe import CURVE, folder_of
from benchmarks.plan import Plan
from engine.base.files import read_json, write_json

Points = list[dict[str, Any]]


def print_curves(plan: Plan, file: Path | None) -> list[dict[str, Any]]:
    """Say for each sparsity in which share of the tokens ours reaches the paper's best KL; write all points to `file`.

    Returns these points: for each way that was gone model, character, sparsity, seed, method and points.
    """
    kept: list[dict[str, Any]] = []
    for sparsity in plan.sparsities:
        pairs = []
        for name in plan.characters:
            for seed in range(plan.seeds):
                both = {method: points(plan, name, seed, sparsity, method) for method in (PAPER, OURS)}
                kept += [{"model": plan.model, "character": name, "sparsity": sparsity, "seed": seed, "method": method,
                          "points": found} for method, found in both.items() if found]
                if all(both.values()):
                    pairs.append((both[PAPER], both[OURS]))
        if pairs:
            print(f"{sparsity:.0%}: {sentence(pairs)}")
    if file:
        write_json(file, kept)
    return kept


def points(plan: Plan, name: str, seed: int, sparsity: float, method: str) -> Points:
    """Stage, tokens and validation KL at each reading on the way of PAPER or OURS, in order; empty where it was not gone."""
    cell, recipe = plan.cell_folder(name, seed, sparsity), recipe_of(plan.recipe(sparsity, seed), method)
    if method == OURS:
        curve = folder_of(cell, recipe) / CURVE
        return read_json(curve) if curve.exists() else []
    curve = mask_folder(cell, recipe) / "learning.json"
    return [{"stage": "learning", "tokens": point["tokens"], "validation_kl": point["validation_kl"]}
            for point in read_json(curve) if "validation_kl" in point] if curve.exists() else []


def speedup(paper: Points, ours: Points) -> float | None:
    """How many times fewer tokens ours needs to be where the paper's best reading is; None where it never is."""
    end = min(paper[1:] or paper, key=lambda point: point["validation_kl"])  # the first costs nothing
    reached = next((point["tokens"] for point in ours if point["validation_kl"] <= end["validation_kl"]), None)
    return None if reached is None else end["tokens"] / reached


def sentence(pairs: Sequence[tuple[Points, Points]]) -> str:
    """What pairs of the paper's points and ours say, a pair a cell."""
    found: list[Any] = [speedup(paper, ours) for paper, ours in pairs]
    reached = [one for one in found if one is not None]
    if not reached:
        return f"the default never reaches the paper's best KL (of {PAPER}) in {len(found)} cells (validation lines)."
    share = lambda ratio: f"1/{ratio:.1f} of" if ratio >= 1 else f"{1 / ratio:.1f} times"
    return (f"the default reaches the paper's best KL (of {PAPER}) in {share(statistics.median(reached))} the tokens (median of "
            f"{len(reached)} of {len(found)} cells, {min(reached):.1f} to {max(reached):.1f} times fewer; validation lines"
            f"{'' if len(reached) == len(found) else '; never in the others'}).")

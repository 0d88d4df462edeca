"""Masks that are learned: the paper's way, and the steps from it to ours."""

from typing import Any

from benchmarks.cells import Cell
from benchmarks.least_squares import with_least_squares
from benchmarks.methods import PAPER, Kind, Rung, method
from benchmarks.pruned import Pruned
from engine.base.job import Recipe

# The paper's: random start, cross entropy, full sparsity from the first step, no reconstruction. A random start has far to go:
# with our smaller learning rate it would hardly move, and with our few steps it would not arrive. In a run of 147 steps its
# validation lines read best at step 45 (readings.md), so it gets 60, and like every learned mask its best one counts.
LEARNED: dict[str, dict[str, Any]] = {
    PAPER: {"loss": "ce", "start": "random", "learning_rate": 0.05, "steps": 60, "step_lines": 16, "validate_every": 5},
    "ste-ce-wanda": {"loss": "ce", "start": "wanda", "learning_rate": 0.05},
    "ste-kl": {"loss": "kl", "start": "wanda", "learning_rate": 0.05}}


def recipe_of(recipe: Recipe, name: str) -> Recipe:
    """The recipe by which a learned method, or the default one, finds its mask, from the cell's own."""
    return recipe.changed(recover=False, **({**LEARNED[name], "ramp": 0.0} if name in LEARNED else {}))


@method(PAPER, "<b>The paper's learning</b>", Kind.LEARNED)
def paper(cell: Cell) -> Rung:
    """The paper's mask."""
    return (yield from _learn(cell, PAPER))


@method("ste-ce-wanda", "The paper's, from Wanda's ranks", Kind.LEARNED)
def from_wanda(cell: Cell) -> Rung:
    """The paper's loss from a better start."""
    return (yield from _learn(cell, "ste-ce-wanda"))


@method("ste-kl", "By KL, from Wanda's ranks", Kind.LEARNED)
def by_kl(cell: Cell) -> Rung:
    """Our loss and start, full sparsity from the first step."""
    return (yield from _learn(cell, "ste-kl"))


@method("ste-kl+ls", "By KL + least squares", Kind.LEARNED)
def by_kl_reconstructed(cell: Cell) -> Rung:
    """The same with plain least squares."""
    mask, spent = yield from cell.learn(recipe_of(cell.recipe, "ste-kl"))
    return (yield from with_least_squares(cell, mask, spent, False))


def _learn(cell: Cell, name: str) -> Rung:
    mask, spent = yield from cell.learn(recipe_of(cell.recipe, name))
    return Pruned(spent, mask)

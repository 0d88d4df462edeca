"""The ladder of methods, from noise to the whole recipe: a name and a function each, all on the same lines and the same k.

Names are the method's (docs and tables use them): what is published as it is,
then `+ls` with plain least squares, the paper's learning (`ste-ce`) and its
variants, and what `prune` exports. A method is a generator of events whose
value is a pruned model and its price.
"""

import dataclasses
from collections.abc import Callable, Generator
from typing import Any

from benchmarks import finishing, oneshot, propagated
from benchmarks.cells import Cell
from benchmarks.meter import Spent
from benchmarks.pruned import Pruned
from engine.base.errors import UserError
from engine.base.events import Event
from engine.base.recipe import Recipe

Rung = Generator[Event, None, Pruned]
DENSE, PAPER, OURS, RECOVERED = "dense", "ste-ce", "default", "default+recovery"
# With whether the dense pass is within the price already: least squares needs its validation part.
MASKS: dict[str, tuple[Callable[[Cell], oneshot.Found], bool]] = {
    "random": (oneshot.random, False), "magnitude": (oneshot.magnitude, False), "wanda": (oneshot.wanda, True),
    "flap": (oneshot.flap, False), "taylor": (oneshot.taylor, False), "iterative-taylor": (oneshot.iterative_taylor, False),
    "obs": (oneshot.surgeon, False)}
PUBLISHED = (*MASKS, "depth")
REPAIRED = tuple(f"{name}+ls" for name in MASKS)
# The paper's: random start, cross entropy, full sparsity from the first step, no repair. A random start has far to go: with our
# smaller learning rate it would hardly move, and with our few steps it would not arrive. In a run of 147 steps
# its validation lines read best at step 45 (readings.md), so it gets 60, and like every learned mask its best one counts.
LEARNED: dict[str, dict[str, Any]] = {
    PAPER: {"loss": "ce", "start": "random", "learning_rate": 0.05, "steps": 60, "step_lines": 16, "validate_every": 5},
    "ste-ce-wanda": {"loss": "ce", "start": "wanda", "learning_rate": 0.05},
    "ste-kl": {"loss": "kl", "start": "wanda", "learning_rate": 0.05}}


def _published(name: str) -> Callable[[Cell], Rung]:
    def climb(cell: Cell) -> Rung:
        mask, spent = yield from MASKS[name][0](cell)
        return Pruned(spent, mask)

    return climb


def _repaired(name: str) -> Callable[[Cell], Rung]:
    def climb(cell: Cell) -> Rung:
        find, has_dense = MASKS[name]
        mask, spent = yield from find(cell)
        return (yield from oneshot.with_least_squares(cell, mask, spent, not has_dense, name != "obs"))

    return climb


def _learned(name: str) -> Callable[[Cell], Rung]:
    def climb(cell: Cell) -> Rung:
        mask, spent = yield from cell.learn(recipe_of(cell.recipe, name))
        return Pruned(spent, mask)

    return climb


def _learned_and_repaired(cell: Cell) -> Rung:
    mask, spent = yield from cell.learn(recipe_of(cell.recipe, "ste-kl"))
    return (yield from oneshot.with_least_squares(cell, mask, spent, False))


def _dense(_cell: Cell) -> Rung:
    yield from ()
    return Pruned(Spent())


def recipe_of(recipe: Recipe, name: str) -> Recipe:
    """The recipe by which a learned method, or the default one, finds its mask, from the cell's own."""
    return dataclasses.replace(recipe, recover=False, **({**LEARNED[name], "ramp": 0.0} if name in LEARNED else {}))


LADDER: dict[str, Callable[[Cell], Rung]] = {
    DENSE: _dense,
    **{name: _published(name) for name in MASKS}, "depth": oneshot.blocks,
    **{name: _repaired(name.removesuffix("+ls")) for name in REPAIRED},
    "wanda+propagated": propagated.uniform, "wanda+widths+propagated": propagated.unlike,
    **{name: _learned(name) for name in LEARNED}, "ste-kl+ls": _learned_and_repaired,
    OURS: finishing.default, RECOVERED: finishing.recovered}


def choose(names: list[str] | None) -> list[str]:
    """Methods in the ladder's order. Raises UserError for one that is not on it."""
    unknown = [name for name in names or [] if name not in LADDER]
    if unknown:
        raise UserError(f"There is no method {unknown[0]!r}.", f"Choose among: {', '.join(LADDER)}.")
    return [name for name in LADDER if names is None or name in names]

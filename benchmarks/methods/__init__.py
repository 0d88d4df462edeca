"""The ladder of methods, from noise to the whole recipe, all on the same lines and with the same k.

Each module of this package registers its methods by `@method`, or `@one_shot` where they find a mask without learning, which
makes `name` and `name`+ls, the same mask with plain least squares. A method is a generator of events whose value is a pruned
model and its price. Adding a method means adding a file.
"""

import importlib
import pkgutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from benchmarks.cells import Cell
from benchmarks.least_squares import with_least_squares
from benchmarks.meter import Spent
from benchmarks.pruned import Pruned
from engine.base.errors import UserError
from engine.base.events import Event

Rung = Generator[Event, None, Pruned]
Found = Generator[Event, None, tuple[Tensor, Spent]]  # a mask (L, d_ff) and its price
DENSE, PAPER, OURS, RECOVERED = "dense", "ste-ce", "default", "default+recovery"


class Kind(StrEnum):
    """What a method is compared as. The ladder has this order."""

    DENSE = "dense"
    PUBLISHED = "one-shot as published"
    RECONSTRUCTED = "one-shot with least squares"
    FURTHER = "with propagated least squares"
    LEARNED = "learned"
    OURS = "the whole recipe"


@dataclass(frozen=True)
class Method:
    """How a cell is pruned; `label`: its name in pictures."""

    prune: Callable[[Cell], Rung]
    label: str
    kind: Kind


_registered: dict[str, Method] = {}


def method(name: str, label: str, kind: Kind) -> Callable[[Callable[[Cell], Rung]], Callable[[Cell], Rung]]:
    """Register a function that prunes a cell. `name` is in every row and never changes."""
    def register(prune: Callable[[Cell], Rung]) -> Callable[[Cell], Rung]:
        _registered[name] = Method(prune, label, kind)
        return prune

    return register


def one_shot(name: str, label: str, reads_dense: bool = False, reads_grams: bool = False) -> Callable[
        [Callable[[Cell], Found]], Callable[[Cell], Found]]:
    """Register a function that finds a mask, as `name` and as `name`+ls.

    reads_dense, reads_grams: whether its price holds the dense pass, and the Gram matrices of least squares, already.
    """
    def register(find: Callable[[Cell], Found]) -> Callable[[Cell], Found]:
        def published(cell: Cell) -> Rung:
            mask, spent = yield from find(cell)
            return Pruned(spent, mask)

        def reconstructed(cell: Cell) -> Rung:
            mask, spent = yield from find(cell)
            return (yield from with_least_squares(cell, mask, spent, not reads_dense, not reads_grams))

        method(name, label, Kind.PUBLISHED)(published)
        method(f"{name}+ls", f"{label} + least squares", Kind.RECONSTRUCTED)(reconstructed)
        return find

    return register


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
LADDER = dict(sorted(_registered.items(), key=lambda item: list(Kind).index(item[1].kind)))


def of_kind(kind: Kind) -> list[str]:
    """The names of the methods of a kind."""
    return [name for name, one in LADDER.items() if one.kind == kind]


def choose(names: list[str] | None) -> list[str]:
    """Methods in the ladder's order. Raises UserError for one that is not on it."""
    unknown = [name for name in names or [] if name not in LADDER]
    if unknown:
        raise UserError(f"There is no method {unknown[0]!r}.", f"Choose among: {', '.join(LADDER)}.")
    return [name for name in LADDER if names is None or name in names]

"""What to ship: the models of one character at their file types, which of them no other beats, and what a budget picks.

A point (events.Placed) is a GGUF file: its size, how far it is from the dense model under the whole prompt, and how fast it
speaks. Everything here is arithmetic on points, for the command line and the studio.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.base.errors import UserError
from engine.base.files import read_json
from engine.base.pruning_events import Placed

DENSE_MATRIX = "imatrix.gguf"  # in the work folder: the importance matrix for the dense model's files
RESULT = "frontier.json"  # in the work folder: {"points": [...]}, the fields of Placed


@dataclass(frozen=True)
class Axis:
    """What is paid for closeness. `value` of a point: None where it was not measured; `more`: more is better."""

    name: str
    short: str
    value: Callable[[Placed], float | None]
    more: bool = False


AXES = {"size": Axis("Size of the file, MB", "Size", lambda point: point.bytes / 1e6),
        "speed": Axis("Tokens a second", "Tokens a second", lambda point: point.tokens_per_second or None, more=True),
        "first": Axis("Seconds to the first token", "First token", lambda point: point.first_token_seconds or None)}


@dataclass(frozen=True)
class Budget:
    """What a game can pay; 0: no limit. size, memory: MB; speed: least tokens a second; first: seconds to the first token."""

    size: float = 0
    memory: float = 0
    speed: float = 0
    first: float = 0

    def holds(self, point: Placed) -> bool:
        """Whether a point is within every limit; a limit on what was not measured is not kept."""
        most = ((self.size, point.bytes / 1e6), (self.memory, point.memory / 1e6), (self.first, point.first_token_seconds))
        return (all(not limit or 0 < value <= limit for limit, value in most)
                and (not self.speed or point.tokens_per_second >= self.speed))


def front(points: Iterable[Placed], axis: Axis) -> list[Placed]:
    """The points that no other beats: none is as close to the dense model for as little or less. Along the axis."""
    known = [(value, point) for point in points if (value := axis.value(point)) is not None]
    ordered = sorted(known, key=lambda pair: (-pair[0] if axis.more else pair[0], pair[1].kl))
    kept: list[Placed] = []
    for _, point in ordered:
        if not kept or point.kl < kept[-1].kl:
            kept.append(point)
    return sorted(kept, key=lambda point: axis.value(point) or 0.0)


def pick(points: Sequence[Placed], budget: Budget) -> Placed:
    """The closest point within a budget; of equal ones the smallest. Raises UserError where none is."""
    fitting = [point for point in points if budget.holds(point)]
    if not fitting:
        raise UserError("No model of this character fits the budget.", _nearest(points, budget))
    return min(fitting, key=lambda point: (point.kl, point.bytes))


def _nearest(points: Sequence[Placed], budget: Budget) -> str:
    """What there is, for each limit."""
    if not points:
        return "Measure the models first."
    parts = []
    if budget.size:
        parts.append(f"the smallest file has {min(point.bytes for point in points) / 1e6:,.1f} MB")
    timed = [point for point in points if point.tokens_per_second]
    if timed and budget.memory:
        parts.append(f"the least memory is {min(point.memory for point in timed) / 1e6:,.0f} MB")
    if timed and budget.speed:
        parts.append(f"the fastest says {max(point.tokens_per_second for point in timed):.0f} tokens a second")
    if timed and budget.first:
        parts.append(f"the first token comes after {min(point.first_token_seconds for point in timed):.2f} s at the earliest")
    if not timed and (budget.memory or budget.speed or budget.first):
        parts.append("no speed was measured")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else "Raise the limits."


def verdict(points: Sequence[Placed]) -> list[str]:
    """Sentences on who wins at which size: where quantising the dense model alone is enough, they say so."""
    best = front(points, AXES["size"])
    if not best:
        return []
    said = []
    dense, cut = [point for point in best if not point.sparsity], [point for point in best if point.sparsity]
    if not any(point.sparsity for point in points):
        said.append("Only the dense model was measured.")
    elif not cut:
        said.append("Quantising the dense model wins here at every size: no pruned model is as close at its bytes.")
    elif not dense:
        said.append("Pruned models win here at every size.")
    else:
        largest = max(cut, key=lambda point: point.bytes)
        said.append(f"Up to {largest.bytes / 1e6:,.0f} MB a pruned model is the closest; above that, quantising the dense model is "
                    "enough." if all(point.bytes > largest.bytes for point in dense) else
                    f"Pruned and dense models share the line: {len(cut)} of its {len(best)} points are pruned.")
    for point in points:
        if point.exact:
            said.append(f"{point.name} at {point.type} is the file that the dense model came from, so nothing is lost in it; "
                        "the weights of another model would lose something there.")
    return said


def read_points(file: Path) -> list[Placed]:
    """The points of a result. Raises UserError for a file that holds none."""
    try:
        return [Placed(**point) for point in read_json(file)["points"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged.", "Delete it, and measure again.") from error

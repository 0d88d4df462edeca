"""How a finished run is called in a list of any room: its name, what was removed, and when it was done."""

import time
from collections.abc import Sequence

from studio.figures.words import percent, told_apart
from studio.store.runs import Run


def removed_by(run: Run) -> float:
    """How much a run was asked to remove of the channels, 0 to 1."""
    recipe = run.summary.get("recipe")
    asked = recipe.get("sparsity") if isinstance(recipe, dict) else None
    return float(asked or run.spec.get("sparsity") or 0.25)


def choices_of(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(label, id) of runs, newest first; no two labels are alike."""
    return told_apart([(label_of(run), run.id) for run in runs])


def label_of(run: Run) -> str:
    """The run's label. What was removed is not said twice: a run that nobody named is called by it."""
    removed = f"{percent(removed_by(run))} removed"
    day = time.strftime("%d %b, %H:%M", time.localtime(run.ended or run.made))
    return " · ".join(part for part in (run.name, "" if removed in run.name else removed, day) if part)

"""What a build must hold: a file that a pipeline keeps, and what of it a result does not keep."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.evidence import OUTCOMES, Evaluation
from engine.base.files import read_untrusted_json
from engine.base.ids import Outcome

LONGEST = 100_000  # bytes


@dataclass(frozen=True)
class Gate:
    """What is asked of a measure. `margin`: None for the measure's own; `unsure`: it may be undecided or not measured."""

    margin: float | None = None
    unsure: bool = False


def read_gate(file: Path, known: Collection[str]) -> dict[str, Gate]:
    """The gates by measure, from {"identification": 0.05, "loops": {"margin": 0.1, "may_be_unsure": true}}; {} asks nothing.

    Raises UserError for a measure that is not among `known`, and for what is no gate.
    """
    found = {}
    for name, value in read_untrusted_json(file, LONGEST).items():
        if name not in known:
            raise UserError(f"{file} names a measure that there is not or that is not taken: {name[:60]!r}.",
                            f"There are {', '.join(known)}.")
        fields = value if isinstance(value, dict) else {"margin": value}
        margin, unsure = fields.get("margin"), fields.get("may_be_unsure", False)
        if fields.keys() - {"margin", "may_be_unsure"} or not isinstance(unsure, bool) or not _is_margin(margin):
            raise UserError(f"{file} cannot be read: {name} must be a margin, or have margin and may_be_unsure.",
                            'Write it like {"identification": {"margin": 0.05, "may_be_unsure": true}}.')
        found[name] = Gate(margin, unsure)
    return found


def refusals(gates: Mapping[str, Gate], result: Evaluation) -> list[str]:
    """A sentence for each measure of each run that the gates do not let through."""
    labels = {one.name: one.label for one in result.measures}
    said = []
    for run in result.runs():
        found = {one.measure: one.outcome for one in result.findings_of(run.id)}
        for name, gate in gates.items():
            outcome = found.get(name, Outcome.UNMEASURED)
            if outcome is Outcome.LOST or not (outcome is Outcome.HOLDS or gate.unsure):
                said.append(f"{run.name}: {labels.get(name, name).lower()}: {OUTCOMES[outcome]}.")
    return said


def _is_margin(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0)

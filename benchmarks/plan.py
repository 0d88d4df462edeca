"""What `fidelity` is asked to measure: its cells, and where the results of each are kept.

A cell is a model, a character, a sparsity and a seed. The preset and its number
of steps belong to every cell's identity: rows of two presets are never in one
table.
"""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import data_folder, sha256, slug
from engine.base.job import Recipe, make_recipe
from engine.cards.card import CHARACTERS, Card
from engine.cards.files import read_card

# The knobs that shape the lines: those above the mask's, but for the size that is kept and a teacher's speed.
LINE_KNOBS = [name for name in takewhile(lambda name: name != "loss", Recipe.model_fields)
              if name not in ("sparsity", "multiple", "teacher_concurrency")]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cells to measure, and its folders. `changes`: knobs that differ from the preset; `lines`: finished ones to use."""

    model: str
    characters: Mapping[str, Card]
    sparsities: tuple[float, ...]
    seeds: int
    preset: str
    workdir: Path
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dtype: str = "auto"
    lines: Path | None = None

    def recipe(self, sparsity: float, seed: int) -> Recipe:
        """The preset's recipe for a cell."""
        return make_recipe(self.preset, **{**self.changes, "sparsity": sparsity, "seed": seed})

    @property
    def label(self) -> str:
        """The preset and its steps, as every row has them."""
        return f"{self.preset}, {self.recipe(0.25, 0).steps} steps"

    @property
    def model_folder(self) -> Path:
        """Where all cells of the model are kept."""
        return self.workdir / f"{slug(Path(self.model).name)}-{fingerprint([self.model, self.dtype])}"

    def subject_folder(self, name: str, seed: int) -> Path:
        """Where what all sparsities of a character and a seed share is kept: lines, the dense pass, scores."""
        recipe = self.recipe(0.25, seed).to_dict()
        identity = [self.characters[name].raw, {knob: recipe[knob] for knob in LINE_KNOBS},
                    sha256(self.lines) if self.lines else None]
        return self.model_folder / f"{name}-seed{seed}-{self.preset}-{fingerprint(identity)}"

    def cell_folder(self, name: str, seed: int, sparsity: float) -> Path:
        """Where a cell's masks and line readings are kept."""
        steps = self.recipe(sparsity, seed).steps
        return self.subject_folder(name, seed) / f"sparsity-{sparsity:g}-{steps}-steps"


def fingerprint(value: Any) -> str:
    """Eight hexadecimal digits that differ where the JSON value does."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def make_plan(options: argparse.Namespace) -> Plan:
    """The plan of a command line. Raises UserError for characters, sparsities, seeds or presets that do not exist."""
    if options.seeds < 1:
        raise UserError(f"--seeds counts the seeds; {options.seeds} is fewer than one.")
    workdir = Path(options.workdir) if options.workdir else data_folder() / "bench" / "fidelity"
    changes = {} if options.steps is None else {"steps": options.steps}
    plan = Plan(options.model, read_characters(options.characters), tuple(dict.fromkeys(options.sparsity)), options.seeds,
                options.preset, workdir, changes, options.dtype)
    for sparsity in plan.sparsities:
        plan.recipe(sparsity, 0)
    return plan


def read_characters(given: Sequence[str]) -> dict[str, Card]:
    """Cards by name: the first N bundled ones where a number is given, else bundled names or card files."""
    bundled = sorted(file.stem for file in CHARACTERS.glob("*.json"))
    if len(given) == 1 and given[0].isdecimal():
        if not 1 <= int(given[0]) <= len(bundled):
            raise UserError(f"There are {len(bundled)} bundled characters; {given[0]} of them cannot be measured.")
        given = bundled[: int(given[0])]
    cards = [read_card(one) for one in given]
    found = {one if one in bundled else slug(card.char): card for one, card in zip(given, cards, strict=True)}
    if len(found) < len(given):
        raise UserError("Two of the characters have the same name.", "Name each one once.")
    return found

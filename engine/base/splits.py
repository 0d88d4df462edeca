"""Which questions teach, which choose, and which report: a split by a hash of the question alone.

The same question falls on the same side in every run, for every character and
in every user's file. Knows neither lines nor models.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from engine.base.errors import UserError
from engine.base.text import normalise

Split = Literal["train", "validation", "test"]
FEWEST_LINES = 16
FEWEST_HELD_OUT, FEWEST_TRAIN = 2, 8


def split_of(question: str) -> Split:
    """The side of a question: 75 % train, 8 % validation, 17 % test, by the sha256 of its normalised text."""
    point = int.from_bytes(hashlib.sha256(normalise(question).encode()).digest()[:4], "big") / 2**32
    return "train" if point < 0.75 else "validation" if point < 0.83 else "test"


def require_enough(questions: Iterable[str], origin: str) -> None:
    """Raise UserError when fewer than 16 questions are there, or too few of them are held out or to learn from."""
    sides = Counter(split_of(question) for question in questions)
    count, held_out = sides.total(), sides["validation"] + sides["test"]
    if count < FEWEST_LINES or held_out < FEWEST_HELD_OUT or sides["train"] < FEWEST_TRAIN:
        raise UserError(f"{origin} gives {count} usable lines ({held_out} of them held out); at least {FEWEST_LINES} "
                        f"are needed, with {FEWEST_HELD_OUT} held out and {FEWEST_TRAIN} to learn from.",
                        "Add more questions with answers; 100 or more work well.")

"""Who answers the questions that teach: the teachers that a job can have.

To add one, write a class with the methods of `Teacher` in a file of its own, and name it in `find_teacher`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from engine.base.events import Stream
from engine.base.ids import Rejection
from engine.base.job import Recipe
from engine.calibration.lines import Journal, Line, Query
from engine.calibration.rewriting import Voice, answer_questions
from engine.calibration.server_teacher import ServerTeacher


class Teacher(Protocol):
    """Answers questions in a character's voice."""

    @property
    def identity(self) -> list[str] | None:
        """What shapes the answers, for the job's fingerprint."""

    def answers(self, model: Any, tokenizer: Any, voice: Voice, queries: Sequence[Query], recipe: Recipe,
                folder: Path) -> Stream[tuple[list[Line], Counter[Rejection]]]:
        """A line for every query whose answer passes the filter, and a count of rejections; `folder` keeps all answers."""


class OwnTeacher:
    """The dense model itself."""

    identity = None

    def answers(self, model: Any, tokenizer: Any, voice: Voice, queries: Sequence[Query], recipe: Recipe,
                folder: Path) -> Stream[tuple[list[Line], Counter[Rejection]]]:
        """See `Teacher`."""
        return (yield from answer_questions(model, tokenizer, voice, queries, recipe, Journal(folder / "answers.train.jsonl")))


def find_teacher(value: str, model: str | None, recipe: Recipe) -> Teacher:
    """The teacher of `--teacher` and `--teacher-model`: "self", or a server's address. Raises UserError for what is neither."""
    return OwnTeacher() if value == "self" else ServerTeacher.named(value, model, recipe)

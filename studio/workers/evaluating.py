"""Is it still the character? The dense model and finished runs are evaluated, by `python -m engine evaluate`.

A character's runs of one dense model share their answers: a further run is put beside those that were evaluated before.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.evidence import ANSWERS, RESULT, Evaluation, Telling, read_evaluation
from engine.base.files import is_file
from studio.settings import Settings
from studio.workers.commands import is_whole
from studio.workers.single import Resumable


class Evaluating(Resumable):
    """The evaluation under way, if there is one."""

    what, room, verb, again = "evaluation", "prune", "evaluate", "Ask again"

    def __init__(self, settings: Settings, touch: Callable[[str], None] = lambda room: None) -> None:
        super().__init__(settings, settings.evaluations, touch)

    def result(self, character: str) -> Evaluation | None:
        """What the last evaluation of a character said; None before the first."""
        file = self.folder(character) / RESULT
        try:
            return read_evaluation(file) if is_file(file) else None
        except UserError:
            return None

    def broken_off(self, character: str) -> int:
        """How many answers are kept of an evaluation that began and has no result yet; 0 where there is none."""
        file = self.folder(character) / ANSWERS
        if is_file(self.folder(character) / RESULT) or not is_file(file):
            return 0
        with file.open("rb") as lines:
            return sum(1 for _ in lines)

    def differing(self, character: str, item: str) -> tuple[Evaluation, Telling]:
        """An item of a character's last evaluation where the models differ. Raises UserError where it is not there any more."""
        found = self.result(character)
        one = next((one for one in found.telling if one.item == item), None) if found else None
        if found is None or one is None:
            raise UserError("This answer is no longer there.", "Evaluate the run again.")
        return found, one

    def begin(self, character: str, card: dict[str, Any], dense: str, run: Path, quick: bool = True,
              judge: tuple[str, str] = ("", ""), player: str = "") -> None:
        """Ask the dense model and the one in the folder `run`, as the character of `card`. Raises UserError.

        `judge`: a model of this machine or an address, and the server's model; `player`: a model that plays the player.
        """
        with self._lock:
            self._require_none()
            known = self.result(character)
            others = [one.model for one in known.runs() if is_whole(Path(one.model))] if known and known.dense == dense else []
            models = list(dict.fromkeys([*others, str(run)]))
            self._begin(character, {"card": str(self.folder(character) / "card.json"), "dense": dense, "models": models,
                                    "quick": quick, "judge": judge[0], "judge_model": judge[1], "player": player},
                        {"card.json": card})

"""Scenes: characters that talk with each other, played by `python -m engine scene`; each character's last one is kept.

A scene is its file of events. What is put in while it is played goes by a file that the process reads before each turn; else it is
appended to what was said, and the scene goes on from there.
"""

import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from engine.base import event_file
from engine.base.errors import UserError
from engine.base.evaluation_events import Acted, Spoken
from engine.base.events import Event
from engine.base.files import explain_write_errors, is_file, read_json
from engine.base.sampling import MAX_SEED
from studio.settings import Settings
from studio.workers.single import Resumable

JOB, EVENTS, WORDS = "job.json", "events.jsonl", "words.jsonl"


class Scenes(Resumable):
    """The scene under way, if there is one."""

    what, room, verb, again = "scene", "preview", "scene", "Go on"

    def __init__(self, settings: Settings, touch: Callable[[str], None] = lambda room: None) -> None:
        super().__init__(settings, settings.scenes, touch)

    def said(self, character: str) -> list[Spoken]:
        """What was said in the last scene of a character, in order."""
        return [one for one in self._events(character) if isinstance(one, Spoken)]

    def acted(self, character: str) -> list[Acted]:
        """How the characters were played, once the scene has ended."""
        return [one for one in self._events(character) if isinstance(one, Acted)]

    def begin(self, character: str, actors: Sequence[dict[str, Any] | str], model: str, narrator: str, turns: int,
              judge: tuple[str, str] = ("", "")) -> None:
        """Play a new scene. `actors`: cards that `model` speaks for, or folders with a model of their own. Raises UserError."""
        files = {f"actor-{number}.json": one for number, one in enumerate(actors) if isinstance(one, dict)}
        folder = self.folder(character)
        names = [one if isinstance(one, str) else str(folder / f"actor-{number}.json") for number, one in enumerate(actors)]
        self._play(character, {"characters": names, "model": model, "narrator": narrator.strip()}, turns, judge, files)

    def go_on(self, character: str, turns: int, judge: tuple[str, str] = ("", "")) -> None:
        """Continue the last scene for `turns` turns; 0 only grades it. Raises UserError."""
        file = self.folder(character) / JOB
        if not is_file(file):
            raise UserError("There is no scene yet.", "Play one first.")
        former = {name: value for name, value in read_json(file).items() if name in ("characters", "model")}
        self._play(character, {**former, "said": [[one.speaker, one.text] for one in self.said(character)]}, turns, judge)

    def put_in(self, character: str, speaker: str, text: str) -> bool:
        """Let the player, or the narrator (""), say something; whether the scene is under way and hears it. Raises UserError."""
        if not text.strip():
            raise UserError("There is nothing to put in.", "Write a line first.")
        folder = self.folder(character)
        with self._lock, explain_write_errors(folder):
            if self._worker and self._character == character:
                with (folder / WORDS).open("a", encoding="utf-8") as words:
                    words.write(json.dumps([speaker, text.strip()]) + "\n")
                return True
            if not is_file(folder / JOB):
                raise UserError("There is no scene yet.", "Play one first.")
            event_file.append(folder / EVENTS, Spoken(speaker, text.strip(), 0))
            self.revision += 1
        return False

    def _play(self, character: str, job: dict[str, Any], turns: int, judge: tuple[str, str],
              files: dict[str, Any] | None = None) -> None:
        with self._lock:
            self._require_none()
            (self.folder(character) / WORDS).unlink(missing_ok=True)
            self._begin(character, {**job, "turns": turns, "judge": judge[0], "judge_model": judge[1],
                                    "sampling": {"seed": secrets.randbelow(MAX_SEED)}}, files)

    def _events(self, character: str) -> list[Event]:
        return list(event_file.read(self.folder(character) / EVENTS))

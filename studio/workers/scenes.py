"""Scenes: characters that talk with each other, played by `python -m engine scene`; each character's last one is kept.

A scene is its file of events. What is put in while it is played goes by a file that the process reads before each turn; else it is
appended to what was said, and the scene goes on from there.
"""

import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
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
        spoken = self._spoken(character)
        return [*spoken, *self._begun_with(character)[len(spoken):]]

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
        with self._lock:
            if not self._worker:
                self._write_down(character)
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
            self._write_down(character)
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

    def _end(self, character: str, last: Event | None) -> None:
        with self._lock, suppress(OSError, UserError, ValueError):  # the next time then
            self._write_down(character)
        super()._end(character, last)

    def _write_down(self, character: str) -> None:
        """Append to the events what a process that has ended left out: the rest of what it began with, which it says first, and
        what was put in too late for it to hear. Under the lock."""
        folder, left = self.folder(character), self._begun_with(character)[len(self._spoken(character)):]
        heard = [(one.speaker, one.text) for one in self._spoken(character) if one.turn]
        words = (folder / WORDS).read_text(encoding="utf-8").split("\n") if is_file(folder / WORDS) else []
        for line in words[:-1]:  # the last one is empty, or torn
            speaker, text = json.loads(line)
            if (speaker, text) in heard:
                heard.remove((speaker, text))
            else:
                left.append(Spoken(speaker, text, 0))
        for one in left:
            event_file.append(folder / EVENTS, one)
        (folder / WORDS).unlink(missing_ok=True)

    def _begun_with(self, character: str) -> list[Spoken]:
        """What had been said when the last process was begun."""
        file = self.folder(character) / JOB
        return [Spoken(speaker, text, 0) for speaker, text in read_json(file).get("said", [])] if is_file(file) else []

    def _spoken(self, character: str) -> list[Spoken]:
        return [one for one in self._events(character) if isinstance(one, Spoken)]

    def _events(self, character: str) -> list[Event]:
        return list(event_file.read(self.folder(character) / EVENTS))

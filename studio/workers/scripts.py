"""Tests of characters by their scripts: one process at a time, whose results go into the library as they come.

The process is `python -m engine script`.
"""

import shutil
from collections.abc import Callable, Sequence
from typing import Any

from engine.base.errors import UserError
from engine.base.evaluation_events import Graded, Preferred, Untested
from engine.base.events import Event, Failed, Finished, Stopped
from engine.base.files import explain_write_errors, write_json
from engine.base.sampling import read_params
from studio import labels
from studio.settings import Settings
from studio.store import characters, script_runs
from studio.store.database import Store
from studio.store.script_runs import ScriptAnswer, ScriptRun
from studio.workers import process
from studio.workers.single import Single

CLOSED = "The studio was closed before the test was complete."
DIED = "The test ended unexpectedly; what was answered is kept. Run it again."
BY_SYSTEM = ("The test ended because memory ran out; what was answered is kept. Close other programs or choose a smaller model, "
             "then run it again.")


class Scripts(Single):
    """The test under way, if there is one."""

    what, room = "test", "compare"

    def __init__(self, settings: Settings, store: Store, touch: Callable[[str], None] = lambda room: None) -> None:
        super().__init__(settings, touch)
        self.store = store
        self._runs: list[ScriptRun] = []

    def start(self) -> None:
        """Clean up what an earlier studio left."""
        script_runs.end(self.store, [one.id for one in script_runs.running(self.store)], "stopped", CLOSED)

    def begin(self, character: str, models: Sequence[tuple[str | None, str]], sampling: dict[str, Any], seed: int,
              judge: tuple[str, str] | None = None, type: str = "Q8_0") -> list[ScriptRun]:
        """Ask a character's present version all of its script on each of `models`: (run or None, model). Raises UserError.

        `type`: of the GGUF files, the same for all models.
        """
        with self._lock:
            self._require_none()
            head = characters.head(self.store, character)
            folder = self.settings.script
            shutil.rmtree(folder, ignore_errors=True)
            with explain_write_errors(folder):
                folder.mkdir(parents=True)
                write_json(folder / "card.json", head.card)
            url, name = judge or ("", "")
            self._runs = script_runs.begin(self.store, character, head.number, models, seed, sampling, f"{url} {name}".strip())
            write_json(folder / "job.json", {
                "card": str(folder / "card.json"), "models": [model for _, model in models], "judge": url, "judge_model": name,
                "sampling": {**read_params(sampling).as_dict(), "seed": seed}, "workdir": str(folder / "work"),
                "type": type, "json_events": True, "leash": True})
            try:
                self._start(character, ["script", "--job", str(folder / "job.json")], folder / "log.txt",
                            folder / "work" / "events.jsonl", self._end)
            except UserError as error:
                script_runs.end(self.store, [one.id for one in self._runs], "failed", error.sentence)
                raise
            return self._runs

    def _end(self, last: Event | None) -> None:
        ended = BY_SYSTEM if process.ran_out_of_memory(self.settings.script / "log.txt") else DIED
        unheard = ("stopped", CLOSED) if self._closed else ("failed", ended)
        state, sentence = {Finished: ("done", ""), Stopped: ("stopped", "")}.get(type(last), unheard)
        if isinstance(last, Failed):
            sentence = labels.error(last.sentence, last.hint, last.code)
        script_runs.end(self.store, [one.id for one in self._runs], state, sentence)

    def _take(self, event: Event) -> None:
        by_model = {one.model: one.id for one in self._runs}
        match event:
            case Graded():
                script_runs.add_answer(self.store, by_model[event.model], ScriptAnswer(
                    event.question, event.kind, event.lines, event.answers, event.verdict, event.checks, event.score, None))
            case Preferred():
                script_runs.prefer(self.store, by_model[event.first], event.question, event.points)
            case Untested():
                script_runs.end(self.store, [by_model[event.model]], "failed", event.sentence)
            case _:
                super()._take(event)

"""What step 1 does: lines made, taken from a file, edited, taken out, approved, and what the page shows of them.

Plain functions over the library and the queue; each reads the library first.
"""

import html
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.job import PRESET_LABELS
from engine.base.known_models import KNOWN
from engine.base.questions import normalise, require_enough
from studio.services import Services
from studio.store import characters, lines, runs
from studio.store.characters import Version
from studio.store.lines import CalibrationLine, Decision, LineSet
from studio.store.runs import Run
from studio.tabs.prune import lines_view, own_lines, review
from studio.tabs.prune.cut import shape_of
from studio.tabs.prune.lines_view import Filter
from studio.tabs.prune.queueing import Queueing
from studio.tabs.teacher import checked_server
from studio.times import Times

COPY_SECONDS = 10  # for which edits of an approved set go into the copy that the first of them has made
NOBODY = "No character is chosen."


@dataclass(frozen=True)
class LinesOptions:
    """How lines are to be made. `who`: self or server; `url` and `server_model` are the server's."""

    who: str = "self"
    preset: str = "quick"
    url: str = ""
    server_model: str = ""

    def spec(self, model: str) -> dict[str, Any]:
        """The options as a run keeps them. Raises UserError for a server that cannot be asked."""
        spec = {"model": model, "preset": self.preset}
        if self.who != "server":
            return spec
        url, name = checked_server(self.url, self.server_model)
        return {**spec, "teacher": url, "teacher_model": name}


@dataclass(frozen=True)
class Edit:
    """A line's new texts; None where it stays."""

    position: int
    question: str | None = None
    answer: str | None = None


class LinesController:
    """The actions of step 1. Thread-safe."""

    def __init__(self, services: Services, queueing: Queueing) -> None:
        self.services = services
        self.store = services.store
        self.queueing = queueing
        self.times = Times(services)
        self._editing = threading.Lock()
        self._copies: dict[str, tuple[str, float]] = {}  # set -> its newest copy, and when it was made (monotonic seconds)

    def contents(self, look: Mapping[str, str]) -> dict[str, Any]:
        """What the page shows of a character's lines, for the live channel."""
        character = characters.get(self.store, look["character"])
        if character is None:
            return {"prune-room": False, "prune-nobody": True}
        sets, chosen = self.sets(character.id), self.chosen(character.id, look["set"])
        every = lines.lines(self.store, chosen.id) if chosen else []
        coming = bool(runs.list_runs(self.store, character.id, kinds=["lines"], states=("queued", *runs.ACTIVE)))
        version = characters.head(self.store, character.id)
        shown = self._review(version, chosen, every) if chosen else ""
        return {"prune-room": True, "prune-nobody": False, "prune-times": self._times(),
                "prune-from": lines_view.from_html(chosen, coming),
                "prune-lines-read": lines_view.COMING if coming and not chosen else
                lines_view.lines_html(sets, chosen, every, Filter.of(look, every), version.number, shown)}

    def _times(self) -> str:
        model = self.services.base_model()
        try:
            shape = shape_of(self.services, model)
        except UserError:  # the cut says why
            shape = None
        known = KNOWN.get(model)
        parameters = shape.parameters if shape else known.parameters if known else 0
        words = self.times.sentence(model, known.label if known else Path(model).name, parameters) if parameters else ""
        return f'<p class="quiet">{html.escape(words)}</p>'

    def _review(self, version: Version, chosen: LineSet, every: Sequence[CalibrationLine]) -> str:
        others = [one.char for one in characters.list_characters(self.store) if one.id != version.character]
        return review.review_html(chosen, every, lines.lines(self.store, chosen.id, removed=True),
                                  review.doubts_of(version.card, others, every))

    def sets(self, character: str) -> list[LineSet]:
        """The sets of a character, newest first."""
        return lines.sets(self.store, character) if character else []

    def chosen(self, character: str, set_id: str) -> LineSet | None:
        """The set looked at: the chosen one if it is this character's, else the newest."""
        found = self.sets(character)
        return next((one for one in found if one.id == set_id), found[0] if found else None)

    def make(self, character: str, model: str, options: LinesOptions) -> Run:
        """Queue the making of lines. Raises UserError, also when the same is waiting already."""
        spec = options.spec(model)
        shape_of(self.services, model)
        version = self._head(character)
        name = f"Lines for version {version} of the card, {PRESET_LABELS[options.preset].lower()}"
        return self.queueing.once("lines", character, version, spec, None,
                                  lambda: self.services.jobs.submit_lines(character, spec, name))

    def take_file(self, character: str, path: Path) -> LineSet:
        """A new set from a writer's own file. Raises UserError, which names the file."""
        version = self._head(character)
        found, left = own_lines.read_file(path)
        return lines.add_set(self.store, character, version, found, left, name=path.stem[:60])

    def approve(self, set_id: str) -> LineSet:
        """Say that the set was read. Raises UserError when it is too small to learn from."""
        found = self._set(set_id)
        require_enough((line.question for line in lines.lines(self.store, set_id)), f"The set {found.name or 'of lines'}")
        return lines.approve(self.store, set_id)

    def rename(self, set_id: str, name: str) -> LineSet:
        """Give the set another name. Raises UserError for an empty one."""
        return lines.rename_set(self.store, self._set(set_id).id, name[:80])

    def delete(self, set_id: str) -> LineSet:
        """Take the set off the list; runs that learn from it keep their lines."""
        return lines.delete_set(self.store, self._set(set_id).id)

    def undelete(self, set_id: str) -> LineSet:
        """Undo delete."""
        return lines.undelete_set(self.store, set_id)

    def decide(self, set_id: str, position: int, decision: Decision) -> str:
        """Keep or drop a line that was looked at, or with "" take that back. The id of the set that was changed."""
        with self._editing:
            changed = self._set(set_id).id if decision == "keep" else self._changeable(set_id)
            line = self._line(changed, position)
            lines.decide(self.store, line.id, decision)
            if line.removed != (decision == "drop"):
                lines.remove(self.store, [line.id], removed=not line.removed)
            return changed

    def edit(self, set_id: str, edit: Edit) -> str:
        """Change a line; in a copy where the set is approved or learned from. The id of the set that was changed.

        It counts as looked at. A line that another window has dropped meanwhile comes back with what was written.

        Edits typed before the page shows the copy go into the same copy. Raises UserError for a text that no line may have;
        nothing is changed or copied then.
        """
        with self._editing:
            self._check(set_id, edit)
            changed = self._changeable(set_id)
            line = self._line(changed, edit.position)
            lines.change(self.store, line.id, edit.question, edit.answer)
            lines.decide(self.store, line.id, "rewrite")
            if line.removed:
                lines.put_back(self.store, [line.id])
            return changed

    def take_out(self, set_id: str, positions: Sequence[int]) -> tuple[str, list[str]]:
        """Take lines out; in a copy where needed. The set's id, and the ids of the lines that put_back takes."""
        if not positions:
            raise UserError("No line is ticked.", "Tick the lines in the first column, then delete them.")
        wanted = set(positions)
        with self._editing:
            if not any(line.position in wanted for line in lines.lines(self.store, set_id)):
                raise UserError("These lines are deleted already.")
            changed = self._changeable(set_id)
            gone = [line.id for line in lines.lines(self.store, changed) if line.position in wanted]
            lines.remove(self.store, gone)
        return changed, gone

    def put_back(self, ids: Sequence[str]) -> None:
        """Undo take_out."""
        lines.put_back(self.store, ids)

    def _check(self, set_id: str, edit: Edit) -> None:
        line = self._line(set_id, edit.position)
        question = normalise(line.question if edit.question is None else edit.question)
        if not question or (edit.answer is not None and not edit.answer.strip()):
            raise UserError("A line needs a question and an answer.", "To drop the line, tick it and delete it.")
        others = {normalise(one.question) for one in lines.lines(self.store, set_id) if one.position != edit.position}
        if (edit.question is not None or line.removed) and question in others:
            raise UserError("Another line of this set asks the same question.")

    def _line(self, set_id: str, position: int) -> CalibrationLine:
        """A line of a set, dropped or not. Raises UserError."""
        every = [line for removed in (False, True) for line in lines.lines(self.store, set_id, removed)]
        if (found := next((line for line in every if line.position == position), None)) is None:
            raise UserError("This line is not in the set any more.", "Reload the page.")
        return found

    def _changeable(self, set_id: str) -> str:
        found = self._set(set_id)
        if found.state != "approved" and not lines.is_fixed(self.store, set_id):
            return set_id
        copy, made = self._copies.get(set_id, ("", 0.0))
        known = lines.line_set(self.store, copy) if copy and time.monotonic() - made < COPY_SECONDS else None
        if known is None or known.deleted or known.state == "approved":
            copy = lines.copy_set(self.store, set_id, lines.edited_name(found.name)).id
            self._copies[set_id] = copy, time.monotonic()
        return copy

    def _set(self, set_id: str) -> LineSet:
        found = lines.line_set(self.store, set_id) if set_id else None
        if found is None or found.deleted:
            raise UserError("There are no lines yet.", "Make some, or use your own file.")
        return found

    def _head(self, character: str) -> int:
        if not character:
            raise UserError(NOBODY, "Pick one in the sidebar.")
        return characters.head(self.store, character).number

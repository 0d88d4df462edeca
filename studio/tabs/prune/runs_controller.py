"""What step 2 does: runs queued, stopped, resumed, renamed, removed, put side by side, and what the page shows of them.

Plain functions over the library and the queue; each reads the library first.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import plotly.graph_objects as go

from engine.base.errors import UserError
from studio import times
from studio.figures import masks, words
from studio.page import ENGINEER
from studio.services import Services
from studio.store import characters, lines, runs, values
from studio.store.runs import ACTIVE, Run
from studio.tabs import verdict
from studio.tabs.models import ask_for_new_chat, choose_voice, finished
from studio.tabs.prune import pictures, runs_view
from studio.tabs.prune.cut import Plan, cut_of, fault_html, shape_of
from studio.tabs.prune.queueing import Queueing

LADDER = (10.0, 25.0, 50.0)  # % removed by the button that queues three


class RunsController:
    """The actions of step 2. Thread-safe."""

    def __init__(self, services: Services, queueing: Queueing) -> None:
        self.services = services
        self.store = services.store
        self.queueing = queueing
        self.drawings = pictures.Drawings()

    def contents(self, look: Mapping[str, str]) -> dict[str, Any]:
        """What the page shows of a character's runs, for the live channel."""
        character = characters.get(self.store, look["character"])
        if character is None:
            return {}
        most = int(look["runs"]) if look["runs"].isdecimal() else runs_view.PAGE
        making, newest, run = self.making(character.id), self.newest(character.id, most), self.chosen(character.id, look["run"])
        listed = newest if run is None or run.id in [one.id for one in newest] else [*newest, run]
        states = {one.id: self.services.jobs.shown_state(one) for one in listed}
        total = len(runs.names(self.store, character.id, "prune"))
        engineer = bool(values.get_value(self.store, ENGINEER, False))
        return {"prune-engineer": engineer, "prune-making": self._making_html(making), "prune-runs":
                runs_view.table_html(listed, states, run.id if run else "", total), "prune-run": run is not None,
                **(self._shown(run, states[run.id], look, character.char) if run else {})}

    def making(self, character: str) -> Run | None:
        """The run that makes lines now, or waits to; else the last one, where something went wrong with it or after it."""
        found = runs.foremost(runs.list_runs(self.store, character, kinds=["lines"])) if character else None
        return found if found and (found.state != "done" or found.sentence) else None

    def _making_html(self, run: Run | None) -> str:
        view = self.services.watcher.view(run.id) if run else None
        if not run or not view:
            return ""
        return runs_view.progress_html(run, view, self.services.jobs.shown_state(run), self.services.jobs.follows(run.id))

    def _shown(self, run: Run, state: str, look: Mapping[str, str], char: str) -> dict[str, Any]:
        """The run looked at, with its figures: those of a finished one when they are asked for."""
        view = self.services.watcher.view(run.id)
        learned = lines.line_set(self.store, run.line_set) if run.line_set else None
        other = look["other"]
        how = run.state != "done" or bool(look["how"])
        others = self.others(run)
        chosen = other if other in [id for _, id in others] else ""
        about = runs_view.about(run, learned.name if learned else "")
        return {**verdict.contents(self.services, run),
                "prune-progress": runs_view.run_html(run, view, state, about, char, how, *times.left(self.services, run)),
                "prune-how": how, "prune-others": pictures.others_html(others, chosen),
                **pictures.contents(run, view, self.drawings, look["at"]),
                **(self._overlap_figures(run, chosen) if chosen else {})}

    def _overlap_figures(self, run: Run, other: str) -> dict[str, Any]:
        try:
            return {f"prune-figure-{name}": self.drawings.get((run.id, other, name), "", partial(self.overlap, run, other, of))
                    for name, of in pictures.OVERLAPS.items()}
        except UserError as error:
            return {f"prune-figure-{next(iter(pictures.OVERLAPS))}": fault_html(error)}

    def newest(self, character: str, most: int = -1) -> list[Run]:
        """The latest prune runs of a character, newest first."""
        return runs.list_runs(self.store, character, kinds=["prune"], limit=most) if character else []

    def chosen(self, character: str, run_id: str) -> Run | None:
        """The run looked at: the chosen one if it is this character's, else the one under way, else the newest."""
        wanted = runs.get(self.store, run_id) if run_id else None
        if wanted and (wanted.character, wanted.kind, wanted.deleted) == (character, "prune", None):
            return wanted
        active = runs.list_runs(self.store, character, kinds=["prune"], states=ACTIVE, limit=1) if character else []
        return next(iter(active or self.newest(character, 1)), None)

    def prune(self, character: str, set_id: str, model: str, plan: Plan, name: str = "") -> Run:
        """Queue a run. Raises UserError, also when the same is waiting or running already."""
        self._check_lines(character, set_id)
        spec = plan.spec(model)
        shape = shape_of(self.services, model)
        if shape:
            cut_of(shape, plan)
        version = characters.head(self.store, character).number
        called = self._name(character, plan, name)
        return self.queueing.once("prune", character, version, spec, set_id,
                                  lambda: self.services.jobs.submit_prune(character, spec, set_id, called))

    def has_lines(self, character: str) -> bool:
        """Whether there is a set of lines that the writer could learn from."""
        return bool(character and lines.sets(self.store, character))

    def prune_whole(self, character: str, model: str, plan: Plan, name: str = "") -> Run:
        """Make the lines, then prune by them, unread; the run that makes them. Lines that are being made already are these.

        Raises UserError.
        """
        self._check_character(character)
        spec = plan.spec(model)
        if shape := shape_of(self.services, model):
            cut_of(shape, plan)
        run = self.making(character)
        if run is None or run.state not in ("queued", *ACTIVE):
            run = self.services.jobs.submit_lines(character, {"model": model, "preset": plan.preset})
        self.services.jobs.follow(run.id, spec, self._name(character, plan, name))
        return run

    def prune_ladder(self, character: str, set_id: str, model: str, plan: Plan) -> tuple[list[Run], str]:
        """Queue one run for each of LADDER; what was left out, as a sentence. Raises UserError when nothing was queued."""
        shape = shape_of(self.services, model)
        queued: list[Run] = []
        faults: dict[float, str] = {}
        seen: set[int] = set()
        for percent in LADDER:
            step = dataclasses.replace(plan, percent=percent)
            try:
                kept = cut_of(shape, step).kept if shape else -int(percent)
                if kept in seen:
                    raise UserError("It comes to the same size as the one before.")
                queued.append(self.prune(character, set_id, model, step))
                seen.add(kept)
            except UserError as error:
                faults[percent] = str(error)
        left = " ".join(f"{percent:g}\u00a0%: {fault}" for percent, fault in faults.items())
        if not queued:
            reasons = set(faults.values())
            raise UserError(reasons.pop() if len(reasons) == 1 else left)
        return queued, left

    def rename(self, run_id: str, name: str) -> Run:
        """Give a run another name. Raises UserError for an empty one."""
        return runs.rename(self.store, run_id, name[:80])

    def use(self, run_id: str, speaks: bool = False) -> None:
        """Look for a run's model before another room shows it; `speaks`: it is the character's voice in Play from now on.

        Raises UserError where its files are gone.
        """
        run = runs.get(self.store, run_id)
        if run is None or run.id not in [one.id for one in finished(self.services, run.character)]:
            raise UserError("The files of this run are gone.", "Make it again below.")
        if speaks:
            choose_voice(self.services, run.character, run.id)
            ask_for_new_chat(self.services, run.character)

    def remove(self, run_id: str) -> None:
        """Take a run off the list. Raises UserError while it is under way."""
        runs.remove(self.store, run_id)

    def put_back(self, run_id: str) -> None:
        """Undo remove; a run that was waiting waits again."""
        runs.put_back(self.store, run_id)

    def others(self, run: Run | None) -> list[tuple[str, str]]:
        """(label, id) of finished runs, of any character, whose mask can be laid beside this run's."""
        if run is None or run.state != "done":
            return []
        names = {one.id: one.char for one in characters.list_characters(self.store)}
        return words.dedupe_labels([(f"{names[character]} · {name}", id) for id, character, name in
                           runs.pruned(self.store, run.spec.get("model")) if id != run.id and character in names])

    def overlap(self, run: Run, other_id: str, of: Literal["kept", "removed"]) -> go.Figure:
        """How far two runs' masks agree on what they keep, or remove. Raises UserError."""
        other = runs.get(self.store, other_id)
        first, second = runs.mask(self.store, run.id), runs.mask(self.store, other_id)
        if other is None or first is None or second is None:
            raise UserError("One of the two runs has no mask in the library.")
        if first.shape != second.shape:
            raise UserError("These two runs are of different models.", "Choose two of the same base model.")
        return masks.overlap(first, second, (run.name, other.name), of)

    def _name(self, character: str, plan: Plan, name: str) -> str:
        """The name that was typed for a run, else a free one."""
        if typed := " ".join(name.split())[:80]:
            return typed
        name = f"{words.removed(plan.share())} removed"
        taken = {called for _, called, _ in runs.names(self.store, character, "prune")}
        number = 1
        while (found := name if number == 1 else f"{name} ({number})") in taken:
            number += 1
        return found

    def _check_character(self, character: str) -> None:
        if not character:
            raise UserError("No character is chosen.", "Pick one in the sidebar.")

    def _check_lines(self, character: str, set_id: str) -> None:
        self._check_character(character)
        found = lines.line_set(self.store, set_id) if set_id else None
        if found is None or found.deleted:
            raise UserError("There are no lines to learn from yet.", "Make them in step 1.")
        if found.state != "approved":
            raise UserError("The lines are not approved yet.", "Read them in step 1, then press Approve these lines.")

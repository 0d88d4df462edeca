"""What the Compare room does: plain functions over the library and the answers, each reading the truth first.

Knows no component. Every question is a round of its own that holds what was said before it; a conversation is nothing
more than its newest round.
"""

import secrets
from typing import Any

from engine.base.errors import UserError
from engine.base.sampling import MAX_SEED, read_params
from studio.services import Services
from studio.store import characters, rounds, values
from studio.store.rounds import Round
from studio.store.runs import Run
from studio.tabs.answers import about_of, card_of, chosen
from studio.tabs.compare.asking import SIDE, Asking, Wish, history
from studio.tabs.compare.scene import (
    DONE,
    Scene,
    cleared_key,
    closed_key,
    player_of,
    present_round,
    read_scene,
    settings_of,
)
from studio.tabs.models import chosen_run, dense_of, finished, pruned_of

MOST = 6  # pruned models in a grid


class Room:
    """The room's doings. Every one raises UserError where a user can mend what is wrong."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.store = services.store
        self.asking = Asking(services)
        self._warm: tuple[Any, ...] = ()

    def scene(self, character: str, run: str, grid: bool) -> Scene:
        """The comparison as it is now."""
        return read_scene(self.services, self.asking, character, run, grid)

    def choose(self, character: str, run: str) -> None:
        """Remember the pruned model to compare with."""
        values.set_value(self.store, f"compare-run:{character}", run)

    def pick(self, character: str, picks: list[str]) -> None:
        """Remember the pruned models of the grid."""
        values.set_value(self.store, f"compare-picks:{character}", picks)

    def change_settings(self, blind: bool, *sliders: float) -> None:
        """How the next rounds are answered and shown. Raises UserError."""
        settings = {**read_params(chosen(sliders)).as_dict(), "blind": bool(blind)}
        values.set_value(self.store, "compare-settings", settings)

    def warm(self, character: str, run_id: str) -> None:
        """Let the worker load both models and read what the next answers begin with."""
        run = chosen_run(self.services, character, run_id, finished(self.services, character))
        if run is None:
            return
        turns = self._turns(run, present_round(self.services, character, run.id))
        wanted = (run.id, str(turns))
        if wanted != self._warm:
            self._warm = wanted
            card = characters.version(self.store, character, run.version).card
            for side, one in enumerate((dense_of(run), pruned_of(self.services, run))):
                self.services.speech.warm(one.model, card, player_of(self.services), history(turns, side),
                                          about_of(self.store, character))

    def send(self, character: str, run_id: str, text: str, blind: bool) -> Round:
        """Put a message to the dense and the pruned model."""
        run, message = self._run(character, run_id), _message(text)
        with self.asking.lock:
            present = present_round(self.services, character, run.id)
            self.asking.check_idle(present)
            return self._begin(run, message, self._turns(run, present), blind)

    def regenerate(self, character: str, run_id: str, blind: bool) -> Round:
        """Ask both models for other answers to the last message; sides are drawn anew."""
        run = self._run(character, run_id)
        with self.asking.lock:
            present = present_round(self.services, character, run.id)
            if present is None:
                raise UserError("There is nothing to answer yet.", "Write a message first.")
            self.asking.check_idle(present)
            return self._begin(run, present.message, present.turns, blind)

    def ask_grid(self, character: str, picks: list[str], text: str) -> Round:
        """Put a line to the dense model and to several pruned ones, each without any history but the greeting."""
        message = _message(text)
        chosen = [run for run in finished(self.services, character) if run.id in picks]
        if not chosen:
            raise UserError("No pruned model is chosen.", "Tick at least one above.")
        if len(chosen) > MOST:
            raise UserError(f"A grid holds at most {MOST} pruned models.", "Untick some.")
        ordered = sorted((pruned_of(self.services, run) for run in chosen), key=lambda one: one.removed)
        dense = list({one.model: one for one in map(dense_of, chosen)}.values())
        with self.asking.lock:
            self.asking.check_idle(next(iter(rounds.rounds(self.store, character, "grid", limit=1)), None))
            version = chosen[0].version
            wish = self._wish(character, version)
            found = rounds.open_round(self.store, character, version, "grid", message, self._greeting(character, version),
                                      [(one.run, one.model) for one in [*dense, *ordered]], seed=_new_seed())
            self._forget_cleared(character, "", True)
            self.asking.ask_in_turn(found, wish)
            return found

    def vote(self, round_id: str, verdict: str) -> None:
        """Vote on a blind round, once: afterwards the names are known."""
        found = rounds.get(self.store, round_id) if round_id else None
        if found is None or found.kind != "pair":
            raise UserError("There is nothing to vote on yet.", "Write a message first.")
        if not found.blind:
            raise UserError("This round was not blind, so it takes no vote.", "Turn on blind and ask again.")
        if any(answer.reason not in DONE for answer in found.answers):
            raise UserError("A vote needs two whole answers.", "Wait for them, or press Regenerate.")
        with self.asking.lock:
            if rounds.votes(self.store, found.id):
                raise UserError("You have voted on this round already.")
            rounds.vote(self.store, found.id, verdict)

    def vote_cell(self, answer_id: str, good: bool) -> None:
        """Say of an answer in a grid whether it is good; may be changed."""
        rounds.vote_cell(self.store, answer_id, good)

    def stop(self, scene: Scene) -> None:
        """End the answers under way."""
        self.asking.stop(scene.shown.round if scene.shown else None)

    def begin_anew(self, character: str, run_id: str) -> None:
        """End the conversation; its rounds and votes stay."""
        run = self._run(character, run_id)
        with self.asking.lock:
            if present := present_round(self.services, character, run.id):
                self.asking.stop(present)
                values.set_value(self.store, closed_key(run.id), present.id)

    def clear(self, character: str, run_id: str, grid: bool) -> None:
        """Take away rounds with their votes: those of a pair, or the grids of the character."""
        with self.asking.lock:
            for found in rounds.rounds(self.store, character, "grid", limit=1) if grid else []:
                self.asking.stop(found)
            if not grid and (present := present_round(self.services, character, run_id)):
                self.asking.stop(present)
            token = rounds.clear(self.store, character, None if grid else run_id, "grid" if grid else "pair")
        if not token:
            raise UserError("There is nothing to clear.")
        values.set_value(self.store, cleared_key(character, run_id, grid), token)

    def undo(self, character: str, run_id: str, grid: bool) -> None:
        """Bring back what was cleared last."""
        rounds.undo(self.store, str(values.get_value(self.store, cleared_key(character, run_id, grid), "")))
        self._forget_cleared(character, run_id, grid)

    def _begin(self, run: Run, message: str, turns: list[list[str]], blind: bool) -> Round:
        card_of(characters.version(self.store, run.character, run.version))  # before anything is written
        wish = self._wish(run.character, run.version)
        sides = [(one.run, one.model) for one in (dense_of(run), pruned_of(self.services, run))]
        found = rounds.open_round(self.store, run.character, run.version, "pair", message, turns, sides, seed=_new_seed(),
                                  blind=blind, swapped=blind and bool(secrets.randbelow(2)))
        self._forget_cleared(run.character, run.id, False)
        self.asking.ask_all(found, wish)
        return found

    def _turns(self, run: Run, present: Round | None) -> list[list[str]]:
        """What the next message follows; a round that broke off is as if it had never been."""
        if present is None:
            return self._greeting(run.character, run.version)
        if any(answer.reason not in DONE for answer in present.answers):
            return present.turns
        return [*present.turns, ["user", present.message], *([f"{SIDE}{answer.side}", answer.text] for answer in present.answers)]

    def _greeting(self, character: str, version: int) -> list[list[str]]:
        greeting = card_of(characters.version(self.store, character, version)).greeting
        return [["assistant", greeting]] if greeting.strip() else []

    def _wish(self, character: str, version: int) -> Wish:
        card = characters.version(self.store, character, version).card
        return Wish(card, player_of(self.services), settings_of(self.services)["sampling"], about_of(self.store, character))

    def _forget_cleared(self, character: str, run_id: str, grid: bool) -> None:
        if values.get_value(self.store, cleared_key(character, run_id, grid), ""):
            values.set_value(self.store, cleared_key(character, run_id, grid), "")

    def _run(self, character: str, run_id: str) -> Run:
        found = finished(self.services, character)
        if run_id and run_id not in [run.id for run in found]:
            raise UserError("This pruned model is gone.", "Choose another above.")
        if run := chosen_run(self.services, character, run_id, found):
            return run
        raise UserError("No pruned model is chosen.", "Make one in the Prune room.")


def _message(text: str) -> str:
    if not text.strip():
        raise UserError("There is nothing to send yet.", "Write a message first.")
    return text.strip()


def _new_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)

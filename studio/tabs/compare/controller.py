"""What the Compare room does with rounds of the library; their answers are asking.py's.

Every question is a round of its own that holds what was said before it; a conversation is nothing more than its newest round.
"""

import functools
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.base.errors import UserError
from engine.base.files import resource
from engine.base.questions import split_of
from engine.base.sampling import MAX_SEED, read_params
from engine.cards.script import read_script
from studio.figures.votes import RunVotes
from studio.figures.votes import votes as votes_figure
from studio.live import Ready, figure
from studio.services import Services
from studio.store import characters, rounds, runs, values
from studio.store.rounds import Answer, Round
from studio.store.runs import Run
from studio.tabs import judges
from studio.tabs.answers import (
    NOBODY,
    about_of,
    card_of,
    chosen,
    fingerprint,
    looked_at,
    message_of,
    player_of,
    slower_words,
    spoken_card,
)
from studio.tabs.compare import script
from studio.tabs.compare.asking import Asking, history, settings_of
from studio.tabs.compare.grids import grids_html
from studio.tabs.compare.scene import DONE, SIDE, Cell, Scene, Shown
from studio.tabs.compare.tally import run_votes, tally_html
from studio.tabs.compare.view import empty_html, pair_html
from studio.tabs.models import (
    DENSE,
    Contender,
    choices_of,
    chosen_run,
    common_type,
    dense_of,
    finished,
    pruned_of,
    remembered_picks,
    unfetched,
)
from studio.tabs.verdict import line_html

PAIR, GRID, SCRIPT = "pair", "grid", "script"  # the views
LOOKS = ("of", "run", "view", "model")
MOST = 6  # pruned models in a grid
GRIDS = 6  # rounds of a grid on the page
NOBODY_CONTENTS = {"compare-empty-box": True, "compare-empty": '<div class="empty"><p>Choose a character in the sidebar.</p></div>',
                   "compare-to-prune": False, "compare-work": False, "compare-script": False}


@dataclass(frozen=True)
class ViewState:
    """What one page looks at: a character, the pruned model it chose ("": the one compared last), and the view."""

    character: str = ""
    model: str = ""
    run: str = ""
    view: str = PAIR

    @property
    def is_grid(self) -> bool:
        """Whether the page shows the grid."""
        return self.view == GRID

    def look(self) -> dict[str, str]:
        """As the live channel knows it, by the names in LOOKS."""
        return {"of": self.character or NOBODY, "run": self.run, "view": self.view, "model": self.model}


class Controller:
    """What a page can do. Every method reads the library first; those that change something raise UserError. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.store = services.store
        self.asking = Asking(services)
        self._lock = self.asking.lock
        self._warm: tuple[Any, ...] = ()

    def contents(self, look: Mapping[str, str]) -> dict[str, Any]:
        """The live contents for a page that looks at `look`; none before its first look is known."""
        character = looked_at(self.store, look)
        if not character:
            return {} if character is None else NOBODY_CONTENTS
        state = ViewState(character, look["model"], look["run"], look["view"])
        grid, is_script = state.is_grid, state.view == SCRIPT
        scene = self.scene(state)
        pair, votes = scene.pair, run_votes(scene.runs, scene.tallies)
        is_pair = not grid and not is_script
        tally = scene.tallies.get(scene.run.id) if scene.run else None
        return {
            "compare-empty-box": not scene.runs, "compare-empty": "" if scene.runs else empty_html(scene),
            "compare-to-prune": not scene.waiting, "compare-work": bool(scene.runs), "compare-talk": not is_script,
            "compare-script": is_script or not scene.runs, "compare-run": is_pair, "compare-blind": is_pair, "compare-picks": grid,
            "compare-arena": "" if is_script else grids_html(scene) if grid else pair_html(scene),
            "compare-votes": bool(pair and pair.can_vote), "compare-regenerate": pair is not None and not scene.busy,
            "compare-new": pair is not None, "compare-undo": scene.undo and not scene.busy,
            "compare-clear": bool(scene.grids if grid else pair or (tally and tally.total)),
            "compare-tally-row": is_pair, "compare-tally-box": tally_html(scene) + line_html(self.services, scene.run),
            "compare-figure": _figure(*votes) if any(one.decided for one in votes) else "",
            **(script.contents(self.services, character) if is_script or not scene.runs else {}),
            "compare-controls": fingerprint(self.settings(scene, state.model))}

    def settings(self, scene: Scene, model: str) -> dict[str, Any]:
        """What the lists and fields are to show."""
        return {"character": scene.character, "runs": choices_of(scene.runs), "run": scene.run.id if scene.run else None,
                "picks": scene.picks, **settings_of(self.services),
                "tested": script.choices_of(self.services, scene.runs, model), "judge": judges.chosen(self.services).fields}

    def scene(self, state: ViewState) -> Scene:
        """The comparison as it is now; without a known run, that of the run compared last."""
        store, character, grid = self.store, state.character, state.is_grid
        found = finished(self.services, character)
        run = chosen_run(self.services, character, state.run, found)
        who = characters.get(store, character)
        card, fault = spoken_card(characters.version(store, character, run.version) if run else characters.head(store, character))
        with self._lock:
            pair = self._present_round(character, run.id) if run and not grid else None
            newest = rounds.rounds(store, character, "grid", limit=GRIDS) if grid else []
            shown, *grids = [self._shown(one, found) if one else None for one in (pair, *newest)]
        before, suggested = None, list[str]()
        if run and card and not grid and (pair is None or (shown and shown.verdict)):
            suggested = self._unasked(run)
        if run and pair and values.get_value(store, _series_key(run.id), False):
            earlier = [one for one in rounds.rounds(store, character, "pair", run.id, 2) if one.id != pair.id]
            before = self._shown(earlier[0], found) if earlier else None
        cleared = values.get_value(store, _cleared_key(character, run.id if run else "", grid), "")
        return Scene(character, card.char if card else who.char if who else "", player_of(store), card, fault, found, run,
                     remembered_picks(self.services, character, found),
                     runs.list_runs(store, character, kinds=["prune"], states=("queued", *runs.ACTIVE)), shown,
                     [one for one in grids if one], {one.id: rounds.tally(store, one.id) for one in found}, bool(cleared),
                     slower_words(store), suggested, before)

    def change_settings(self, blind: bool, *sliders: float) -> None:
        """How the next rounds are answered and shown. Raises UserError."""
        settings = {**read_params(chosen(sliders)).as_dict(), "blind": bool(blind)}
        values.set_value(self.store, "compare-settings", settings)

    def warm(self, state: ViewState) -> None:
        """Let the worker load both models and read what the next answers begin with: both, so that none has a head start."""
        character = state.character
        run = chosen_run(self.services, character, state.run, finished(self.services, character)) if state.view == PAIR else None
        if run is None:
            return
        turns = self._turns(run, self._present_round(character, run.id))
        wanted, sides = (run.id, str(turns)), (dense_of(run), pruned_of(self.services, run))
        if wanted != self._warm and not any(unfetched(self.services, one.model) for one in sides):  # a message fetches it
            self._warm = wanted
            card = characters.version(self.store, character, run.version).card
            for side, one in enumerate(sides):
                self.services.speech.warm(one.model, card, player_of(self.store), history(turns, side),
                                          about_of(self.store, character), type=common_type(other.model for other in sides))

    def send(self, state: ViewState, text: str, blind: bool) -> Round:
        """Put a message to the dense and the pruned model."""
        run, message = self._run(state), message_of(text)
        with self._lock:
            present = self._present_round(run.character, run.id)
            self.asking.check_idle(present)
            values.set_value(self.store, _series_key(run.id), False)
            return self._begin(run, message, self._turns(run, present), blind)

    def suggest(self, state: ViewState, text: str) -> Round:
        """Ask a question of the test script, blind, in a conversation of its own; after its vote the next follows by itself."""
        run, message = self._run(state), message_of(text)
        with self._lock:
            self.asking.check_idle(self._present_round(run.character, run.id))
            begun = self._begin(run, message, self._greeting(run.character, run.version), True)
            values.set_value(self.store, _series_key(run.id), True)
            return begun

    def _unasked(self, run: Run) -> list[str]:
        """Questions that no model learns from, without those that this run was asked: the test script's, then player lines."""
        asked = {one.message for one in rounds.rounds(self.store, run.character, "pair", run.id)}
        card = card_of(characters.version(self.store, run.character, run.version))
        own = [one.lines[0] for one in read_script(card).questions if len(one.lines) == 1]
        return [line for line in dict.fromkeys([*own, *_held_out()]) if line not in asked]

    def regenerate(self, state: ViewState, blind: bool) -> Round:
        """Ask both models for other answers to the last message; sides are drawn again."""
        run = self._run(state)
        with self._lock:
            present = self._present_round(run.character, run.id)
            if present is None:
                raise UserError("There is nothing to answer yet.", "Write a message first.")
            self.asking.check_idle(present)
            return self._begin(run, present.message, present.turns, blind)

    def ask_grid(self, state: ViewState, picks: list[str], text: str) -> Round:
        """Put a line to the dense model and to several pruned ones, each without any history but the greeting."""
        message, character = message_of(text), state.character
        chosen = [run for run in finished(self.services, character) if run.id in picks]
        if not chosen:
            raise UserError("No pruned model is chosen.", "Tick at least one above.")
        if len(chosen) > MOST:
            raise UserError(f"A grid holds at most {MOST} pruned models.", "Untick some.")
        ordered = sorted((pruned_of(self.services, run) for run in chosen), key=lambda one: one.removed)
        dense = list({one.model: one for one in map(dense_of, chosen)}.values())
        with self._lock:
            self.asking.check_idle(next(iter(rounds.rounds(self.store, character, "grid", limit=1)), None))
            version = chosen[0].version
            sides = [*dense, *ordered]
            options = self.asking.options(character, version, sides)
            found = rounds.open_round(self.store, character, version, "grid", message, self._greeting(character, version),
                                      [(one.run, one.model) for one in sides], seed=_new_seed())
            values.set_value(self.store, _cleared_key(character, "", True), "")
            self.asking.ask_in_turn(found, options)
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
        with self._lock:
            if rounds.votes(self.store, found.id):
                raise UserError("You have voted on this round already.")
            rounds.vote(self.store, found.id, verdict)
            run = next((runs.get(self.store, one.run) for one in found.answers if one.run), None)
            if run and values.get_value(self.store, _series_key(run.id), False) and (left := self._unasked(run)):
                self._begin(run, left[0], self._greeting(run.character, run.version), True)

    def stop(self, state: ViewState) -> None:
        """End the answers under way."""
        shown = self.scene(state).shown
        self.asking.stop(shown.round if shown else None)

    def start_conversation(self, state: ViewState) -> None:
        """End the conversation and start another; its rounds and votes stay."""
        run = self._run(state)
        with self._lock:
            if present := self._present_round(run.character, run.id):
                self.asking.stop(present)
                values.set_value(self.store, _closed_key(run.id), present.id)
                values.set_value(self.store, _series_key(run.id), False)

    def clear(self, state: ViewState) -> None:
        """Take away rounds with their votes: those of a pair, or the grids of the character."""
        grid = state.is_grid
        with self._lock:
            shown = self.scene(state).shown
            self.asking.stop(shown.round if shown else None)
            token = rounds.clear(self.store, state.character, None if grid else state.run, "grid" if grid else "pair")
        if not token:
            raise UserError("There is nothing to clear.")
        values.set_value(self.store, _cleared_key(state.character, state.run, grid), token)

    def undo(self, state: ViewState) -> None:
        """Bring back what was cleared last."""
        key = _cleared_key(state.character, state.run, state.is_grid)
        rounds.undo(self.store, str(values.get_value(self.store, key, "")))
        values.set_value(self.store, key, "")

    def _begin(self, run: Run, message: str, turns: list[list[str]], blind: bool) -> Round:
        card_of(characters.version(self.store, run.character, run.version))  # before anything is written
        sides = [dense_of(run), pruned_of(self.services, run)]
        options = self.asking.options(run.character, run.version, sides)
        found = rounds.open_round(self.store, run.character, run.version, "pair", message, turns,
                                  [(one.run, one.model) for one in sides], seed=_new_seed(), blind=blind,
                                  swapped=blind and bool(secrets.randbelow(2)))
        values.set_value(self.store, _cleared_key(run.character, run.id, False), "")
        self.asking.ask_all(found, options)
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

    def _present_round(self, character: str, run_id: str) -> Round | None:
        """The newest round of a pair, unless a new conversation was started after it."""
        newest = next(iter(rounds.rounds(self.store, character, "pair", run_id, 1)), None)
        closed = values.get_value(self.store, _closed_key(run_id), "")
        return newest if newest and newest.id != closed else None

    def _shown(self, found: Round, known: list[Run]) -> Shown:
        """A round with what is under way. The replies are read first: an answer that ends now is in one of the two."""
        waits = {answer.id for answer in found.answers if self.asking.waits(answer)}
        replies = self.asking.replies(found)
        found = rounds.get(self.store, found.id) or found
        cells = [Cell(answer, self._contender(found, answer, known), reply, answer.id in waits)
                 for answer, reply in zip(found.answers, replies, strict=True)]
        return Shown(found, cells, rounds.votes(self.store, found.id))

    def _contender(self, found: Round, answer: Answer, known: list[Run]) -> Contender:
        """Which model gave an answer; a run that was removed since still has its name."""
        wanted = answer.run or next((other.run for other in found.answers if other.run), None)
        run = next((one for one in known if one.id == wanted), None) or (runs.get(self.store, wanted) if wanted else None)
        if run is None:
            return Contender(None, answer.model, DENSE, 0.0, 0)
        return pruned_of(self.services, run) if answer.run else dense_of(run)

    def _run(self, state: ViewState) -> Run:
        found = finished(self.services, state.character)
        if state.run and state.run not in [run.id for run in found]:
            raise UserError("This pruned model no longer exists.", "Choose another above.")
        if run := chosen_run(self.services, state.character, state.run, found):
            return run
        raise UserError("No pruned model is chosen.", "Make one in the Prune room.")

@functools.cache
def _held_out() -> list[str]:
    """Player lines that models are measured on and never learn from."""
    lines = (resource("assets") / "player_lines.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in (str(json.loads(one)["question"]) for one in lines) if split_of(line) == "test"]


@functools.lru_cache(maxsize=8)
def _figure(*votes: RunVotes) -> Ready:
    return figure(votes_figure(votes))


def _closed_key(run_id: str) -> str:
    """Where the last round of an ended conversation is kept."""
    return f"compare-closed:{run_id}"


def _series_key(run_id: str) -> str:
    """Where it is kept whether each vote on a run brings the next suggested question."""
    return f"compare-series:{run_id}"


def _cleared_key(character: str, run_id: str, grid: bool) -> str:
    """Where the token that brings cleared rounds back is kept."""
    return f"compare-cleared:{'grid:' + character if grid else run_id}"


def _new_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)

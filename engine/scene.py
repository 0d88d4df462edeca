"""Scenes: two or three characters and a narrator in one place. They speak in turn.

Every character gets the history from its own side (egocentric, as in SPASM): its lines are the assistant's turns, and what the
others and the narrator said in between is one user turn, each line after its speaker's name. The character that was addressed by
name speaks next, else the one that has been silent longest. The caller can add a line at any time, as player or as narrator.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from engine.base.cast_folder import CARD, is_cast, places
from engine.base.errors import UserError
from engine.base.evaluation_events import Spoken
from engine.base.events import Event, Finished, Stage, Step, Stream
from engine.base.files import data_folder, is_file, named_path
from engine.base.ids import StageId
from engine.base.job import SceneJob
from engine.base.sampling import SamplingParams, read_params
from engine.cards.card import Card, parse_card
from engine.cards.files import read_card
from engine.cards.macros import expand_macros
from engine.cards.prompt import PLAYER, Setting
from engine.cards.speaking import names_pattern, own_words
from engine.evaluation.acting import assess_scene
from engine.evidence.judging import call_judge
from engine.serving.interview import SILENCE, hear
from engine.serving.requests import Request
from engine.serving.speaking import speak
from engine.serving.steps import Loop
from engine.serving.voices import Voices

if TYPE_CHECKING:
    from engine.evaluation.judge import Judge

WORDS = "words.jsonl"
NARRATOR = ""  # the speaker of a line that nobody says
FEWEST, MOST = 2, 3  # characters
_LONGEST = 2000  # characters of a line that is put in


@dataclass(frozen=True)
class Actor:
    """A character of a scene. `model`: as the chat has it; the same for all, or each its own (a cast's places)."""

    card: Card
    model: str

    @property
    def name(self) -> str:
        """What the others call it."""
        return self.card.char


@dataclass
class Scene:
    """What was said so far: (speaker, text), in order; the speaker is a character's name, PLAYER, or NARRATOR.

    Raises UserError for a number of characters that is no scene, or two of one name.
    """

    actors: Sequence[Actor]
    said: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [one.name for one in self.actors]
        if not FEWEST <= len(names) <= MOST:
            raise UserError(f"A scene has {FEWEST} or {MOST} characters, not {len(names)}.", "Name them again.")
        if len({name.casefold() for name in names}) < len(names):
            raise UserError("Two characters of this scene have the same name.", "Give one of them another name or nickname.")

    def next_actor(self) -> Actor:
        """Who speaks next: the one whom the last line addresses by name, else the one who has been silent longest."""
        speaker, text = self.said[-1] if self.said else (NARRATOR, "")
        others = [one for one in self.actors if one.name != speaker]
        addressed = [one for one in others if re.search(rf"\b(?:{names_pattern(one.card.names)})\b", text, re.IGNORECASE)]
        if len(addressed) == 1 and speaker != NARRATOR:
            return addressed[0]
        last = {one.name: max((place for place, (who, _) in enumerate(self.said) if who == one.name), default=-1) for one in others}
        return min(others, key=lambda one: last[one.name])

    def turns_of(self, actor: Actor) -> list[tuple[str, str]]:
        """The scene as turns of a chat with an actor, the last one the user's."""
        turns: list[tuple[str, str]] = []
        for speaker, text in self.said:
            if speaker == actor.name:
                turns.append(("assistant", text or SILENCE))
                continue
            line = f"*{text}*" if speaker == NARRATOR else f"{speaker}: {text or SILENCE}"
            if turns and turns[-1][0] == "user":
                turns[-1] = ("user", f"{turns[-1][1]}\n{line}")
            else:
                turns.append(("user", line))
        return turns if turns and turns[-1][0] == "user" else [*turns, ("user", SILENCE)]

    def setting_of(self, actor: Actor) -> Setting:
        """Whom an actor speaks with, and where."""
        others = [one.name for one in self.actors if one is not actor]
        return Setting(user=others[0] if len(others) == 1 else " and ".join(others),
                       scene=f"{actor.name} is with {' and '.join(others)}. {actor.name} speaks only for {actor.name}, briefly.")


def find_actors(names: Sequence[str], model: str) -> list[Actor]:
    """The characters that are named: cards spoken for by `model`; folders of runs, casts, or a cast's characters by their own.

    Raises UserError for what is none of these.
    """
    actors = []
    for name in names:
        folder = named_path(name)
        for own in [place.own for place in places(folder)] if is_cast(folder) else [folder]:
            if is_file(own / CARD):
                actors.append(Actor(parse_card((own / CARD).read_bytes(), str(own / CARD)), str(own)))
            else:
                actors.append(Actor(read_card(name), model))
    return actors


def opening_of(actors: Sequence[Actor]) -> str:
    """What a narrator could begin with: the first character's scenario, and who is there."""
    first, names = actors[0], [one.name for one in actors]
    scenario = expand_macros(first.card.scenario, first.card, names[1]).strip()
    there = f"{', '.join(names[:-1])} and {names[-1]} are here."
    return f"{scenario} {there}".strip()


def perform(job: SceneJob) -> Iterator[Event]:
    """The scene of a job: played, and then graded where the job names a judge that passes its exam. Raises UserError.

    While it is played, lines can be put in by the file WORDS in the work folder: a JSON list of speaker and text a line.
    """
    began = time.monotonic()
    said = [(one[0], one[1]) for one in job.said if len(one) == 2] or ([(NARRATOR, job.narrator)] if job.narrator else [])
    scene = Scene(find_actors(job.characters, job.model), said)
    folder = Path(job.workdir) if job.workdir else data_folder() / "scenes"
    yield from play(scene, job.turns, read_params(job.sampling), job.type, _inbox(folder / WORDS) if job.workdir else tuple)
    with ExitStack() as stack:
        bench = yield from call_judge(job.judge, job.judge_model, folder, stack)
        words = bench.words or (bench.refusal if job.judge else "")
        yield from assess_scene([one.card for one in scene.actors], scene.said, cast("Judge | None", bench.judge), words)
    yield Finished("", time.monotonic() - began)


def _inbox(file: Path) -> Callable[[], list[tuple[str, str]]]:
    """Whole lines that were written into a file since the last call; lines of anyone but player and narrator are ignored."""
    read = 0

    def look() -> list[tuple[str, str]]:
        nonlocal read
        text = file.read_text(encoding="utf-8") if is_file(file) else ""
        new, read = text[read:text.rfind("\n") + 1], max(read, text.rfind("\n") + 1)
        found = []
        for line in new.splitlines():
            with suppress(ValueError, TypeError):
                speaker, said = json.loads(line)
                if speaker in (PLAYER, NARRATOR) and isinstance(said, str) and said.strip():
                    found.append((speaker, said.strip()[:_LONGEST]))
        return found

    return look


def play(scene: Scene, turns: int, sampling: SamplingParams, type: str = "",
         heard: Callable[[], Sequence[tuple[str, str]]] = tuple) -> Iterator[Event]:
    """Spoken for what is there already (turn 0), then for each of `turns` turns, and for what `heard` gives before each.

    The same scene, seed and files give the same words. The history grows in `scene.said`: a caller may put a line in between two
    events. Raises UserError. Closing the generator stops it.
    """
    if not scene.said:
        scene.said.append((NARRATOR, opening_of(scene.actors)))
    yield from [Spoken(speaker, text, 0) for speaker, text in scene.said]
    yield Stage(StageId.SCENE, turns)
    models = {one.model for one in scene.actors}
    voices, loop = Voices(keep=len(models), slots=len(scene.actors)), Loop()
    try:
        for turn in range(1, turns + 1):
            yield from _put_in(scene, heard(), turn)
            actor = scene.next_actor()
            text, reason = yield from _speak(scene, actor, replace(sampling, seed=(sampling.seed or 0) + turn), type, voices, loop,
                                             turn, turns)
            scene.said.append((actor.name, text))
            yield Spoken(actor.name, text, turn, reason)
            yield Step(StageId.SCENE, turn, turns)
        yield from _put_in(scene, heard(), turns)
    finally:
        voices.close()
        loop.close()


def _put_in(scene: Scene, heard: Sequence[tuple[str, str]], turn: int) -> Iterator[Event]:
    for speaker, text in heard:
        scene.said.append((speaker, text))
        yield Spoken(speaker, text, turn)


def _speak(scene: Scene, actor: Actor, sampling: SamplingParams, type: str, voices: Voices, loop: Loop, turn: int,
           turns: int) -> Stream[tuple[str, str]]:
    """What an actor says next, and why it ended. Steps in between let the caller stop it."""
    request = Request("speak", turn, actor.model, actor.card, tuple(scene.turns_of(actor)), scene.setting_of(actor),
                      sampling=sampling, type=type)
    loading: list[dict[str, Any]] = []
    beat = Step(StageId.SCENE, turn - 1, turns, subject=actor.model)
    ended = yield from hear(loop, speak(request, voices, loading.append), loading, beat)
    others = [name for one in scene.actors if one is not actor for name in one.card.names]
    return own_words(ended["text"], actor.card.names, [*others, PLAYER]), ended["reason"]

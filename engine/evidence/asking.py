"""Every speaker is asked every item with every seed, once for all measures; the answers are kept as they come.

In the work folder, answers.jsonl has a line for each answer, so that a job that ended early, by kill -9 too, loses at most one. An
answer is kept under all that it follows from: the model's files, the card as the model reads it, the file type, the sampling, the
seed and what the player said so far. Whatever of this is another is asked again, and nothing is mixed up.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.base.errors import UserError
from engine.base.events import Replied, Stage, Step, Stream, Untested
from engine.base.files import explain_write_errors
from engine.base.ids import StageId
from engine.base.sampling import DEFAULTS, SamplingParams
from engine.calibration.lines import Journal
from engine.cards.baked import as_model_has_it
from engine.cards.fields import data_of
from engine.cards.prompt import messages
from engine.evaluation.measure import Item, Reply, Speaker
from engine.serving.files import cache_folder, character_of, folder_of
from engine.serving.interview import Interview, Said, shared_type

ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class _Asked:
    """An item with a seed, and the keys of the answers to its lines."""

    item: Item
    seed: int
    keys: tuple[str, ...]


class Answers:
    """The answers that were given before, by their keys, and the file that keeps them."""

    def __init__(self, file: Path) -> None:
        with explain_write_errors(file, "run the same command again"):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(file)
        self._known = {one["key"]: (str(one["answer"]), str(one["reason"])) for one in self._journal.records
                       if {"key", "answer", "reason"} <= one.keys()}
        self._journal.records.clear()

    def of(self, keys: Iterable[str]) -> list[Said]:
        """The answers under these keys, up to the first that is missing."""
        found = []
        for key in keys:
            if key not in self._known:
                break
            found.append(self._known[key])
        return found

    def add(self, keys: Sequence[str], number: int, said: Said) -> None:
        """Keep an answer under the key of this number; it is on the disk when this returns."""
        key = keys[number]
        with explain_write_errors(self._journal.path, "run the same command again"):
            self._journal.add({"key": key, "answer": said[0], "reason": said[1]})
        self._journal.records.clear()
        self._known[key] = said


def ask_all(speakers: Sequence[Speaker], items: Sequence[Item], seeds: Sequence[int], folder: Path,
            sampling: SamplingParams = DEFAULTS, type: str = "") -> Stream[dict[str, list[Reply]]]:
    """The replies of every speaker by its id, items in order, with each of the seeds. Replied for each that is new.

    `folder` keeps the answers. `type`: of all GGUF files; "": Q8_0 where all models can have it. A speaker whose model cannot be
    used is Untested and not among the results. Closing the generator stops it within a second; the same call goes on.
    """
    type = type or shared_type([one.model for one in speakers])
    answers, found = Answers(folder / ANSWERS), dict[str, list[Reply]]()
    for speaker in speakers:
        try:
            found[speaker.id] = yield from _ask(speaker, items, seeds, answers, replace(sampling, seed=0), type)
        except UserError as error:
            yield Untested(speaker.name, str(error))
    return found


def _ask(speaker: Speaker, items: Sequence[Item], seeds: Sequence[int], answers: Answers, sampling: SamplingParams,
         type: str) -> Stream[list[Reply]]:
    identity = identify(speaker, sampling, type)
    asked = [_Asked(item, seed, tuple(_keys(identity, seed, item.lines))) for seed in seeds for item in items]
    new = sum(len(one.keys) - len(answers.of(one.keys)) for one in asked)
    yield Stage(StageId.INTERVIEW, new, reused=not new, subject=speaker.name)
    replies, done = [], 0
    with Interview(speaker.model, speaker.card, sampling, type) as interview:
        for one in asked:
            said = known = answers.of(one.keys)
            if len(known) < len(one.keys):
                keep = functools.partial(answers.add, one.keys)
                said = yield from interview.ask(one.item.lines, Step(StageId.INTERVIEW, done, new, subject=speaker.name), one.seed,
                                                known, keep)
            texts, reasons = (tuple(part) for part in zip(*said, strict=True))
            reply = Reply(speaker.id, one.item, one.seed, one.item.lines, texts, reasons)
            replies.append(reply)
            if len(known) < len(said):
                done += len(said) - len(known)
                yield Replied(speaker.id, one.item.id, one.item.kind, one.seed, list(reply.lines), list(texts), list(reasons))
                yield Step(StageId.INTERVIEW, done, new, subject=speaker.name)
    return replies


def identify(speaker: Speaker, sampling: SamplingParams, type: str) -> str:
    """A digest of what all answers of a speaker follow from. Raises UserError where there is no such model.

    Of the card it has what the model reads, so that notes of the writer, or another test script, leave answers as they are.
    """
    card = as_model_has_it(speaker.card, speaker.model)
    folder, place = folder_of(speaker.model), character_of(speaker.model)
    files = cache_folder(folder) if folder else None  # None: not here yet, so it comes as its name says
    return _digest(files.name if files else str(folder or speaker.model), place.id if place else "", type,
                   json.dumps(replace(sampling, seed=None).as_dict(), sort_keys=True),
                   json.dumps(messages(card, [("user", "?")])), json.dumps(data_of(card.raw).get("character_book"), sort_keys=True))


def _keys(identity: str, seed: int, lines: Sequence[str]) -> Iterable[str]:
    """A key for the answer to each line: a longer conversation that begins with the same lines goes on from the shorter one."""
    key = _digest(identity, str(seed))
    for line in lines:
        key = _digest(key, line)
        yield key


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:24]

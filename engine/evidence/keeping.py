"""What was answered before: answers.jsonl in the work folder has a line for each answer, and for each line of a played player.

A job that ended early, by kill -9 too, loses at most one. Each is kept under all that it follows from: the model's files, the card
as the model reads it, the file type, the sampling, the seed and what was said so far. Whatever of this is another is asked again,
and nothing is mixed up.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from engine.base.files import explain_write_errors
from engine.base.sampling import SamplingParams
from engine.calibration.lines import Journal
from engine.cards.baked import as_model_has_it
from engine.cards.fields import data_of
from engine.cards.prompt import messages
from engine.evaluation.measure import Speaker
from engine.serving.files import cache_folder, character_of, folder_of
from engine.serving.interview import Said


class Answers:
    """The answers that were given before, by their keys, and the file that keeps them."""

    def __init__(self, file: Path) -> None:
        with explain_write_errors(file, "run the same command again"):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(file)
        self._known = {one["key"]: (str(one["answer"]), str(one["reason"])) for one in self._journal.records
                       if {"key", "answer", "reason"} <= one.keys()}
        self._journal.records.clear()

    def of(self, key: str) -> Said | None:
        """The answer under a key; None before it was given."""
        return self._known.get(key)

    def add(self, key: str, said: Said) -> None:
        """Keep an answer; it is on the disk when this returns."""
        with explain_write_errors(self._journal.path, "run the same command again"):
            self._journal.add({"key": key, "answer": said[0], "reason": said[1]})
        self._journal.records.clear()
        self._known[key] = said


def identify(speaker: Speaker, sampling: SamplingParams, type: str) -> str:
    """A digest of what all answers of a speaker follow from. Raises UserError where there is no such model.

    Of the card it has what the model reads, so that notes of the writer, or another test script, leave answers as they are.
    """
    card = as_model_has_it(speaker.card, speaker.model)
    folder, place = folder_of(speaker.model), character_of(speaker.model)
    files = cache_folder(folder) if folder else None  # None: not here yet, so it comes as its name says
    return digest(files.name if files else str(folder or speaker.model), place.id if place else "", type,
                   json.dumps(replace(sampling, seed=None).as_dict(), sort_keys=True),
                   json.dumps(messages(card, [("user", "?")])), json.dumps(data_of(card.raw).get("character_book"), sort_keys=True))


def digest(*parts: str) -> str:
    """A key of texts."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:24]

"""Every measure on every speaker's replies; what was measured before is kept in the work folder.

A score is kept under all that it follows from: the measure and its code, the card that is judged, the replies, the other
characters, and who read or judged them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from engine.base.errors import UserError
from engine.base.events import Stage, Stream, Warned
from engine.base.evidence import DENSE
from engine.base.files import PACKAGES, explain_write_errors
from engine.base.ids import StageId
from engine.base.verdict import Key
from engine.calibration.lines import Journal
from engine.cards.card import Card
from engine.evaluation.measure import Evidence, Measure, Need, Reply, Sample
from engine.evaluation.proof import doubt
from engine.evidence.judging import Bench
from engine.evidence.speakers import Candidate, readers_of

if TYPE_CHECKING:
    from engine.evaluation.judge import Judge

SCORES = "scores.jsonl"


@dataclass(frozen=True)
class Scored:
    """What a measure says of a speaker. `why`: for samples without a value; `note`: why there are none at all."""

    measure: Measure
    speaker: str
    values: Mapping[Key, float | None] = field(default_factory=dict)
    why: Mapping[Key, str] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def of(cls, measure: Measure, speaker: str, samples: Sequence[Sample]) -> "Scored":
        """The samples by item and seed."""
        return cls(measure, speaker, {(one.item, one.seed): one.value for one in samples},
                   {(one.item, one.seed): one.why for one in samples if one.value is None})


class Scoring:
    """The measures of one evaluation."""

    def __init__(self, card: Card, others: Mapping[str, Card], candidates: Sequence[Candidate],
                 replies: Mapping[str, Sequence[Reply]], folder: Path, bench: Bench, quick: bool) -> None:
        self.card, self.others, self.candidates, self.replies = card, others, candidates, replies
        self.bench, self.quick = bench, quick
        self._readers = readers_of(candidates)
        self._file = folder / SCORES
        with explain_write_errors(self._file, "run the same command again"):
            self._journal = Journal(self._file)
        self._known: dict[str, Any] = {one["key"]: one["samples"] for one in self._journal.records
                                       if {"key", "samples"} <= one.keys()}

    def close(self) -> None:
        """Give the memory of the readers back."""
        for one in self._readers.values():
            one.close()

    def score(self, measures: Sequence[Measure]) -> Stream[list[Scored]]:
        """Every measure on every speaker, the measures in order. One that fails says so, and the others go on.

        Measures of the speakers' own models come last, one model at a time.
        """
        found: dict[tuple[str, str], Scored] = {}
        late = [one for one in measures if Need.MODEL in one.needs]
        for measure in measures:
            if measure not in late:
                yield from self._stage(measure, self.candidates, found)
        for candidate in self.candidates if late else ():
            for measure in late:
                yield from self._stage(measure, [candidate], found)
            if reader := self._readers.get(candidate.speaker.id):
                reader.close()
        return [found[measure.name, one.speaker.id] for measure in measures for one in self.candidates]

    def _stage(self, measure: Measure, candidates: Sequence[Candidate], found: dict[tuple[str, str], Scored]) -> Stream[None]:
        keys = {one.speaker.id: self._key(measure, one) for one in candidates}
        reused = all(key in self._known for key in keys.values())
        yield Stage(StageId.ASSESS, len(candidates), reused=reused, subject=measure.label)
        for one in candidates:
            found[measure.name, one.speaker.id] = yield from self._score(measure, one, keys[one.speaker.id])

    def _score(self, measure: Measure, candidate: Candidate, key: str) -> Stream[Scored]:
        id = candidate.speaker.id
        if words := doubt(measure.name, self.candidates[0].speaker.model):
            return Scored(measure, id, note=words)
        if key in self._known:
            return Scored.of(measure, id, [Sample(**one) for one in self._known[key]])
        if Need.JUDGE in measure.needs and self.bench.judge is None:
            return Scored(measure, id, note=self.bench.refusal)
        reader = self._readers.get(id if Need.MODEL in measure.needs else DENSE)
        if reader is None and measure.needs & {Need.MODEL, Need.READER}:
            return Scored(measure, id, note="not measured: its weights cannot be read here")
        evidence = Evidence(self.card, candidate.speaker, self._replies_of(measure, id), self.others,
                            cast("Judge | None", self.bench.judge), reader, self.quick)
        try:
            samples = yield from measure.score(evidence)
        except UserError as error:
            yield Warned(f"{measure.label}: {error}")
            return Scored(measure, id, note=f"not measured: {error.sentence}")
        self._known[key] = [asdict(one) for one in samples]
        with explain_write_errors(self._file, "run the same command again"):
            self._journal.add({"key": key, "samples": self._known[key]})
        return Scored.of(measure, id, samples)

    def _replies_of(self, measure: Measure, id: str) -> list[Reply]:
        return [one for one in self.replies[id] if one.item.kind in measure.kinds]

    def _key(self, measure: Measure, candidate: Candidate) -> str:
        """A digest of what a score follows from."""
        parts = [measure.name, _code(), str(self.quick), _card_text(self.card), *map(_card_text, self.others.values())]
        if Need.JUDGE in measure.needs and self.bench.judge:
            parts.append(self.bench.judge.identity)
        if Need.READER in measure.needs:
            parts += _identity(self.candidates[0])
        if Need.MODEL in measure.needs:
            parts += _identity(candidate)
        for one in self._replies_of(measure, candidate.speaker.id):
            parts += [one.item.id, str(one.seed), *one.lines, *one.answers, *one.reasons]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:24]


@cache
def _code() -> str:
    """A digest of the code that measures: what it is after a change may say something else of the same answers."""
    folders = [PACKAGES / "engine" / name for name in ("base", "cards", "evaluation")]
    found = hashlib.sha256()
    for file in sorted(file for folder in folders for file in folder.rglob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()


def _card_text(card: Card) -> str:
    return json.dumps(card.raw, sort_keys=True)


def _identity(candidate: Candidate) -> Iterator[str]:
    """The files of a model's weights."""
    for file in sorted(candidate.source.folder.glob("*.safetensors")) if candidate.source else ():
        status = file.stat()
        yield f"{file} {status.st_size} {status.st_mtime_ns}"

"""Who is asked: the dense model first, then its runs, or any other models to compare."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.base.errors import UserError
from engine.base.events import Event, Stream, Warned
from engine.base.evidence import DENSE, Voiced
from engine.base.files import is_file, named_path
from engine.base.job import EvaluateJob
from engine.cards.baked import unbake
from engine.cards.card import Card
from engine.cards.prompt import messages
from engine.evaluation.measure import Speaker
from engine.evaluation.reader import Reader
from engine.frontier.subjects import Finished, Subject, finished, locate_dense, read_runs, subjects_of
from engine.models.loading import ModelSource, locate
from engine.serving.files import character_of, gguf_file


@dataclass(frozen=True)
class Candidate:
    """A speaker with what the result says of it. `source`: its folder, for measures that read it; None for one of a cast."""

    speaker: Speaker
    sparsity: float
    source: ModelSource | None

    def voiced(self, type: str) -> Voiced:
        """As the result has it; `type`: of the GGUF file that spoke."""
        file = gguf_file(self.speaker.model, type)
        return Voiced(id=self.speaker.id, name=self.speaker.name, model=self.speaker.model, sparsity=self.sparsity,
                      bytes=file.stat().st_size if file else 0, type=type)


def find_candidates(job: EvaluateJob, card: Card) -> Stream[list[Candidate]]:
    """The dense model and what is compared with it; a model called "dense" among the job's is the former.

    Raises UserError where a run is another character's, or of another dense model, or nothing is there to compare.
    """
    card = unbake(card)
    runs = [name for name in job.models if _is_run(name)]
    others = [name for name in dict.fromkeys(job.models) if name not in (*runs, DENSE, job.dense)]
    found: list[Candidate] = []
    if runs or not others:
        folders, works = finished(runs or [job.card])
        made = read_runs(folders)
        yield from _check(made, card)
        dense = yield from locate_dense(made, works, job.dense)
        subjects = yield from subjects_of(made)
        found = [_candidate(dense, card, DENSE), *(_candidate(one, card) for one in subjects)]
    for name in others if found or not job.dense else [job.dense, *others]:
        source = None if character_of(name) else (yield from locate(name))
        found.append(Candidate(Speaker(name if found else DENSE, name, name, card), 0.0, source))
    if len(found) == 1:
        raise UserError(f"There is nothing to compare with {found[0].speaker.name}.", "Name a run, or another model, with --model.")
    return found


def _candidate(subject: Subject, card: Card, id: str = "") -> Candidate:
    return Candidate(Speaker(id or subject.name, subject.name, subject.id, card), subject.sparsity, subject.source)


def _is_run(name: str) -> bool:
    place = named_path(name)
    return is_file(place / "job.json") or (is_file(place / "character.json") and is_file(place / "report.json"))


def _check(made: Sequence[Finished], card: Card) -> Iterator[Event]:
    for one in made:
        if one.card.name != card.name:
            raise UserError(f"{one.folder} is a model of {one.card.name}, not of {card.name}.", "Name runs of the same character.")
        if messages(unbake(one.card), []) != messages(card, []):
            yield Warned(f"{one.folder} was made for another version of the card; all models are asked with the one given here.")


def readers_of(candidates: Sequence[Candidate]) -> dict[str, Reader]:
    """The torch readers by the speakers' ids; each is loaded when it is first used."""
    return {one.speaker.id: Reader(one.source) for one in candidates if one.source}

"""The verb `frontier`: every model of a character at every type, how close, how large and how fast; and the export of one of them.

Everything is kept in the work folder as it is measured, and a job goes on where it stopped.
"""

import shutil
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

from engine.base.events import Event, Finished, Saved, Started
from engine.base.files import check_target, data_folder, explain_write_errors, is_file, slug, staged_folder, write_json
from engine.base.frontier import DENSE_MATRIX, RESULT, Budget, pick
from engine.base.ids import ArtifactId, StageId
from engine.base.job import ExportJob, FrontierJob
from engine.base.pruning_events import Placed
from engine.base.sizes import FILE_TYPES, WRITTEN, odd_rows
from engine.base.weights import known_shapes
from engine.export.copying import copy_folder
from engine.export.folder import GGUF
from engine.export.gguf_proof import prove_files
from engine.export.gguf_tensors import has_quantizer, parse_types
from engine.export.gguf_writer import write_gguf
from engine.export.importance_matrix import MATRIX
from engine.frontier.book import Book
from engine.frontier.reading import read_all
from engine.frontier.subjects import Field, Subject, find
from engine.frontier.timing import time_all


def measure(job: FrontierJob) -> Iterator[Event]:
    """Placed for every model and type; then, where the job has a budget or a target, what is picked is exported.

    Raises UserError. Closing the generator stops it; the same job goes on.
    """
    start = time.perf_counter()
    if job.out:
        check_target(Path(job.out))
    field = yield from find(job.runs, job.model, job.lines)
    field = replace(field, runs=[]) if job.dense else field
    folder = Path(job.workdir) if job.workdir else default_folder(field)
    subjects = [field.dense, *field.runs]
    yield Started(field.dense.card.name, field.dense.source.name, 0.0,
                  [*((StageId.SHIP_READ, one.name) for one in subjects), *([(StageId.SHIP_SPEED, "")] if job.rounds else [])])
    with explain_write_errors(folder, "try again"):
        folder.mkdir(parents=True, exist_ok=True)
        book = Book(folder / RESULT)
        ladders = {one.name: _types(one, job) for one in subjects}
        points = yield from read_all(field, ladders, folder, book)
        if job.rounds:
            points = yield from time_all(field, points, folder, job.rounds, book)
        book.finish(points)
    yield from points
    out = ""
    if job.out:
        chosen = pick(points, Budget(job.size, job.memory, job.speed, job.first))
        yield from _export(field, chosen, Path(job.out), folder)
        out = job.out
    yield Finished(out, time.perf_counter() - start)


def default_folder(field: Field) -> Path:
    """frontier/CHARACTER-MODEL in the data folder."""
    return data_folder() / "frontier" / f"{slug(field.dense.card.char)}-{slug(Path(field.dense.source.name).name)}"


def _types(subject: Subject, job: FrontierJob) -> list[str]:
    """The types that a model is measured at: those asked for, or 16 and 8 bit and all below that its rows allow."""
    shapes = known_shapes(subject.source.folder)
    if job.types:
        return parse_types(job.types)
    usual = ["F16", *(name for name in WRITTEN if name == "Q8_0" or FILE_TYPES[name].takes_matrix)]
    fitting = [name for name in usual if name in subject.originals or not odd_rows(shapes, name)]
    known = [name for name in fitting if has_quantizer() or not FILE_TYPES[name].takes_matrix]
    has_matrix = not subject.sparsity or is_file(subject.source.folder / MATRIX)
    return [name for name in known if has_matrix or not FILE_TYPES[name].needs_matrix]


def _export(field: Field, chosen: Placed, out: Path, folder: Path) -> Generator[Event, None, None]:
    """A run as a checked copy with its file; the dense model as its file, proven, with the card: what `serve` and `chat` need."""
    subject = next(one for one in (field.dense, *field.runs) if one.id == chosen.model)
    if subject is not field.dense:
        for event in copy_folder(ExportJob(source=str(subject.source.folder), out=str(out), gguf=[chosen.type])):
            if not isinstance(event, Started | Finished):
                yield event
        return
    name = f"{GGUF}/{slug(subject.card.char)}-{chosen.type}.gguf"
    with staged_folder(out) as staging:
        file = staging / name
        file.parent.mkdir()
        if original := subject.original(chosen.type):
            shutil.copyfile(original, file)
        else:
            yield from write_gguf(subject.source.folder, file, chosen.type, matrix=folder / DENSE_MATRIX)
        write_json(staging / "character.json", subject.card.raw)
        yield from prove_files(subject.source.folder, {chosen.type: file})
    yield Saved(ArtifactId.GGUF, str(out / name), (out / name).stat().st_size, chosen.type)

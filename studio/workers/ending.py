"""What happens when a worker has ended: how it ended, in a sentence, and what of its files goes into the library.

Everything here may be done twice: the studio may die in the middle and do it again at its next start.
"""

import dataclasses
import json
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy
from pydantic import Field, TypeAdapter
from safetensors import SafetensorError, safe_open
from typing_extensions import TypedDict

from engine.base import event_file, migrate
from engine.base.errors import UserError
from engine.base.events import Event, Failed, Finished, Saved, Stopped
from engine.base.files import folder_size, read_json
from engine.base.ids import ArtifactId
from engine.base.pruning_events import Lines, Proved, ProvedFile, Timed
from engine.base.questions import read_records
from studio import labels
from studio.settings import Settings
from studio.store import lines, runs
from studio.store.database import Store
from studio.store.runs import Run
from studio.workers import process
from studio.workers.commands import is_complete, result_folder
from studio.workers.watch import Tail

log = logging.getLogger(__name__)
Cause = Literal["", "asked", "killed", "overdue", "left", "closed"]
CLOSED = "The studio was closed while this ran. Press Resume to go on."
ASKED = "Stopped. Press Resume to go on."
KILLED = "Ended at once, as you asked. Press Resume to go on from the last step that was saved."
OVERDUE = ("It did not stop when asked, so it was ended after {seconds:.0f} seconds. "
           "Press Resume to go on from the last step that was saved.")
OUT_OF_MEMORY = "This run ended because memory ran out. Close other programs or choose a smaller model, then press Resume."
BY_SYSTEM = ("Something outside the studio ended this run. Often that is the system, when memory runs out: then close other "
             "programs or choose a smaller model. Press Resume to go on from the last step that was saved.")
CRASHED = "The run was ended from outside or crashed ({signal}). Press Resume to go on from the last step that was saved."
NO_RESULT = "The run ended without a result. The details are in {log}."
MOST_BYTES = 64_000_000  # of a set of lines
REPORTED = ("character", "base", "recipe", "lines", "readings", "choices", "before", "after", "stages", "dtype", "weights",
            "machine", "proof", "made")


class _Line(TypedDict):
    question: Annotated[str, Field(pattern=r"\S")]
    answer: Annotated[str, Field(pattern=r"\S")]


_RECORDS = TypeAdapter(Annotated[list[_Line], Field(min_length=1)])
_REJECTED = TypeAdapter(dict[str, int])


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a worker ended. `cause`: what the studio did about it; `code`: its exit code, None when it is not our child.

    `offset`, `log_offset`: the sizes of the files of events and of its log, in bytes, when it was started.
    """

    cause: Cause = ""
    code: int | None = None
    offset: int = 0
    log_offset: int = 0


def settle(settings: Settings, store: Store, run: Run, ending: Ending) -> Run:
    """Bring the library up to date with a run whose worker is gone. Raises UserError when the library is busy or full."""
    last = last_word(settings.run_events(run.id), ending.offset)
    state, sentence = judge(settings, run, ending, last)
    if not isinstance(last, Finished | Failed | Stopped):
        _append(settings.run_events(run.id), state, sentence)
    history = Tail(settings.run_events(run.id)).read_new()
    runs.set_events(store, run.id, [json.loads(event_file.encode(event)) for event in history])
    changes: dict[str, Any] = {"summary": run.summary}
    try:
        changes |= _harvest(settings, store, run, state, history)
    except (AttributeError, OSError, ValueError, KeyError, TypeError, SafetensorError):
        log.exception("run %s: its files cannot be read", run.id)
        if state == "done":
            state, sentence = "failed", "The run's files are damaged or missing, so its result cannot be used."
    return runs.update(store, run.id, state=state, sentence=sentence, ended=history[-1].time if history else run.begun,
                       pid=None, process_started=None, **changes)


def last_word(path: Path, offset: int = 0) -> Event | None:
    """The last event after `offset` bytes."""
    found = Tail(path, offset).read_new()
    return found[-1] if found else None


def judge(settings: Settings, run: Run, ending: Ending, last: Event | None) -> tuple[str, str]:
    """The state in which a run has ended, and the sentence for the user ("" when it is done)."""
    if isinstance(last, Finished) or is_complete(settings, run):
        return "done", ""
    by_us = {"asked": ASKED, "left": CLOSED, "closed": CLOSED, "killed": KILLED,
             "overdue": OVERDUE.format(seconds=settings.grace_seconds)}.get(ending.cause)
    if isinstance(last, Failed):
        return "failed", labels.error(last.sentence, last.hint, last.code)
    if by_us:
        return "stopped", by_us
    if isinstance(last, Stopped):
        return "stopped", ASKED
    log_file = settings.run_folder(run.id) / "log.txt"
    if ending.code is not None and ending.code < 0:
        if process.ran_out_of_memory(log_file, ending.log_offset):
            return "failed", OUT_OF_MEMORY
        if ending.code == -signal.SIGKILL:
            return "failed", BY_SYSTEM
        return "failed", CRASHED.format(signal=signal.strsignal(-ending.code) or f"signal {-ending.code}")
    return "failed", NO_RESULT.format(log=log_file)


def _append(path: Path, state: str, sentence: str) -> None:
    """Write the last event of a worker that could not, so that readers of the events see how it ended."""
    event = Finished("", 0.0) if state == "done" else Stopped(sentence) if state == "stopped" else Failed(sentence)
    try:
        if path.parent.is_dir():
            event_file.append(path, event)
    except OSError:
        log.exception("%s cannot be written", path)


def _harvest(settings: Settings, store: Store, run: Run, state: str, history: Sequence[Event]) -> dict[str, Any]:
    """Put what the run has made so far into the library; the run's fields that change by it."""
    work = settings.run_folder(run.id) / "work"
    if run.kind == "lines" and (work / "lines.jsonl").exists():
        return {"line_set": import_lines(store, run, work), "summary": _summary_of_lines(history)}
    if run.kind == "prune" and (work / "mask.safetensors").exists():
        keep_mask(store, run.id, work / "mask.safetensors")
    if state != "done":
        return {}
    result = result_folder(settings, run)
    if result is None:
        raise ValueError(run.fault or "the run has made no folder")
    if run.kind == "export":
        return _keep_export(store, run, history)
    report = migrate.report(_read(result / "report.json"))
    seconds = sum(stage["seconds"] for stage in report["stages"].values())
    return {"out": str(result), "summary": {**{name: report[name] for name in REPORTED if name in report}, "seconds": seconds,
                                            "bytes": folder_size(result)}}


def import_lines(store: Store, run: Run, work: Path) -> str:
    """Make the run's lines a set of the library, once; the set's id. Raises ValueError and OSError for damaged files."""
    if known := lines.made_by(store, run.id):
        return known.id
    try:
        records = read_records(work / "lines.jsonl", MOST_BYTES)
        rejected = read_json(work / "rejected.json") if (work / "rejected.json").exists() else {}
    except UserError as error:  # unlike a library that is busy, it gets no better by waiting
        raise ValueError(str(error)) from error
    _RECORDS.validate_python(records, strict=True)
    _REJECTED.validate_python(rejected, strict=True)
    return lines.add_set(store, run.character, run.version, records, rejected, run=run.id, name=run.name).id


def _read(path: Path) -> Any:
    """A worker's JSON. Raises ValueError when it is damaged."""
    try:
        return read_json(path)
    except UserError as error:
        raise ValueError(str(error)) from error


def _summary_of_lines(history: Sequence[Event]) -> dict[str, Any]:
    counts = [event for event in history if isinstance(event, Lines)]
    if not counts:
        return {}
    return {name: getattr(counts[-1], name) for name in ("train", "validation", "test", "rejected")}


def keep_mask(store: Store, run_id: str, path: Path) -> None:
    """Keep the mask of a safetensors file, uint8 (layers, channels), one bit a channel."""
    with safe_open(path, framework="numpy") as file:
        mask = file.get_tensor("mask")
    runs.set_mask(store, run_id, numpy.packbits(mask != 0, axis=1).tobytes(), *mask.shape)


def _keep_export(store: Store, run: Run, history: Sequence[Event]) -> dict[str, Any]:
    folder = Path(run.spec["folder"])
    packed = folder.with_name(f"{folder.name}.zip")
    packed_bytes = packed.stat().st_size if packed.exists() else 0
    proofs = [event for event in history if isinstance(event, Proved)]
    proof = _plain(proofs[-1]) if proofs else {}
    proof |= {"files": _files(history), "timed": [_plain(one) for one in history if isinstance(one, Timed)],
              "engines": run.spec.get("engines", [])}
    size = folder_size(folder)
    known = runs.list_exports(store, run=run.spec["run"]) + runs.list_exports(store, run=run.spec["run"], deleted=True)
    if not any(one.folder == str(folder) for one in known):
        runs.add_export(store, run.spec["run"], run.name, str(folder), size, proof, str(packed) if packed_bytes else "",
                        packed_bytes)
    return {"out": str(folder), "summary": {"bytes": size, "zip_bytes": packed_bytes, "proof": proof}}


def _files(history: Sequence[Event]) -> list[dict[str, Any]]:
    """What was proven of each GGUF file, with its name and its bytes."""
    sizes = {one.subject: one for one in history if isinstance(one, Saved) and one.what == ArtifactId.GGUF}
    return [{**_plain(one), "file": Path(sizes[one.type].path).name, "bytes": sizes[one.type].bytes}
            for one in history if isinstance(one, ProvedFile) and one.type in sizes]


def _plain(event: Event) -> dict[str, Any]:
    """An event's fields without its time."""
    return {name: value for name, value in vars(event).items() if name != "time"}

"""Runs (long jobs waiting, under way and ended, with what is left of them when their files are gone) and exports."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy
from pydantic import Field, Json
from sqlite_utils import Database

from engine.base.errors import UserError
from studio.store.database import Store
from studio.store.records import Number, Table, exists, need, now, parts, rows, scalar, stored, to_json, whole

STATES = ("queued", "starting", "running", "stopping", "stopped", "failed", "done")
ACTIVE = ("starting", "running", "stopping")
SILENT = "silent"  # as a page shows an active run whose process gives no sign of life; never stored
DAMAGED_HINT = "Restore a backup of the library, or delete the run and make it again."
_CHANGEABLE = {"name", "spec", "state", "line_set", "pid", "process_started", "begun", "ended", "sentence", "summary", "out"}
_NEWEST = "made DESC, position DESC"
_NOT_STARTED = {"ended": None, "sentence": "", "pid": None, "process_started": None}
_Whole = Annotated[int, Field(lt=2**63, gt=-2**63)]
_SPEC = parts(**dict.fromkeys(("model", "preset", "load_in", "dtype", "teacher", "teacher_model", "queries", "folder", "source",
                                  "run", "measure"), str | None), **dict.fromkeys(("multiple", "seed", "steps"), _Whole | None),
              sparsity=Number | None, engines=list[str], gguf=list[str])
_READING = whole(**dict.fromkeys(("kl", "top1", "nll", "lines", "tokens"), Number))
_SUMMARY = parts(readings=dict[str, _READING], **dict.fromkeys(("before", "after"), dict[str, Number | None]),  # type: ignore
                 **dict.fromkeys(("seconds", "bytes"), Number | None), **dict.fromkeys(("recipe", "base", "proof"), dict[str, Any]))
_FILE = whole(type=str, file=str, **dict.fromkeys(("bytes", "prompts", "tokens", "same", "kl"), Number))
_SPEED = whole(what=str, **dict.fromkeys(("tokens_per_second", "rounds", "tokens"), Number))
_PROOF = parts(text=str, seconds=Number, tokens=Number, engines=list[str], files=list[_FILE], timed=list[_SPEED])  # type: ignore


@dataclass(frozen=True)
class Run:
    """A job of one version of a character. Times are Unix seconds, None while they have not come.

    `process_started`: of process `pid`, since pids are used again. `sentence`: why it ended, for the user. `out`: the folder it
    made. `position`: in the queue. `damaged`: the columns that could not be read, whole or in part.
    """

    id: str
    character: str
    version: int
    kind: str
    name: str
    spec: Annotated[dict[str, Any], stored(_SPEC)]
    state: str
    line_set: str | None
    pid: int | None
    process_started: float | None
    made: float
    begun: float | None
    ended: float | None
    sentence: str
    summary: Annotated[dict[str, Any], stored(_SUMMARY)]
    out: str
    position: int
    deleted: float | None
    damaged: tuple[str, ...] = ()

    @property
    def fault(self) -> str:
        what = {"spec": "its settings", "summary": "its results"}
        lost = " and ".join(what[name] for name in self.damaged)
        return f"The entry of this run in the library is damaged: {lost} cannot be read. {DAMAGED_HINT}" if lost else ""


@dataclass(frozen=True)
class Export:
    """A folder of `bytes` bytes, made from the model of a pruning run; `zip` beside it, or ""; `damaged`: as of a run."""

    id: str
    run: str
    name: str
    folder: str
    zip: str
    bytes: int
    zip_bytes: int
    proof: Annotated[dict[str, Any], stored(_PROOF)]
    made: float
    deleted: float | None
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Event:
    event: Json[dict[str, Any]]


_RUNS = Table("runs", Run, "run")
_EXPORTS = Table("exports", Export, "export")
get, rename, put_back = _RUNS.get, _RUNS.rename, _RUNS.undelete
get_export, delete_export, undelete_export = _EXPORTS.get, _EXPORTS.delete, _EXPORTS.undelete


def add(store: Store, character: str, version: int, kind: str, name: str, spec: dict[str, Any],
        line_set: str | None = None, state: str = "queued", made: float | None = None) -> Run:
    """A new run, at the end of the queue unless `state` says otherwise, made now unless `made` does. Raises UserError for an
    unknown version or line set."""
    with store.write() as db:
        if line_set is not None:
            need(exists(db, "line_sets", id=line_set, character=character) or None, "set of lines")
        return _RUNS.insert(db, character=character, version=version, kind=kind, name=name, spec=spec, state=state,
                            line_set=line_set, made=made or now(), summary={}, out="", position=_next_position(db), sentence="")


def list_runs(store: Store, character: str | None = None, kinds: Sequence[str] | None = None,
              states: Sequence[str] | None = None, limit: int = -1) -> list[Run]:
    """Runs, newest first, at most `limit`."""
    where, values = ["deleted IS NULL"], list[str]()
    for column, allowed in (("character", None if character is None else [character]), ("kind", kinds), ("state", states)):
        if allowed is not None:
            where.append(f"{column} IN ({', '.join('?' * len(allowed))})")
            values.extend(allowed)
    with store.read() as db:
        return _RUNS.all(db, " AND ".join(where), values, _NEWEST, limit)


def names(store: Store, character: str, kind: str) -> list[tuple[str, str, str]]:
    """(id, name, state) of all of a character's runs of a kind, newest first: little to read, however many there are."""
    with store.read() as db:
        return db.execute("SELECT id, name, state FROM runs WHERE character = ? AND kind = ? AND deleted IS NULL "
                          f"ORDER BY {_NEWEST}", [character, kind]).fetchall()


def pruned(store: Store, model: str | None) -> list[tuple[str, str, str]]:
    """(id, character, name) of all finished prune runs of a model, newest first."""
    with store.read() as db:
        return db.execute("SELECT id, character, name FROM runs WHERE kind = 'prune' AND state = 'done' AND deleted IS NULL "
                          "AND iif(json_valid(spec), json_extract(spec, '$.model'), NULL) IS ? "
                          f"ORDER BY {_NEWEST}", [model]).fetchall()


def foremost(found: Sequence[Run]) -> Run | None:
    """Of runs, newest first, the one to show: the one under way, else the first in the queue, else the newest."""
    for states in (ACTIVE, ("queued",)):
        alive = [run for run in found if run.state in states]
        if alive:
            return min(alive, key=lambda run: run.position)
    return found[0] if found else None


def claim_next(store: Store, at_once: int = 1) -> Run | None:
    """The first run of the queue, now "starting", for one caller only; None when none waits or `at_once` are active."""
    with store.write() as db:
        active = db.table("runs").count_where("state IN (?, ?, ?)", ACTIVE)
        id = scalar(db, "SELECT id FROM runs WHERE state = 'queued' AND deleted IS NULL ORDER BY position LIMIT 1")
        if id is None or active >= at_once:
            return None
        return _RUNS.update(db, id, state="starting", begun=now(), **_NOT_STARTED)


def update(store: Store, id: str, **fields: Any) -> Run:
    """Change fields of a run. Raises ValueError for unknown fields, UserError when there is no such run."""
    return need(update_if(store, id, STATES, **fields), "run")


def update_if(store: Store, id: str, states: Sequence[str], **fields: Any) -> Run | None:
    """Change fields only while the run is in one of `states`; None when it has moved on. Errors as `update`."""
    if unknown := fields.keys() - _CHANGEABLE:
        raise ValueError(f"a run has no field {', '.join(sorted(unknown))} to change")
    with store.write() as db:
        return _RUNS.update(db, id, **fields) if _RUNS.need(db, id).state in states else None


def remove(store: Store, id: str) -> None:
    """Take a run off the lists; it is kept. Raises UserError while it is under way."""
    with store.write() as db:
        if _RUNS.need(db, id).state in ACTIVE:
            raise UserError("This run is under way.", "Stop it first.")
        _RUNS.update(db, id, deleted=now())


def requeue(store: Store, id: str) -> Run:
    """Put a stopped or failed run at the end of the queue: it goes on where it was. Raises UserError for any other."""
    with store.write() as db:
        run = _RUNS.need(db, id)
        if run.state not in ("stopped", "failed") or run.deleted:
            raise UserError("Only a run that was stopped or has failed can be resumed.")
        return _RUNS.update(db, id, state="queued", position=_next_position(db), **_NOT_STARTED)


def set_mask(store: Store, id: str, kept: bytes, layers: int, channels: int) -> None:
    """Keep which channels remain: `kept` is numpy.packbits(mask, axis=1) of a mask (layers, channels)."""
    if layers < 1 or channels < 1 or len(kept) != layers * -(-channels // 8):
        raise ValueError(f"{len(kept)} bytes are no packed mask of {layers} layers and {channels} channels")
    with store.write() as db:
        _RUNS.need(db, id)
        db.table("masks").insert({"run": id, "layers": layers, "channels": channels, "kept": kept}, replace=True)


def mask(store: Store, id: str) -> numpy.ndarray | None:
    """The mask of a run: true where a channel remains, (layers, channels); None while there is none."""
    with store.read() as db:
        row = db.execute("SELECT layers, channels, kept FROM masks WHERE run = ?", [id]).fetchone()
    if row is None:
        return None
    layers, channels, kept = row
    packed = numpy.frombuffer(kept, dtype=numpy.uint8).reshape(layers, -1)
    return numpy.unpackbits(packed, axis=1, count=channels).astype(bool)


def set_events(store: Store, id: str, events: Sequence[dict[str, Any]]) -> None:
    """Replace the history of a run. Of its steps, those with a loss (the learning curve) and the last of each stage are kept, and
    of answers none that were being written."""
    stage_of = lambda event: (event.get("stage"), event.get("subject"))
    last = {stage_of(event): number for number, event in enumerate(events) if event.get("event") == "Step"}
    kept = [event for number, event in enumerate(events) if event.get("event") != "Writing" and (
            event.get("event") != "Step" or number == last[stage_of(event)] or "loss" in event.get("values", {}))]
    with store.write() as db:
        _RUNS.need(db, id)
        db.table("events").delete_where("run = ?", [id])
        db.table("events").insert_all({"run": id, "position": position, "event": to_json(event)}
                                      for position, event in enumerate(kept))


def events(store: Store, id: str) -> list[dict[str, Any]]:
    """The history of a run, as events were encoded, in order; {} in the place of a damaged one."""
    with store.read() as db:
        return [row.event for row in rows(db, "events", _Event, "run = ?", [id], "position")]


def add_export(store: Store, run: str, name: str, folder: str, bytes: int, proof: dict[str, Any], zip: str = "",
               zip_bytes: int = 0) -> Export:
    """Remember an export. `run`: the pruning run whose model it is. Raises UserError for an unknown run."""
    with store.write() as db:
        return _EXPORTS.insert(db, run=run, name=name, folder=folder, zip=zip, bytes=bytes, zip_bytes=zip_bytes, proof=proof,
                               made=now())


def list_exports(store: Store, character: str | None = None, run: str | None = None, deleted: bool = False) -> list[Export]:
    """Exports, newest first; `deleted`: those taken off the list instead."""
    with store.read() as db:
        return _EXPORTS.all(db, "(? IS NULL OR run IN (SELECT id FROM runs WHERE character = ?)) AND run = ifnull(?, run) "
                            "AND (deleted IS NOT NULL) = ?", [character, character, run, deleted], "made DESC, rowid DESC")


def _next_position(db: Database) -> int:
    return 1 + scalar(db, "SELECT ifnull(max(position), 0) FROM runs")

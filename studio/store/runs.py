"""Runs: long jobs waiting, under way and ended, with all that is left of them when their files are gone.

Knows no process: which run is alive is what the workers write here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy
from sqlite_utils import Database

from engine.base import shapes
from engine.base.errors import UserError
from studio.store.database import Store
from studio.store.records import Json, each, many, marks, need, new_id, now, one, row_of, scalar, to_json

STATES = ("queued", "starting", "running", "stopping", "stopped", "failed", "done")
ACTIVE = ("starting", "running", "stopping")
KINDS = ("lines", "prune", "export")
MEND = "Restore a backup of the library, or delete the run and make it again."
_TEXT, _NUMBER, _WHOLE, _LIST, _SIZES = (shapes.of(hint) for hint in (
    str | None, float | None, int | None, list[str], dict[str, float | None]))
SPEC = {**dict.fromkeys(("model", "preset", "load_in", "dtype", "teacher", "teacher_model", "queries", "folder", "source", "run",
                         "measure"), _TEXT),
        "sparsity": _NUMBER, "multiple": _WHOLE, "seed": _WHOLE, "steps": _WHOLE, "engines": _LIST, "gguf": _LIST}
SUMMARY = {"readings": shapes.each(shapes.numbers("kl", "top1", "nll", "lines", "tokens")), "before": _SIZES, "after": _SIZES,
           "seconds": _NUMBER, "bytes": _NUMBER, "recipe": shapes.fields(), "base": shapes.fields(), "proof": shapes.fields()}
_CHANGEABLE = {"name", "spec", "state", "line_set", "pid", "process_started", "begun", "ended", "sentence", "summary", "out"}


@dataclass(frozen=True)
class Run:
    """A job of one version of a character. Times are Unix seconds, None while they have not come.

    `spec`: what was asked for. `process_started`: the start time of process `pid`, for a pid alone is used again.
    `sentence`: why it ended, for the user. `summary`: its readings. `out`: the folder it made. `position`: in the queue.
    `damaged`: the columns that could not be read, whole or in part.
    """

    id: str
    character: str
    version: int
    kind: str
    name: str
    spec: Annotated[dict[str, Any], Json(parts=SPEC)]
    state: str
    line_set: str | None
    pid: int | None
    process_started: float | None
    made: float
    begun: float | None
    ended: float | None
    sentence: str
    summary: Annotated[dict[str, Any], Json(parts=SUMMARY)]
    out: str
    position: int
    deleted: float | None
    damaged: tuple[str, ...] = ()

    @property
    def fault(self) -> str:
        """What to say of a damaged entry; "" for a sound one."""
        what = {"spec": "what was asked for", "summary": "what it has brought"}
        lost = " and ".join(what[name] for name in self.damaged)
        return f"The entry of this run in the library is damaged: {lost} cannot be read. {MEND}" if lost else ""


@dataclass(frozen=True)
class _Event:
    event: dict[str, Any]


def add(store: Store, character: str, version: int, kind: str, name: str, spec: dict[str, Any],
        line_set: str | None = None) -> Run:
    """A new run at the end of the queue. Raises UserError for an unknown version or line set, ValueError for a kind."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind of run: {kind}")
    with store.write() as db:
        need(scalar(db, "SELECT 1 FROM versions WHERE character = ? AND number = ?", [character, version]), "version")
        if line_set is not None:
            need(scalar(db, "SELECT 1 FROM line_sets WHERE id = ? AND character = ?", [line_set, character]), "set of lines")
        id = new_id()
        db.table("runs").insert(row_of(
            id=id, character=character, version=version, kind=kind, name=name, spec=spec, state="queued", line_set=line_set,
            pid=None, process_started=None, made=now(), begun=None, ended=None, sentence="", summary={}, out="",
            position=_next_position(db), deleted=None))
        return _run(db, id)


def get(store: Store, id: str) -> Run | None:
    """The run, removed or not."""
    with store.read() as db:
        return one(db, Run, "SELECT * FROM runs WHERE id = ?", [id])


def list_runs(store: Store, character: str | None = None, kinds: Sequence[str] | None = None,
              states: Sequence[str] | None = None, deleted: bool = False, limit: int = -1) -> list[Run]:
    """Runs, newest first, at most `limit`; `deleted`: the removed ones instead."""
    where, values = ["(deleted IS NOT NULL) = ?"], [int(deleted)]
    for column, allowed in (("character", None if character is None else [character]), ("kind", kinds), ("state", states)):
        if allowed is not None:
            where.append(f"{column} IN ({marks(allowed)})")
            values.extend(allowed)  # type: ignore[arg-type]
    with store.read() as db:
        return many(db, Run, f"SELECT * FROM runs WHERE {' AND '.join(where)} ORDER BY made DESC, position DESC LIMIT ?",
                    [*values, limit])


def names(store: Store, character: str, kind: str) -> list[tuple[str, str, str]]:
    """(id, name, state) of all of a character's runs of a kind, newest first: little to read, however many there are."""
    with store.read() as db:
        return db.execute("SELECT id, name, state FROM runs WHERE character = ? AND kind = ? AND deleted IS NULL "
                          "ORDER BY made DESC, position DESC", [character, kind]).fetchall()


def pruned(store: Store, model: str | None) -> list[tuple[str, str, str]]:
    """(id, character, name) of all finished prune runs of a model, newest first."""
    with store.read() as db:
        return db.execute("SELECT id, character, name FROM runs WHERE kind = 'prune' AND state = 'done' AND deleted IS NULL "
                          "AND iif(json_valid(spec), json_extract(spec, '$.model'), NULL) IS ? "
                          "ORDER BY made DESC, position DESC", [model]).fetchall()


def foremost(found: Sequence[Run]) -> Run | None:
    """Of runs, newest first, the one to tell about: the one under way, else the first in the queue, else the newest."""
    for states in (ACTIVE, ("queued",)):
        alive = [run for run in found if run.state in states]
        if alive:
            return min(alive, key=lambda run: run.position)
    return found[0] if found else None


def claim_next(store: Store, at_once: int = 1) -> Run | None:
    """The first run of the queue, now "starting"; None when none waits or `at_once` are active.

    Of many callers, threads or processes, exactly one gets a run.
    """
    with store.write() as db:
        active = scalar(db, f"SELECT count(*) FROM runs WHERE state IN ({marks(ACTIVE)})", ACTIVE)
        id = scalar(db, "SELECT id FROM runs WHERE state = 'queued' AND deleted IS NULL ORDER BY position LIMIT 1")
        if id is None or active >= at_once:
            return None
        db.table("runs").update(id, {"state": "starting", "begun": now(), "ended": None, "sentence": "", "pid": None,
                                     "process_started": None})
        return _run(db, id)


def update(store: Store, id: str, **fields: Any) -> Run:
    """Change fields of a run. Raises ValueError for unknown fields and states, UserError when there is no such run."""
    found = update_if(store, id, STATES, **fields)
    assert found is not None
    return found


def update_if(store: Store, id: str, states: Sequence[str], **fields: Any) -> Run | None:
    """Change fields only while the run is in one of `states`; None when it has moved on. Errors as `update`."""
    if unknown := fields.keys() - _CHANGEABLE:
        raise ValueError(f"a run has no field {', '.join(sorted(unknown))} to change")
    if fields.get("state", "queued") not in STATES:
        raise ValueError(f"unknown state of a run: {fields['state']}")
    with store.write() as db:
        if _run(db, id).state not in states:
            return None
        if fields:
            db.table("runs").update(id, row_of(**fields))
        return _run(db, id)


def rename(store: Store, id: str, name: str) -> Run:
    """Give a run another name. Raises UserError for an empty one."""
    if not name.strip():
        raise UserError("A run needs a name.")
    return update(store, id, name=" ".join(name.split()))


def remove(store: Store, id: str) -> None:
    """Take a run off the lists; it is kept. Raises UserError while it is under way."""
    with store.write() as db:
        if _run(db, id).state in ACTIVE:
            raise UserError("This run is under way.", "Stop it first.")
        db.table("runs").update(id, {"deleted": now()})


def put_back(store: Store, id: str) -> Run:
    """Put a removed run back on the lists; one that was waiting waits again."""
    with store.write() as db:
        _run(db, id)
        db.table("runs").update(id, {"deleted": None})
        return _run(db, id)


def requeue(store: Store, id: str) -> Run:
    """Put a stopped or failed run at the end of the queue: it goes on where it was. Raises UserError for any other."""
    with store.write() as db:
        run = _run(db, id)
        if run.state not in ("stopped", "failed") or run.deleted:
            raise UserError("Only a run that was stopped or has failed can be resumed.")
        db.table("runs").update(id, {"state": "queued", "ended": None, "sentence": "", "pid": None, "process_started": None,
                                     "position": _next_position(db)})
        return _run(db, id)


def set_mask(store: Store, id: str, kept: bytes, layers: int, channels: int) -> None:
    """Keep which channels remain: `kept` is numpy.packbits(mask, axis=1) of a mask (layers, channels)."""
    if layers < 1 or channels < 1 or len(kept) != layers * -(-channels // 8):
        raise ValueError(f"{len(kept)} bytes are no packed mask of {layers} layers and {channels} channels")
    with store.write() as db:
        _run(db, id)
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
    """Keep the history of a run, in place of the one before.

    Of its steps only those with a loss are kept (the learning curve) and the last of each stage.
    """
    with store.write() as db:
        _run(db, id)
        db.execute("DELETE FROM events WHERE run = ?", [id])
        db.table("events").insert_all({"run": id, "position": position, "event": to_json(event)}
                                      for position, event in enumerate(_history(events)))


def events(store: Store, id: str) -> list[dict[str, Any]]:
    """The history of a run, as events were encoded, in order; {} in the place of a damaged one."""
    with store.read() as db:
        return [event.event for event in each(db, _Event, "SELECT event FROM events WHERE run = ? ORDER BY position", [id])]


def _history(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    last = {event.get("stage"): number for number, event in enumerate(events) if event.get("event") == "Step"}
    return [event for number, event in enumerate(events)
            if event.get("event") != "Step" or number == last[event.get("stage")] or "loss" in event.get("values", {})]


def _run(db: Database, id: str) -> Run:
    return need(one(db, Run, "SELECT * FROM runs WHERE id = ?", [id]), "run")


def _next_position(db: Database) -> int:
    return 1 + scalar(db, "SELECT ifnull(max(position), 0) FROM runs")

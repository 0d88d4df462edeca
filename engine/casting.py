"""A cast drafted by a model: one card after the other, each asked for with the plan, the place and those before it.

A near-twin of an earlier one, or of the library, is drafted again with what was too alike named, at most AGAIN times; then it is
kept and marked. Nothing is invented here: a field that the model did not write stays empty, and the event says so.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.evaluation_events import Drafted
from engine.base.events import Event, Finished, Stage, Step, Stream
from engine.base.files import (
    explain_write_errors,
    is_file,
    named_path,
    read_json,
    read_untrusted_json,
    slug,
    write_atomic,
    write_json,
)
from engine.base.ids import StageId
from engine.base.job import DraftCastJob
from engine.base.sampling import MAX_SEED
from engine.cards import cast_plan
from engine.cards.card import Card, bundled_cards, unfinished
from engine.cards.casting import STEPS, Asked, Draft, Member, member
from engine.cards.files import write_file
from engine.cards.twins import Twin, find_twin
from engine.serving.files import speaks_by_llama
from engine.serving.interview import hear
from engine.serving.requests import Request
from engine.serving.steps import Loop
from engine.serving.voices import Voices
from engine.serving.writing import write

AGAIN = 2  # further drafts of a near-twin
PLAN = "plan.json"
_TRIES = 3  # of one step
_KNOWN_BYTES = 200_000_000  # of the file with the cards that are there already


def perform(job: DraftCastJob) -> Iterator[Event]:
    """The cast of a job: Drafted for each card, then Finished. Raises UserError. Closing the generator stops it.

    With `out` the plan and each card are files in that folder, and the same job goes on where it stopped.
    """
    began = time.monotonic()
    out = named_path(job.out) if job.out else None
    place, plan = planned(job)
    if out:
        with explain_write_errors(out, "run the same command again"):
            write_json(out / PLAN, {"place": place, "rows": plan})
    if job.plan_only:
        return
    members, library = _known(job, out)
    there = {one.position for one in members}
    missing = job.draft or [position for position in range(len(plan)) if position not in there]
    if wrong := next((one for one in missing if not 0 <= one < len(plan)), None):
        raise UserError(f"The plan has no row {wrong + 1}.", "Make a new plan.")
    for event in Drafting(job, place, plan).run(missing, [one for one in members if one.position not in missing], library):
        if isinstance(event, Drafted) and out:
            file = out / f"{event.position + 1:02}-{slug(unfinished(event.card).name)}.json"
            with explain_write_errors(file, "run the same command again"):
                write_atomic(file, write_file("json", event.card))
        yield event
    yield Finished(job.out, time.monotonic() - began)


def planned(job: DraftCastJob) -> tuple[str, list[cast_plan.Row]]:
    """The place and the plan of a job: the plan of its folder where that has one, which the writer may have changed, else its rows,
    else new ones by its quotas. Raises UserError."""
    place, out = cast_plan.checked_place(job.place), named_path(job.out) if job.out else None
    if out and is_file(out / PLAN):
        return place, _kept(out, place)
    if out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and holds no cast.", "Choose another folder.")
    if job.rows:
        return place, cast_plan.checked_plan(job.rows)
    return place, cast_plan.make_plan(job.count, cast_plan.read_quotas("\n".join(job.quota)), job.seed)


def _kept(out: Path, place: str) -> list[cast_plan.Row]:
    kept = read_untrusted_json(out / PLAN, _KNOWN_BYTES)
    rows = kept.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and all(isinstance(one, str) for one in row.values())
                                             for row in rows):
        raise UserError(f"{out / PLAN} is not a plan any more.", "Choose another folder.")
    if kept.get("place") != place:
        raise UserError(f"{out} holds the cast of another place.", "Choose another folder, or give the same place.")
    return cast_plan.checked_plan(rows)


def _known(job: DraftCastJob, out: Path | None) -> tuple[list[Member], list[dict[str, Any]]]:
    """The cards of the cast that are there already, and the others that a new one must not be like."""
    if job.known:
        kept = read_untrusted_json(Path(job.known), _KNOWN_BYTES)
        return [member(one["position"], one["card"], one["line"]) for one in kept["cast"]], kept["library"]
    files = sorted(out.glob("[0-9][0-9]-*.json")) if out and out.is_dir() else []
    found = {int(file.name[:2]) - 1: member(int(file.name[:2]) - 1, read_json(file)) for file in files}
    return list(found.values()), [card.raw for card in bundled_cards()]


class Drafting:
    """Drafts the cards of one cast."""

    def __init__(self, job: DraftCastJob, place: str, plan: Sequence[cast_plan.Row]) -> None:
        self.job, self.place, self.plan = job, place, plan
        self.server = _server(job)
        self.writer = job.teacher_model or job.model
        self.holds = not self.server and speaks_by_llama(job.model)  # to a schema
        self.loop, self.voices = Loop(), Voices(keep=1, slots=1)
        self.asked = self.total = 0  # requests so far, each with a seed of its own; steps in all

    def run(self, missing: Sequence[int], members: list[Member], library: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
        """The events of drafting the rows `missing`; `members` are there already."""
        cards = [unfinished(dict(raw)) for raw in library]
        self.total = len(missing) * len(STEPS)
        yield Stage(StageId.CAST, self.total, subject=self.writer)
        try:
            for number, position in enumerate(missing):
                drafted, new = yield from self._member(position, number * len(STEPS), members, cards)
                members.append(new)
                yield drafted
                yield Step(StageId.CAST, (number + 1) * len(STEPS), self.total, subject=self.writer)
        finally:
            self.voices.close()
            self.loop.close()

    def _member(self, position: int, done: int, members: Sequence[Member],
                library: Sequence[Card]) -> Stream[tuple[Drafted, Member]]:
        """A character, drafted again where it is a near-twin."""
        before, row, unlike = sorted(members, key=lambda one: one.position), self.plan[position], ""
        for tries in range(1, AGAIN + 2):
            draft = Draft(self.place, row, before, unlike, self.job.seed + 31 * position + tries)
            yield from self._draft(draft, position, done)
            twin = find_twin(unfinished(draft.raw), [*(unfinished(one.card) for one in before), *library],
                             f"{self.place} {cast_plan.words_of(row)}")
            if not twin:
                break
            unlike = _unlike(twin, before)
        return (Drafted(position, draft.raw, draft.line, draft.thin, draft.unsaid, twin.name if twin else "",
                        list(twin.shared) if twin else [], tries), Member(position, draft.raw, draft.line))

    def _draft(self, draft: Draft, position: int, done: int) -> Stream[None]:
        """Fill a draft, step by step."""
        for number, step in enumerate(STEPS):
            beat = Step(StageId.CAST, done + number, self.total, subject=unfinished(draft.raw).name if draft.raw else self.writer)
            yield beat
            for _ in range(_TRIES):
                asked = draft.ask(step)
                said = yield from self._ask(asked, beat)
                with suppress(UserError):
                    draft.take(step, said)
                    break
            if not draft.raw:
                draft.go_nameless(position + 1)

    def _ask(self, asked: Asked, beat: Step) -> Stream[str]:
        self.asked += 1
        seed = (self.job.seed + 7919 * self.asked) % MAX_SEED
        request = Request("write", self.asked, self.job.model, messages=tuple(asked.messages), server=self.server,
                          sampling=replace(asked.sampling, seed=seed), schema=asked.schema if self.holds else None)
        loading: list[dict[str, Any]] = []
        ended = yield from hear(self.loop, write(request, self.voices, loading.append), loading, beat)
        return str(ended.get("text", ""))


def _unlike(twin: Twin, members: Sequence[Member]) -> str:
    line = next((f" ({one.line})" for one in members if one.name == twin.name), "")
    shared = f": nothing with {', '.join(twin.shared)}" if twin.shared else ""
    return f"This must be somebody quite unlike {twin.name}{line}{shared}."


def _server(job: DraftCastJob) -> tuple[str, str] | None:
    """The server that writes, where one is named. Raises UserError."""
    if not job.teacher:
        return None
    if not job.teacher_model:
        raise UserError("A teacher server needs the name of its model.", "Add --teacher-model NAME.")
    return job.teacher, job.teacher_model

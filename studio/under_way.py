"""The jobs under way, at the top of the page: what each does, how far it is, the way there and its Stop.

A job is a run of the library, a process of which there is one at a time (workers/single.py), or a model that is being fetched.
Contents, and what the buttons do; the listeners are in sidebar.py. Everything is escaped.
"""

import functools
import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engine.base.errors import UserError
from studio import labels, times
from studio.figures import words
from studio.services import Services
from studio.store import casts, characters, runs
from studio.workers import pace
from studio.workers.single import Single

KINDS = {"lines": "Lines", "prune": "Prune", "export": "Export"}
_STOPPABLE = ("queued", "starting", "running")
# What shows a job in its room, where that is not shown at first: see personaStudioPart in assets/studio.js.
_PARTS = {"cast": "#draft-cast", "scene": "#preview-view input[value=scene]", "test": "#compare-view input[value=script]",
          "measurement": "#export-view input[value=ship]"}


@dataclass(frozen=True)
class Job:
    """As HTML: `what`, its kind and whom it is about; `name`; `doing`, what it does now. `share`: how much is done, of the job
    where the `whole` is known, else of its present step. `stop`: None while it cannot be stopped. `room`: where it is shown, "" for
    nowhere, and there `character`, "" for any, `part` and `cast`."""

    id: str
    what: str
    name: str
    doing: str
    share: float
    stop: Callable[[], None] | None
    room: str = ""
    character: str = ""
    part: str = ""
    cast: str = ""
    whole: bool = True


def jobs(services: Services) -> list[Job]:
    """All jobs: the runs in their order, then what is done beside them."""
    found = runs.list_runs(services.store, states=("queued", *runs.ACTIVE))
    found.sort(key=lambda one: (one.state == "queued", one.position or 0, one.made))
    return [*(_of_run(services, one) for one in found), *_of_singles(services), *_of_fetches(services)]


def find(services: Services, id: str) -> Job:
    """A job by its id. Raises UserError for one that has ended."""
    job = next((one for one in jobs(services) if one.id == id), None)
    if job is None:
        raise UserError("This job has ended.")
    return job


def stop(services: Services, id: str) -> None:
    """Stop a job. Raises UserError for one that has ended."""
    if one := find(services, id).stop:
        one()


def jobs_html(services: Services) -> str:
    """The first job in a few words, which opens the list of all; "" while there is none."""
    found = jobs(services)
    if not found:
        return ""
    first = found[0]
    more = f" · {len(found) - 1} more" if len(found) > 1 else ""
    said = f"{first.what} · {words.percent(first.share) if first.share and first.whole else first.doing}"
    return (f'<details class="jobs"><summary class="job-chip"><i style="width:{first.share * 100:.0f}%"></i>'
            f'<span>{said}{more}</span></summary><ul aria-label="Jobs">{"".join(map(_row, found))}</ul></details>')


def _row(job: Job) -> str:
    id, title = html.escape(job.id), f"<b>{job.what}</b> {job.name}"
    if job.room:
        title = f'<button data-do="job" data-id="{id}" data-part="{job.part}" data-cast="{job.cast}">{title}</button>'
    stops = f'<button data-do="stop" data-id="{id}" aria-label="Stop: {job.what}">Stop</button>' if job.stop else ""
    done = f" · {words.percent(job.share)}" if job.share else ""
    return (f'<li data-key="{id}"><div>{title}{stops}</div><div class="bar" role="progressbar" aria-label="{job.doing}" '
            f'aria-valuenow="{job.share * 100:.0f}" aria-valuemin="0" aria-valuemax="100">'
            f'<i style="width:{job.share * 100:.0f}%"></i></div><span class="quiet">{job.doing}{done}</span></li>')


def _of_run(services: Services, run: runs.Run) -> Job:
    view = services.watcher.view(run.id)
    stage, (left, _) = view.current_stage, times.left(services, run)
    share = stage.share if stage else 0.0
    state = services.jobs.shown_state(run)
    begun = stage if state == "running" else None
    doing = labels.stage(*begun.key) if begun else labels.RUN_STATES["starting" if state == "running" else state]
    if left is not None and state == "running":
        spent = pace.seconds_of(view)
        share, doing = spent / max(spent + left, 1.0), f"{doing}, {words.remaining(left)}"
    return Job(run.id, f"{KINDS[run.kind]} · {_char(services, run.character)}", html.escape(run.name), doing, share,
               functools.partial(services.jobs.stop, run.id) if run.state in _STOPPABLE else None,
               "export" if run.kind == "export" else "prune", run.character, whole=left is not None and state == "running")


def _of_singles(services: Services) -> Iterator[Job]:
    for one in services.singles():
        if subject := one.character():
            yield _of_single(services, one, subject)


def _of_single(services: Services, one: Single, subject: str) -> Job:
    stage, done, total = one.progress
    cast = casts.get(services.store, subject)
    about = words.shortened(cast.place) if cast else _char(services, subject)
    return Job(one.what, f"{one.what.capitalize()} · {about}", "", stage or "Starting", min(done / total, 1.0) if total else 0.0,
               one.stop, one.room, "" if cast else subject, _PARTS.get(one.what, ""), subject if cast else "")


def _of_fetches(services: Services) -> Iterator[Job]:
    for reply in services.speech.under_way():
        if fetched := reply.fetched:
            done, total = fetched
            name = html.escape(str(reply.request["model"]).rsplit("/", 1)[-1])
            yield Job(reply.id, f"Download · {name}", "", f"{done:,} of {total:,} MB", done / total,
                      functools.partial(services.speech.stop, reply))


def _char(services: Services, id: str) -> str:
    found = characters.get(services.store, id)
    return html.escape(found.char) if found else "?"

"""What one poll of a page costs after a few events and after many: called in this process, without a browser."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.base.event_file import encode
from engine.base.events import Stage, Started, Step
from engine.base.ids import StageId
from studio.settings import Settings
from studio.store import characters, runs
from studio.workers import watch
from studio.workers.watch import Tail

Figures = dict[str, Any]


def measure_polling(few: int = 10, many: int = 10_000, samples: int = 30) -> Figures:
    """Seconds and bytes of one poll of the sidebar and of the Prune room, after a few events and after many.

    Every event is a learning step, which is the dearest, for its point belongs to a curve. "nothing": no news;
    "one": one event is new.
    """
    from studio.services import Services

    found: Figures = {"samples": samples, "few": few, "many": many}
    with tempfile.TemporaryDirectory() as folder:
        services = Services.open(Settings(Path(folder)))
        try:
            for name, events in (("after_few", few), ("after_many", many)):
                found[name] = _polls(services, events, samples)
        finally:
            services.close()
    found["ratios"] = {what: {how: found["after_many"][what][how] / found["after_few"][what][how] for how in ("median", "least")}
                       for what in ("nothing", "one")}
    return found


def _polls(services: Any, events: int, samples: int) -> Figures:
    person = characters.list_characters(services.store)[0].id
    run = runs.add(services.store, person, 1, "prune", "bench", {"model": "bench", "preset": "quick", "sparsity": 0.25})
    runs.update(services.store, run.id, state="running")
    path = services.settings.run_events(run.id)
    path.parent.mkdir(parents=True)
    given = [Started("Edith", "bench", 0.25, [(StageId.LEARN_MASK, "")]), Stage(StageId.LEARN_MASK, 20_000),
             *(_step(n) for n in range(1, events - 1))]
    path.write_text("".join(encode(event) + "\n" for event in given), encoding="utf-8")
    poll, read_bytes = _poll(services, person), [0]
    real = Tail.read_new

    def counted(tail: Tail) -> Any:
        before = tail.offset
        new = real(tail)
        read_bytes.append(tail.offset - before)
        return new

    fresh, watch.FRESH, Tail.read_new = watch.FRESH, 0.0, counted  # type: ignore[method-assign, assignment]
    try:
        found: Figures = {"nothing": _timed(poll, samples, lambda _: None, read_bytes)}

        def add(number: int) -> None:
            with path.open("a", encoding="utf-8") as file:
                file.write(encode(_step(events + number)) + "\n")

        found["one"] = _timed(poll, samples, add, read_bytes)
    finally:
        watch.FRESH, Tail.read_new = fresh, real  # type: ignore[method-assign]
    runs.update(services.store, run.id, state="stopped")
    runs.remove(services.store, run.id)
    return found


def _step(number: int) -> Step:
    return Step(StageId.LEARN_MASK, number, 20_000, {"loss": 1 / number})


def _poll(services: Any, person: str) -> Callable[[], None]:
    """What the live channel does once a second for all pages that show the Prune room."""
    from studio import under_way
    from studio.tabs.prune import RUNS_LOOKS
    from studio.tabs.prune.queueing import Queueing
    from studio.tabs.prune.runs_controller import RunsController

    runs_shown = RunsController(services, Queueing(services))

    def poll() -> None:
        under_way.jobs_html(services)
        runs_shown.contents(dict.fromkeys(RUNS_LOOKS, "") | {"character": person})

    return poll


def _timed(poll: Callable[[], None], samples: int, before: Callable[[int], None], read_bytes: list[int]) -> Figures:
    for number in range(3):  # figures are drawn and files opened for the first time
        before(number)
        poll()
    seconds, sizes = [], []
    for number in range(3, samples + 3):
        before(number)
        del read_bytes[:]
        begin = time.perf_counter()
        poll()
        seconds.append(time.perf_counter() - begin)
        sizes.append(sum(read_bytes))
    return {"median": statistics.median(seconds), "least": min(seconds), "bytes": max(sizes)}

"""How long a prune takes on this machine: by the newest quick run of each model, else by the size of the model alone; and how long
one that is under way still takes."""

from collections.abc import Mapping
from functools import partial

from engine.base.job import PRESET_LABELS, PRESET_MINUTES
from engine.base.known_models import STARTER
from studio.figures import words
from studio.services import Services
from studio.store import lines, runs
from studio.store.runs import Run
from studio.workers import pace

QUICK = "quick"  # the preset whose time is kept; others take as many times as long as PRESET_MINUTES says
_RECENT = 20  # finished runs that say how long one takes


class Times:
    """What quick runs took here. The same until another run ends."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._known: tuple[str, dict[str, tuple[int, float]]] = "", {}  # of the newest run when it was found

    def measured(self) -> Mapping[str, tuple[int, float]]:
        """Parameters, and seconds of the newest quick run with its lines, of each model that was pruned so on this machine."""
        finished = partial(runs.list_runs, self.services.store, kinds=["prune"], states=["done"])
        newest = next((run.id for run in finished(limit=1)), "")
        if newest != self._known[0]:
            found: dict[str, tuple[int, float]] = {}
            for run in finished(limit=_RECENT):
                parameters, seconds = run.summary.get("before", {}).get("parameters"), self._seconds(run)
                if parameters and seconds:
                    found.setdefault(str(run.spec.get("model")), (int(parameters), seconds))
            self._known = newest, found
        return self._known[1]

    def sentence(self, model: str, name: str, parameters: int) -> str:
        """How long each preset takes with a model, called `name`, of so many parameters."""
        measured = self.measured()
        if model in measured:
            seconds, basis = measured[model][1], "going by a quick run here"
        elif found := pace.scaled(parameters, dict(measured.values())):
            seconds, basis = found, "going by its size and another model’s quick run here"
        else:
            seconds = 60 * PRESET_MINUTES[QUICK] * parameters / STARTER.parameters
            basis = "going by its size, on two idle processor cores; the first quick run shows it"
        each = ", ".join(f"{PRESET_LABELS[preset]} {words.about(seconds * minutes / PRESET_MINUTES[QUICK])}"
                         for preset, minutes in PRESET_MINUTES.items())
        slow = f"{PRESET_LABELS['paper']} takes longer still; nobody has timed it to its end."
        return f"Lines and pruning together with {name}: {each}, {basis}. {slow}"

    def _seconds(self, run: Run) -> float | None:
        """What a quick run and the making of its lines took; None for another run, and where the lines came from elsewhere."""
        learned = lines.line_set(self.services.store, run.line_set) if run.line_set else None
        made = runs.get(self.services.store, learned.run) if learned and learned.run else None
        if made is None or not all(pace.is_plain(one, QUICK) for one in (made, run)):
            return None
        return sum(pace.seconds_of(self.services.watcher.view(one.id)) for one in (made, run))


def left(services: Services, run: Run) -> tuple[float | None, str]:
    """Seconds that a whole run still takes, and by what: by one like it on this machine, else by its preset in general."""
    if run.state != "running":
        return None, ""
    view = services.watcher.view
    earlier = pace.like(run, runs.list_runs(services.store, kinds=[run.kind], states=["done"], limit=_RECENT))
    if earlier:
        return pace.seconds_left(view(run.id), pace.took(view(earlier.id))), "by the last one like it here"
    return pace.seconds_left(view(run.id), pace.typical(run), by_pace=True), "by its pace so far"

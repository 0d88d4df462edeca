"""The pictures of a run: its newest ones while it works, and all of them afterwards, as a film to scrub. Everything is escaped."""

import html
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

from engine.base import events
from engine.base.job import PRESETS
from engine.base.pruning_events import Answered, ChannelUse, LayerTuned, LayerTuning, MaskSnapshot, Measured
from studio import labels
from studio.figures import channels, distances, layers, masks, words
from studio.live import Ready, figure
from studio.store.runs import ACTIVE, Run
from studio.tabs.prune.lines_view import options_html
from studio.workers.view import Moment, RunView

REMEMBERED = 48  # figures: eight runs that somebody looks at
PAUSE = 3.0  # seconds between two drawings of a figure that grows
FIGURES = (("used", "cut"), ("errors", "course"), ("changes", "ladder"))  # the rows
OVERLAPS: dict[str, Literal["kept", "removed"]] = {"overlap-kept": "kept", "overlap-removed": "removed"}
ANSWERS = "The likeliest words of the model after each stage, cut short."
Draw = Callable[[], Any]
Kind = TypeVar("Kind", bound=events.Event)


def measured(run: Run, view: RunView) -> dict[str, Measured]:
    """A run's readings on the test lines: as reported, or as its summary keeps them."""
    if view.readings or not run.summary.get("readings"):
        return view.readings
    return {name: Measured(name, "test", found["kl"], found["top1"], found["nll"], found["lines"], found["tokens"])
            for name, found in run.summary["readings"].items()}


class Drawings:
    """The newest figures as contents of the live channel. Thread-safe: of several who ask for the same one, the first draws."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._drawn: OrderedDict[tuple[str, ...], tuple[str, float, Ready]] = OrderedDict()

    def get(self, place: tuple[str, ...], key: Any, draw: Draw, grows: bool = False) -> Ready:
        """What `draw` returns, or what was drawn in this place for the same key. One that `grows` is drawn every PAUSE s."""
        with self._lock:
            known, at, drawn = self._drawn.get(place, ("", -1e9, Ready()))
            if known != repr(key) and not (grows and time.monotonic() - at < PAUSE):
                drawn = figure(draw())
                self._drawn[place] = repr(key), time.monotonic(), drawn
            self._drawn.move_to_end(place)
            while len(self._drawn) > REMEMBERED:
                self._drawn.popitem(last=False)
            return drawn


def figures_of(run: Run, view: RunView, moments: Sequence[Moment]) -> list[tuple[str, Any, Draw]]:
    """Name, key and drawing of each figure that has something to show after these moments of a run.

    A key changes with the figure's own data. A resumed run makes some of it again, hence the times in the keys.
    """
    uses, cuts, tuned = _of(moments, ChannelUse), _of(moments, MaskSnapshot), _of(moments, LayerTuned)
    tuning = next(iter(_of(moments, LayerTuning)), None)
    points = [(one.at, one.event) for one in moments if isinstance(one.event, Measured | events.Step)]
    learned = [one for one in cuts if one.step]
    readings = measured(run, view) if len(moments) == len(view.moments) else {}
    loss = PRESETS.get(run.spec.get("preset", ""), {}).get("loss", "kl")
    key = lambda found: (len(found), found[-1:] and found[-1].time)
    drawings: list[tuple[str, Sequence[Any], Any, Draw]] = [
        ("used", uses, key(uses), lambda: channels.used(uses[-1])),
        ("cut", cuts, key(cuts), lambda: channels.cut(cuts[-1])),
        ("errors", tuned, (*key(tuned), tuning and tuning.time), lambda: layers.errors(tuned, tuning)),
        ("course", points, key([one for _, one in points]), lambda: distances.course(points, loss)),
        ("changes", learned, key(learned), lambda: masks.mask_changes(learned)),
        ("ladder", distances.in_order(readings.values()), tuple(readings), lambda: distances.ladder(readings.values()))]
    return [(name, key, draw) for name, found, key, draw in drawings if found]


def _of(moments: Sequence[Moment], kind: type[Kind]) -> list[Kind]:
    return [one.event for one in moments if isinstance(one.event, kind)]


def contents(run: Run, view: RunView, drawings: Drawings, at: str) -> dict[str, Any]:
    """The pictures of a run for the live channel, and which are there. `at`: the moment of an ended run, by number from 1; else
    the newest."""
    ended, number = run.state not in ACTIVE, int(at) if at.isdecimal() and len(at) < 9 else 0
    number = number if ended and 0 < number < len(view.moments) else len(view.moments)
    moments = view.moments[:number]
    names = [name for row in FIGURES for name in row]
    found = {name: drawings.get((run.id, name, at if ended else ""), key, draw, not ended)
             for name, key, draw in figures_of(run, view, moments)}
    return {**{f"prune-shown-{name}": name in found for name in names},
            **{f"prune-figure-{name}": one for name, one in found.items()},
            "prune-answers": answers_html(_of(moments, Answered)),
            "prune-film": film_html(view.moments, number) if ended and len(view.moments) > 1 else ""}


def film_html(moments: Sequence[Moment], number: int) -> str:
    """The slider over the moments of a run, at one of them."""
    at, _, stage = moments[number - 1]
    where = f"{words.duration(at)} in: {labels.stage(*stage)}"
    return (f'<label class="prune-film"><span>See it again, from the first picture to the last</span>'
            f'<input type="range" id="prune-at" data-look="at" min="1" max="{len(moments)}" value="{number}" '
            f'aria-valuetext="{where}"><small>{where}</small></label>')


def answers_html(answers: Sequence[Answered]) -> str:
    """The same question, answered by the model as it was stage by stage."""
    if not answers:
        return ""
    rows = "".join(f"<dt>{labels.reading(one.what)}</dt><dd>{html.escape(one.answer) or '<i>Nothing.</i>'}</dd>" for one in answers)
    return (f'<div class="prune-answers"><h4>“{html.escape(answers[-1].question)}”</h4><dl>{rows}</dl>'
            f'<p class="figure-says">{ANSWERS}</p></div>')


def frame_html() -> str:
    """Where the pictures go."""
    rows = ("".join(('<div class="figure-row">', *map(_place, pair), "</div>")) for pair in FIGURES)
    return (f'<div data-live="prune-film"></div><div data-live="prune-answers"></div>{"".join(rows)}'
            f'<div data-live="prune-others"></div><div class="figure-row" id="prune-row-overlap">{_places(OVERLAPS)}</div>')


def _place(name: str) -> str:
    return f'<div class="live-shown" id="prune-shown-{name}">{_places([name])}</div>'


def _places(names: Iterable[str]) -> str:
    return "".join(f'<div class="figure" id="prune-figure-{name}" data-live="prune-figure-{name}"></div>' for name in names)


def others_html(others: Sequence[tuple[str, str]], chosen: str) -> str:
    """The list of runs whose mask can be laid beside the shown one's."""
    if not others:
        return ""
    options = options_html([("None", ""), *others], chosen)
    return (f'<div class="live-fields"><label>Compare with another run\'s mask<select id="prune-other" data-look="other">'
            f'{options}</select></label></div>')

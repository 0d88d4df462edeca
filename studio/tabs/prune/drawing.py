"""The figures of a run, drawn once for all pages, in the form that gr.Plot sends. Knows no component."""

import html
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from gradio.components.plot import PlotData

from engine.base.recipe import PRESETS
from studio.figures import bars, curves, heatmaps, ladder
from studio.figures.theme import caption_of
from studio.store.runs import Run
from studio.tabs.prune import runs_html
from studio.workers.view import LEARNING, RunView

REMEMBERED = 48  # figures: eight runs that somebody looks at
OF_MASKS = ("kept", "changes", "bars", "rescued")
GROWING = (*OF_MASKS, "curves")  # what grows while a run learns; the others change when a stage ends
Sent = tuple[PlotData, str]  # a figure, and its caption as HTML
Draw = Callable[[], Any]


class Drawings:
    """The newest figures, by name and key. Thread-safe: of several who ask for the same one, the first draws it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._drawn: OrderedDict[str, Sent] = OrderedDict()

    def get(self, name: str, key: Any, draw: Draw) -> Sent:
        """The figure that `draw` returns, or the one that was drawn for the same name and key."""
        place = repr((name, key))
        with self._lock:
            if place not in self._drawn:
                figure = draw()
                self._drawn[place] = PlotData(type="plotly", plot=figure.to_json()), caption_html(caption_of(figure))
                while len(self._drawn) > REMEMBERED:
                    self._drawn.popitem(last=False)
            self._drawn.move_to_end(place)
            return self._drawn[place]


def figures_of(run: Run, view: RunView) -> list[tuple[str, Any, Draw]]:
    """Name, key and drawing of each figure of a run.

    A key changes with the figure's own data. A resumed run makes some points anew, hence their values in the keys.
    """
    snapshots, last = view.snapshots, view.snapshots[-1] if view.snapshots else None
    readings = runs_html.measured(run, view)
    learning = view.stages.get(LEARNING)
    mask = (run.id, len(snapshots), last and (last.step, last.time))
    layer = run.summary.get("before", {}).get("intermediate_size")
    loss = PRESETS.get(run.spec.get("preset", ""), {}).get("loss", "kl")
    steps = learning.total if learning else 0
    return [
        ("kept", mask, lambda: heatmaps.kept_channels(last)),
        ("changes", mask, lambda: heatmaps.mask_changes(snapshots)),
        ("bars", mask, lambda: bars.changed_last(snapshots)),
        ("rescued", (mask, layer), lambda: bars.rescued(last, layer)),
        ("curves", (run.id, len(view.losses), view.losses[-1:], len(view.validation), view.validation[-1:], steps, *readings),
         lambda: curves.learning(view.losses, view.validation, readings, steps, loss)),
        ("ladder", (run.id, *readings), lambda: ladder.ladder(readings.values()))]


def rows_shown(run: Run, view: RunView) -> tuple[bool, bool, bool]:
    """Which rows of figures have something to show."""
    return bool(view.losses or view.validation or runs_html.measured(run, view)), bool(view.snapshots), bool(view.snapshots)


def caption_html(caption: str) -> str:
    """What a figure shows, folded away."""
    return f'<details class="prune-caption"><summary>What this shows</summary><p>{html.escape(caption)}</p></details>'

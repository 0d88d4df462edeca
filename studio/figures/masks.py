"""The mask: where it changed from check to check, and how far two masks agree."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from engine.base.pruning_events import MaskSnapshot
from studio.figures import words
from studio.figures.theme import BLUE, EMBER, EMBERS, drawn, empty, grid_of, some_of

CHANGED = "Where the mask changed"


def mask_changes(snapshots: Sequence[MaskSnapshot]) -> go.Figure:
    """Layers x steps, coloured by the number of channels that entered the mask since the check before."""
    latest = {one.step: one for one in snapshots}  # a resumed job says its last steps again
    steps = sorted(latest)
    grid = grid_of([latest[step].changed for step in steps]).T
    if not grid.size:
        return empty(CHANGED, "Nothing learned yet.")
    layers = len(grid)
    most = int(np.nanmax(grid)) if np.isfinite(grid).any() else 0
    names = [f"{step:,}" for step in steps]  # columns side by side, however many steps lie between two checks
    trace = go.Heatmap(
        z=grid, x=names, y=list(range(1, layers + 1)), zmin=0, zmax=max(most, 1), colorscale=EMBERS, hoverongaps=False,
        xgap=1 if len(steps) <= 40 else 0, ygap=1 if layers <= 48 else 0,
        colorbar={"thickness": 8, "len": 1, "outlinewidth": 0, "tickvals": [0, max(most, 1)], "tickfont": {"size": 11},
                  "xpad": 6, "ypad": 0},
        hovertemplate=f"Layer %{{y}} of {layers}, step %{{x}}<br>%{{z:,}} channels exchanged<extra></extra>")
    axis = {"type": "category", "tickvals": some_of(names, 5), "title": {"text": "Learning step"}, "tickangle": 0}
    return drawn([trace], CHANGED, [f"Channels exchanged since the previous check · {words.count(len(steps), 'check')}"],
                 "Each column is one check while the mask was learned, each row a layer. The stronger the colour, the more "
                 "channels were exchanged there. A mask that has settled grows pale to the right.",
                 height_of(layers), xaxis=axis, yaxis=layer_axis(layers), margin={"r": 48})


def height_of(layers: int) -> int:
    """Room for the rows and the axis below, in px: thin rows where there are many."""
    return 46 + round(min(max(layers * 7, 60), 300))


def layer_axis(layers: int) -> dict:
    return {"range": [layers + 0.5, 0.5], "tickvals": some_of(range(1, layers + 1)), "showgrid": False,
            "title": {"text": "Layer"}}


HEIGHT = 190  # px, without the lines of the title


def overlap(first: np.ndarray | None, second: np.ndarray | None, names: tuple[str, str],
            of: Literal["kept", "removed"] = "kept") -> go.Figure:
    """How far two masks (layers x channels, true: kept) agree a layer, beside what two random masks would.

    The share is the channels in both, of those in the smaller; random masks of these sizes share larger / all of them.
    Raises ValueError for masks of different shapes.
    """
    title = f"Channels that both {'keep' if of == 'kept' else 'remove'}"
    if first is None or second is None or not first.size:
        return empty(title, "Pick two finished prunes of the same model.")
    if first.shape != second.shape:
        raise ValueError(f"masks of different models: {first.shape} and {second.shape}")
    one, other = (np.asarray(mask, dtype=bool) == (of == "kept") for mask in (first, second))
    sizes = np.stack([one.sum(axis=1), other.sum(axis=1)])
    both, smaller, larger = (one & other).sum(axis=1), sizes.min(axis=0), sizes.max(axis=0)
    if not smaller.any():
        return empty(title, f"One of the two {'keeps' if of == 'kept' else 'removes'} nothing.")
    shares = 100 * np.divide(both, smaller, out=np.full(len(both), np.nan), where=smaller > 0)
    layers, channels = one.shape
    chance = 100 * float(np.average(larger / channels, weights=smaller))
    mean = 100 * float(both.sum() / smaller.sum())
    left, right = (words.shortened(name, 24) for name in names)
    by_chance = f'<span style="color:{EMBER}">━</span> by chance {chance:.0f}\u00a0%'
    return _bars(shares.tolist(), BLUE, title,
                 [f"{left} and {right}", f"{mean:.0f}\u00a0% of {int(smaller.sum()):,} channels · {by_chance}"],
                 f"{words.count(layers, 'layer')}. Bars far above the line mean that the two characters rely on the same "
                 "channels; bars at the line, that they agree no more than two random masks.",
                 "%{y:.1f}\u00a0% in both: %{customdata[0]:,} of %{customdata[1]:,}", suffix="\u00a0%",
                 customdata=np.stack([both, smaller], axis=1).tolist(), level=chance, top=104)


def _bars(values: list[float], colour: str, title: str, subtitle: list[str], caption: str, hover: str, suffix: str = "",
          customdata: list | None = None, level: float | None = None, top: float | None = None) -> go.Figure:
    layers = len(values)
    clean = [value if math.isfinite(value) else None for value in values]
    trace = go.Bar(x=list(range(1, layers + 1)), y=clean, marker={"color": colour, "line": {"width": 0}}, customdata=customdata,
                   hovertemplate=f"Layer %{{x}} of {layers}<br>{hover}<extra></extra>")
    known = [value for value in clean if value is not None]
    ceiling = top or 1.12 * max([*known, level or 0.0, 0.0]) or 1.0
    axis = {"range": [min([*known, 0.0]), ceiling], "ticksuffix": suffix, "nticks": 5, "rangemode": "tozero"}
    return drawn([trace], title, subtitle, caption, HEIGHT, yaxis=axis, shapes=_level(level),
                 xaxis={"tickvals": some_of(range(1, layers + 1)), "range": [0.4, layers + 0.6], "title": {"text": "Layer"}})


def _level(level: float | None) -> list[dict]:
    if level is None:
        return []
    return [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level,
             "line": {"color": EMBER, "width": 2.5}}]

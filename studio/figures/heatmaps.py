"""Heatmaps of the mask: what it keeps, and where it changed from check to check."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from engine.base.colours import INK
from engine.base.events import MaskSnapshot
from studio.figures import theme, words
from studio.figures.theme import BLUES, EMBERS, drawn, empty, grid_of, some_of

KEPT, CHANGED = "What the mask keeps", "Where the mask changed"


def kept_channels(snapshot: MaskSnapshot | None) -> go.Figure:
    """Layers x groups of channels, coloured by the share kept; channels in falling order of their use by the dense model."""
    grid = grid_of(snapshot.kept if snapshot else [])
    if snapshot is None or not grid.size:
        return empty(KEPT, "Nothing learned yet.")
    layers, bins = grid.shape
    centres = (np.arange(bins) + 0.5) * 100 / bins
    trace = go.Heatmap(
        z=grid, x0=centres[0], dx=100 / bins, y=list(range(1, layers + 1)), zmin=0, zmax=1, colorscale=BLUES, showscale=False,
        ygap=1 if layers <= 48 else 0, hoverongaps=False,
        hovertemplate=f"Layer %{{y}} of {layers}<br>%{{z:.0%}} kept of the channels<br>"
                      "about %{x:.0f}\u00a0% down the order of use<extra></extra>")
    removed = snapshot.sparsity
    lines, notes = [], []
    if theme.is_number(removed) and 0 < removed < 1:
        cut = 100 * (1 - removed)
        lines = [{"type": "line", "x0": cut, "x1": cut, "yref": "paper", "y0": 0, "y1": 1,
                  "line": {"color": INK, "width": 1.5, "dash": "dot"}}]
        notes = [{"x": cut, "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": "right" if cut > 40 else "left",
                  "showarrow": False, "text": "a plain cut keeps this side ◂" if cut > 40 else "◂ a plain cut keeps this side",
                  "font": {"size": 11}}]
    return drawn([trace], KEPT, [f"Blue is kept, blank is removed · step {snapshot.step:,}",
                                 f"{words.count(layers, 'layer')} · {_share(removed)} of the channels removed"],
                 "Each row is a layer of the model. Its channels, the small parts that can be removed, lie in the order in "
                 "which the dense model uses them on this character's lines: the most used on the left. Blue right of the dotted "
                 "line was kept although it is little used; blank left of it was removed although it is much used.",
                 _height(layers) + 6, xaxis=_ranking(), yaxis=_layers(layers), shapes=lines, annotations=notes,
                 margin={"t": 92, "b": 30})


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
    return drawn([trace], CHANGED, [f"Channels exchanged since the check before · {words.count(len(steps), 'check')}"],
                 "Each column is one check while the mask was learned, each row a layer. The stronger the colour, the more "
                 "channels came in for others there. A mask that has settled grows pale to the right.",
                 _height(layers), xaxis=axis, yaxis=_layers(layers), margin={"r": 48})


def _height(layers: int) -> int:
    """Room for the rows and the axis below, in px: thin rows where there are many."""
    return 46 + round(min(max(layers * 7, 60), 300))


def _layers(layers: int) -> dict:
    return {"range": [layers + 0.5, 0.5], "tickvals": some_of(range(1, layers + 1)), "showgrid": False,
            "title": {"text": "Layer"}}


def _ranking() -> dict:
    return {"range": [0, 100], "showticklabels": False, "title": {"text": "◂ most used by the dense model · least used ▸"}}


def _share(removed: float) -> str:
    return words.percent(removed) if theme.is_number(removed) else "an unknown share"

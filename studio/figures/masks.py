"""The mask: what it keeps, where it changed from check to check, what it rescued, and how far two masks agree."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from engine.base.events import MaskSnapshot
from studio.figures import theme, words
from studio.figures.theme import BLUE, BLUES, EMBER, EMBERS, INK, drawn, empty, grid_of, some_of

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
                 "Each row is a layer of the model. Its channels, the small parts that can be removed, are in the order in "
                 "which the dense model uses them on this character's lines: the most used on the left. Blue right of the dotted "
                 "line was kept although it is little used; blank left of it was removed although it is much used.",
                 _height_of(layers) + 6, xaxis=_ranking(), yaxis=_layers(layers), shapes=lines, annotations=notes,
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
    return drawn([trace], CHANGED, [f"Channels exchanged since the previous check · {words.count(len(steps), 'check')}"],
                 "Each column is one check while the mask was learned, each row a layer. The stronger the colour, the more "
                 "channels were exchanged there. A mask that has settled grows pale to the right.",
                 _height_of(layers), xaxis=axis, yaxis=_layers(layers), margin={"r": 48})


def _height_of(layers: int) -> int:
    """Room for the rows and the axis below, in px: thin rows where there are many."""
    return 46 + round(min(max(layers * 7, 60), 300))


def _layers(layers: int) -> dict:
    return {"range": [layers + 0.5, 0.5], "tickvals": some_of(range(1, layers + 1)), "showgrid": False,
            "title": {"text": "Layer"}}


def _ranking() -> dict:
    return {"range": [0, 100], "showticklabels": False, "title": {"text": "◂ most used by the dense model · least used ▸"}}


def _share(removed: float) -> str:
    return words.percent(removed) if theme.is_number(removed) else "an unknown share"


EXCHANGED, RESCUED = "Channels exchanged last", "Little used, but kept"
HEIGHT = 190  # px, without the lines of the title


def changed_last(snapshots: Sequence[MaskSnapshot]) -> go.Figure:
    """Channels a layer that entered the mask at the newest check."""
    last = max(snapshots, key=lambda one: one.step, default=None)
    if last is None or not last.changed:
        return empty(EXCHANGED, "Nothing learned yet.")
    values = [float(value) for value in last.changed]
    total = int(sum(value for value in values if math.isfinite(value)))
    return _bars(values, EMBER, EXCHANGED, [f"Step {last.step:,} · {words.count(total, 'channel')} in "
                                          f"{words.count(len(values), 'layer')}"],
                 "How many channels of each layer were exchanged at the latest check. Few means that the mask has settled.",
                 "%{y:,} channels exchanged")


def rescued(snapshot: MaskSnapshot | None, channels: int | None = None) -> go.Figure:
    """Share a layer, of the least used channels (those that a plain cut by use would remove), that the mask keeps.

    `channels`: channels a layer in the dense model, when known: bins may differ in size by one channel.
    A bin that the cut would run through is left out, so that a plain cut by use reads 0 everywhere.
    """
    kept = theme.grid_of(snapshot.kept if snapshot else [])
    if snapshot is None or not kept.size:
        return empty(RESCUED, "Nothing learned yet.")
    sizes = _bin_sizes(kept.shape[1], channels)
    before = np.cumsum(sizes) - sizes
    beyond = before >= (1 - snapshot.sparsity) * sizes.sum() - 1e-6
    if not beyond.any():
        return empty(RESCUED, "Too little is removed at this step to say.")
    shares = 100 * (kept[:, beyond] * sizes[beyond]).sum(axis=1) / sizes[beyond].sum()
    finite = shares[np.isfinite(shares)]
    mean = f"{words.percent(float(finite.mean()) / 100)} on average" if finite.size else "no numbers"
    group = float(sizes[beyond].sum() / sizes.sum())
    return _bars(shares.tolist(), EMBER, RESCUED, [f"Share kept of the least used {words.percent(group)} · step {snapshot.step:,}",
                                                   f"{mean} over {words.count(len(kept), 'layer')}"],
                 "A plain cut removes the channels that the dense model uses least. The learned mask keeps some of them because "
                 "this character needs them. 0 would be the plain cut.",
                 "%{y:.1f}\u00a0% of the least used channels kept", suffix="\u00a0%")


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


def _bin_sizes(bins: int, channels: int | None) -> np.ndarray:
    """Channels in each bin: the first ones take one more where the channels do not divide evenly."""
    if not channels:
        return np.ones(bins)
    return np.full(bins, channels // bins) + (np.arange(bins) < channels % bins)

"""Bars, one a layer: what changed last, what was rescued, how far two masks agree."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from engine.base.colours import BLUE, EMBER
from engine.base.events import MaskSnapshot
from studio.figures import theme, words
from studio.figures.theme import drawn, empty, some_of

CHANGED, RESCUED = "Channels exchanged last", "Little used, kept all the same"
HEIGHT = 190  # px, without the lines of the title


def changed_last(snapshots: Sequence[MaskSnapshot]) -> go.Figure:
    """Channels a layer that entered the mask at the newest check."""
    last = max(snapshots, key=lambda one: one.step, default=None)
    if last is None or not last.changed:
        return empty(CHANGED, "Nothing learned yet.")
    values = [float(value) for value in last.changed]
    total = int(sum(value for value in values if math.isfinite(value)))
    return _bars(values, EMBER, CHANGED, [f"Step {last.step:,} · {words.count(total, 'channel')} in "
                                          f"{words.count(len(values), 'layer')}"],
                 "How many channels of each layer came in for others at the newest check. Few means that the mask has settled.",
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
                 f"{words.count(layers, 'layer')}. Bars far above the line mean that the two characters lean on the same "
                 "channels; bars at the line, that they agree no more than two masks drawn by lot.",
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

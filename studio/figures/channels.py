"""The channels, layer by layer: how the character uses them beside others, and which of them go."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from engine.base.pruning_events import ChannelUse, MaskSnapshot
from studio.figures import theme, words
from studio.figures.masks import height_of, layer_axis
from studio.figures.theme import BLUE, BLUES, EMBER, EMBERS, INK, drawn, empty, grid_of

USED, CUT = "What this character uses", "What goes and what stays"
RELATIVE = [[0.0, "rgba(58,134,207,1)"], [0.5, "rgba(128,123,117,0.06)"], [1.0, "rgba(217,102,31,1)"]]
_LEAST = 0.3  # the colours are full at this much or more, in powers of two
_UNLIKE = 0.01  # of the channels: layers whose shares differ by more have widths of their own


def used(event: ChannelUse | None) -> go.Figure:
    """Layers x groups of channels: used more by the character than by others (ember), or less (blue)."""
    grid = grid_of(event.ratio if event else [])
    if event is None or not np.isfinite(grid).any():
        return empty(USED, "Nothing read yet.")
    layers = len(grid)
    full = max(float(np.nanquantile(np.abs(grid), 0.98)), _LEAST)
    trace = _heatmap(grid, layers, f"Layer %{{y}} of {layers}<br>%{{customdata}} as much as others", colorscale=RELATIVE,
                     zmin=-full, zmax=full, customdata=[[_times(value) for value in row] for row in grid])
    layer, place = np.unravel_index(int(np.nanargmax(grid)), grid.shape)
    who = words.shortened(event.subject or "the character", 20)
    legend = f'<span style="color:{EMBER}">■</span> more than others · <span style="color:{BLUE}">■</span> less'
    says = (f"The orange groups are used more by {event.subject or 'this character'} than by {spoken_list(event.others)}; most of "
            f"all one in layer {layer + 1}, {_times(grid[layer, place])} as much.")
    return drawn([trace], USED, [f"{who} · {event.done:,} of {words.count(event.total, 'part')} of the text read", legend],
                 f"Each row is a layer of the model, each cell a group of its channels, as they lie in the model. Read while the "
                 f"model spoke: {words.count(event.tokens, 'word piece')} of this character, {event.other_tokens:,} of the others. "
                 f"The colours are full at {_times(full)} as much, or as little.", height_of(layers) + 6, says,
                 xaxis=_axis("Channels"), yaxis=layer_axis(layers), margin={"b": 30})


def spoken_list(others: Sequence[str]) -> str:
    """The others by name; the one without a name is the plain assistant."""
    names = [name or "the plain assistant" for name in others]
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:]))) or "others"


def _times(power: float) -> str:
    """A log2 ratio in words."""
    return f"{2.0 ** float(power):.2g} times" if np.isfinite(power) else "unknown"


def cut(snapshot: MaskSnapshot | None) -> go.Figure:
    """Layers x groups of channels, coloured by the share that stays: blue where a cut without the character keeps it too, ember
    where that would remove it."""
    grid = grid_of(snapshot.kept if snapshot else [])
    if snapshot is None or not snapshot.otherwise or not grid.size:
        return empty(CUT, "Nothing chosen yet.")
    layers, bins = grid.shape
    border = 100 * (1 - snapshot.sparsity)
    beyond = (np.arange(bins) + 0.5) * 100 / bins > border
    traces = [_heatmap(np.where(beyond == side, grid, np.nan), layers,
                       f"Layer %{{y}} of {layers}<br>%{{z:.0%}} of these channels stay", colorscale=colours, zmin=0, zmax=1)
              for side, colours in ((False, BLUES), (True, EMBERS))]
    line = {"type": "line", "x0": border, "x1": border, "yref": "paper", "y0": 0, "y1": 1,
            "line": {"color": INK, "width": 1.5, "dash": "dot"}}
    exchanged = sum(snapshot.otherwise)
    layer = int(np.argmax(snapshot.otherwise)) + 1
    says = (f"{words.count(exchanged, 'channel')} {'stays' if exchanged == 1 else 'stay'} for this character that a plain cut "
            f"would remove, and as many go in their place; most in layer {layer}: {max(snapshot.otherwise):,}.")
    legend = f'<span style="color:{BLUE}">■</span> stays · <span style="color:{EMBER}">■</span> stays for this character · □ goes'
    step = f" · step {snapshot.step:,}" if snapshot.step else ""
    return drawn(traces, CUT, [f"{_share(snapshot.sparsity)} of the channels go{step}", legend],
                 "Each row is a layer, its channels in the order in which they matter to others than this character: most on the "
                 "left. A plain cut, which knows only the others, would keep all left of the dotted line and nothing right of it. "
                 "Pale left of the line goes because this character does not need it.",
                 height_of(layers) + 6, says, xaxis=_axis("◂ matters most to others · least ▸"),
                 yaxis=_widths(grid), shapes=[line], margin={"b": 30})


def _heatmap(grid: np.ndarray, layers: int, hover: str, **named: object) -> go.Heatmap:
    step = 100 / grid.shape[1]
    return go.Heatmap(z=grid, x0=step / 2, dx=step, y=list(range(1, layers + 1)), showscale=False, hoverongaps=False,
                      ygap=1 if layers <= 48 else 0, hovertemplate=f"{hover}<extra></extra>", **named)


def _widths(grid: np.ndarray) -> dict:
    """The axis of layers; with each one's share, where the shares differ."""
    axis, shares = layer_axis(len(grid)), np.nanmean(grid, axis=1)
    if shares.max() - shares.min() > _UNLIKE:
        axis["ticktext"] = [f"{layer}: {words.percent(float(shares[layer - 1]))}" for layer in axis["tickvals"]]
    return axis


def _axis(title: str) -> dict:
    return {"range": [0, 100], "showticklabels": False, "title": {"text": title}}


def _share(removed: float) -> str:
    return words.percent(removed) if theme.is_number(removed) else "An unknown share"

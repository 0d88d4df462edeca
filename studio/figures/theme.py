"""One look for all figures, in light and in dark pages: colours, fonts, the empty state.

A page may change between light and dark without asking the server. So backgrounds are transparent, and every colour
stands out from both white and near-black; STYLE lets the page's own text colour take over
where there is one.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

INK = "#807b75"  # text and axes; at least 4 to 1 on white and on near-black
GRID = "rgba(128,123,117,0.22)"
# Distinguishable for readers with any of the common colour blindnesses, and by lightness. At least 3 to 1 on white and near-black.
BLUE, EMBER, GREY = "#3a86cf", "#d9661f", "#8f8a84"
FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'
BLUES = [[0.0, "rgba(58,134,207,0.05)"], [0.5, "rgba(58,134,207,0.42)"], [1.0, "rgba(58,134,207,1)"]]
EMBERS = [[0.0, "rgba(217,102,31,0.05)"], [0.5, "rgba(217,102,31,0.45)"], [1.0, "rgba(217,102,31,1)"]]
LABEL = 12  # px
SPREAD = 12.0  # values that differ by more than this factor are drawn on a logarithmic scale
_CONFIG = {"displayModeBar": False, "doubleClick": False}  # live.js keeps its width
_RGB = ", ".join(str(int(INK[place:place + 2], 16)) for place in (1, 3, 5))
STYLE = f'.js-plotly-plot text[style*="rgb({_RGB})"] {{ fill: var(--body-text-color) !important; }}'
"""CSS for the page: the figures' text takes the page's own colour, light or dark."""


class StudioFigure(go.Figure):
    """A figure whose JSON also asks for no mode bar: gr.Plot hands the key `config` on to plotly.js."""

    def to_json(self, *args: Any, **kwargs: Any) -> str:
        """The figure as JSON, with its config."""
        return f'{super().to_json(*args, **kwargs).rstrip()[:-1]},"config":{json.dumps(_CONFIG)}}}'


def _template(height: int, top: int) -> go.layout.Template:
    axis = {"fixedrange": True, "gridcolor": GRID, "linecolor": GRID, "zeroline": False, "ticks": "", "automargin": False,
            "title": {"font": {"size": LABEL}, "standoff": 6}}
    return go.layout.Template(layout={
        "height": height, "font": {"family": FONT, "size": LABEL, "color": INK}, "colorway": [BLUE, EMBER, GREY],
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "dragmode": False, "showlegend": False,
        "margin": {"l": 44, "r": 14, "t": top, "b": 42}, "xaxis": {**axis, "showgrid": False}, "yaxis": axis, "bargap": 0.25,
        "hoverlabel": {"bgcolor": "#1f2430", "bordercolor": "#1f2430", "font": {"family": FONT, "size": 13, "color": "#ffffff"},
                       "align": "left"},
        "title": {"x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top",
                  "pad": {"l": 6, "t": 8}, "font": {"size": 15}}})


def drawn(traces: Iterable[Any], title: str, subtitle: Sequence[str], caption: str, height: int, says: str = "",
          **layout: Any) -> StudioFigure:
    """A figure in the studio's look. `subtitle`: its lines, each short enough for 400 px; `height` in px, without them.

    `says` is one plain sentence on what is to be seen, shown below; `caption` is plain text on how to read it, see `caption_of`.
    """
    lines = [line for line in subtitle if line]
    top = 40 + 16 * len(lines)
    below = "".join(f'<br><span style="font-size:{LABEL}px;font-weight:400">{line}</span>' for line in lines)
    figure = StudioFigure(data=list(traces))
    figure.update_layout(template=_template(height + top, top), meta={"caption": caption, "says": says}, title={
        "text": f"<b>{title}</b>{below}", "pad": {"t": 20 if lines else 8}})  # plotly lifts a title of several lines
    return figure.update_layout(**layout)


def empty(title: str, sentence: str) -> StudioFigure:
    """A figure with nothing but its title and one quiet sentence."""
    note = {"text": sentence, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "font": {"size": 13}}
    hidden = {"visible": False}
    return drawn([], title, [], sentence, 104, xaxis=hidden, yaxis=hidden, annotations=[note], margin={"b": 20})


def caption_of(figure: go.Figure) -> str:
    """The sentence that explains a figure of this package; plain text, no HTML."""
    return str((figure.layout.meta or {}).get("caption", ""))


def says_of(figure: go.Figure) -> str:
    """The sentence on what is to be seen in a figure; plain text, "" where it has none."""
    return str((figure.layout.meta or {}).get("says", ""))


def grid_of(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Rows as one float32 array; what is missing or infinite becomes NaN, which a heatmap leaves blank."""
    grid = np.full((len(rows), max((len(row) for row in rows), default=0)), np.nan, dtype=np.float32)
    for number, row in enumerate(rows):
        grid[number, :len(row)] = row
    grid[~np.isfinite(grid)] = np.nan
    return grid


def value_axis(title: str, values: Sequence[float], digits: Sequence[int]) -> dict[str, Any]:
    """An axis from 0 for values, or a logarithmic one where they are far apart; `digits`: of its ticks, then."""
    positive, high = [value for value in values if value > 0], 1.2 * max([*values, 1e-6])
    axis: dict[str, Any] = {"title": {"text": title}, "nticks": 5, "range": [0.0, high]}
    if positive and max(positive) > SPREAD * min(positive):
        axis |= {"type": "log", "range": [math.log10(min(positive) / 1.3), math.log10(high)],
                 "tickvals": [digit * 10.0**power for power in range(-6, 4) for digit in digits]}
    return axis


def is_number(value: float | None) -> bool:
    """Whether a value can be drawn."""
    return value is not None and math.isfinite(value)


def some_of(values: Sequence[Any], at_most: int = 6) -> list[Any]:
    """The first and a few evenly chosen values, the last too where there is room: the ticks of an axis."""
    if len(values) <= at_most:
        return list(values)
    stride = -(-(len(values) - 1) // (at_most - 1))
    places = list(range(0, len(values), stride))
    if len(values) - 1 - places[-1] > 0.7 * stride:
        places.append(len(values) - 1)
    return [values[place] for place in places]

"""The ladder of readings: how close each way of cutting stays to the dense model."""

import math
from collections.abc import Iterable

import plotly.graph_objects as go

from engine.base.colours import BLUE, EMBER, GREY
from engine.base.events import Measured
from engine.base.ids import BASELINES, ReadingId
from studio import labels
from studio.figures import words
from studio.figures.theme import drawn, empty

TITLE = "Distance to the dense model"
_ROOM = 2.5  # a bar longer than this many times the longest of a learned mask is cut short
_ROW = 40  # px


def ladder(readings: Iterable[Measured]) -> go.Figure:
    """A bar a reading (KL in nats a token): baselines first, the last thing learned, which is what is exported, in ember."""
    known = [one for one in in_order(readings) if math.isfinite(one.kl)]
    if not known:
        return empty(TITLE, "Nothing measured yet.")
    learned = [one for one in known if one.what not in BASELINES]
    widest = max(one.kl for one in known)
    fair = max(one.kl for one in learned) if learned else min(one.kl for one in known)
    limit = min(widest, _ROOM * fair) if fair > 0 else widest
    rows = [len(known) - place for place in range(len(known))]
    cut = [one.kl > limit for one in known]
    colours = [GREY if one.what in BASELINES else EMBER if one is learned[-1] else BLUE for one in known]
    trace = go.Bar(
        x=[min(one.kl, limit) for one in known], y=rows, orientation="h", width=0.28,
        marker={"color": colours, "line": {"width": 0}, "pattern": {"shape": ["/" if short else "" for short in cut], "size": 6,
                                                                    "fillmode": "replace", "solidity": 0.45}},
        customdata=[[labels.reading(one.what), one.kl, 100 * one.top1, one.lines, one.tokens] for one in known],
        hovertemplate="%{customdata[0]}<br>Distance %{customdata[1]:.3f}<br>Same next word piece: %{customdata[2]:.0f}\u00a0%<br>"
                      "%{customdata[3]:,} lines, %{customdata[4]:,} word pieces<extra></extra>")
    lines = {one.lines for one in known}
    notes = [note for row, one in zip(rows, known, strict=True) for note in _row(row, one, len(lines) > 1)]
    on = f"On {words.count(lines.pop(), 'line')} that taught nothing" if len(lines) == 1 else "On lines that taught nothing"
    return drawn([trace], TITLE, [f"{on} · shorter is closer",
                                  "Striped bars are longer than the chart" if any(cut) else ""],
                 words.DISTANCE + " The coloured bars are this character's; grey are simpler ways to remove as much.",
                 _ROW * len(known) + 16, annotations=notes, margin={"l": 8, "r": 8, "b": 8},
                 xaxis={"range": [0, limit or 1], "visible": False}, yaxis={"range": [0.6, len(known) + 0.75], "visible": False})


def in_order(readings: Iterable[Measured]) -> list[Measured]:
    """Readings in the order of the labels, unknown ones last, without the dense model's own (which is 0 by definition)."""
    places = {id: place for place, id in enumerate(labels.READINGS)}
    return sorted((one for one in readings if one.what != ReadingId.DENSE), key=lambda one: places.get(one.what, len(places)))


def _row(row: int, one: Measured, with_lines: bool) -> list[dict]:
    """Name and value above a bar: no room beside it at 400 px."""
    lines = f" · {words.count(one.lines, 'line')}" if with_lines else ""
    common = {"xref": "paper", "y": row + 0.16, "yanchor": "bottom", "showarrow": False}
    return [{**common, "x": 0, "xanchor": "left", "text": labels.reading(one.what) + lines, "xshift": -1},
            {**common, "x": 1, "xanchor": "right", "text": f"<b>{words.figure(one.kl)}</b>"}]

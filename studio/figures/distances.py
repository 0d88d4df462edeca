"""Distances to the dense model: learning curves step by step, and the ladder of readings."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import plotly.graph_objects as go

from engine.base.events import Measured
from engine.base.ids import BASELINES, ReadingId
from studio import labels
from studio.figures import words
from studio.figures.theme import BLUE, EMBER, GREY, INK, drawn, empty

CURVES = "How learning goes"
HEIGHT = 260  # px, without the lines of the title
_LABELS: dict[str, tuple[str, str]] = {
    ReadingId.RANDOM: ("Cut at random", "random"), ReadingId.MAGNITUDE: ("Smallest weights", "smallest weights"),
    ReadingId.WANDA: ("Least used cut", "least used"), ReadingId.RECONSTRUCTED: ("Mask, refitted", "refitted"),
    ReadingId.TUNED: ("Refitted and tuned", "tuned")}
LEVELS = tuple(_LABELS)
_ROOM = 2.2  # a level higher than this many times the curves is named in a note: drawn, it would flatten them
_SPREAD = 12.0  # curves that fall by more than this factor are drawn on a logarithmic scale
_MOST = 400  # points drawn of a curve
_APART = 28.0  # px from label to label


def learning(losses: Sequence[tuple[int, float]], validation: Sequence[tuple[int, float, int]],
             readings: Mapping[str, Measured], steps: int = 0, loss: Literal["kl", "ce"] = "kl") -> go.Figure:
    """Loss on the learning lines and distance on the held-out lines against steps, in nats a token.

    `losses`: (step, loss); `validation`: (step, KL, lines); `readings` on the test lines, by name: those of LEVELS become
    level lines. `steps`: the job's learning steps, 0 when unknown. A cross entropy (`loss` "ce") is no distance and not drawn.
    """
    seen = [(step, value) for step, value in losses if math.isfinite(value)] if loss == "kl" else []
    held = [(step, value) for step, value, _ in validation if math.isfinite(value)]
    if not seen and not held:
        return empty(CURVES, "Nothing learned yet.")
    lines = validation[-1][2] if validation else 0
    values = [value for _, value in seen + held]
    positive = [value for value in values if value > 0]
    log = bool(positive) and max(positive) > _SPREAD * min(positive)
    low, high = (min(positive) / 1.3 if log else 0.0), 1.15 * max([*values, 1e-6])
    levels = {name: readings[name] for name in LEVELS if name in readings and math.isfinite(readings[name].kl)}
    inside = {name: one for name, one in levels.items() if one.kl <= high * _ROOM and (one.kl > low or not log)}
    high = max([high, *(1.08 * one.kl for one in inside.values())])
    outside = [one for one in levels.values() if one.kl > high]
    subtitle = [_legend(bool(seen), lines), _note(outside)]
    axis: dict[str, Any] = {"title": {"text": "Distance to the dense model"}, "nticks": 5, "range": [low, high]}
    if log:
        axis |= {"type": "log", "range": [math.log10(low), math.log10(high)],
                 "tickvals": [digit * 10.0**power for power in range(-6, 4) for digit in (1, 2, 5)]}
    last = max(step for step, _ in seen + held)
    caption = words.DISTANCE + (" The mask learns from the learning lines. It never learns from the held-out lines: they choose "
                                "the best step.")
    return drawn(_traces(seen, held, lines), CURVES, subtitle, caption, HEIGHT, yaxis=axis, **_levels(inside, low, high, log),
                 xaxis={"range": [0, max(steps, last, 1) * 1.02], "title": {"text": "Learning step"}, "nticks": 6},
                 margin={"l": 50, "r": 118 if inside else 16})


def _traces(seen: list[tuple[int, float]], held: list[tuple[int, float]], lines: int) -> list[go.Scatter]:
    traces = []
    if seen:
        thin = [seen[place * len(seen) // _MOST] for place in range(_MOST)] if len(seen) > _MOST else seen
        traces.append(go.Scatter(
            x=[step for step, _ in thin], y=[value for _, value in thin], mode="lines" if len(thin) > 1 else "markers",
            name="learning lines", line={"color": BLUE, "width": 1.5}, cliponaxis=False,
            hovertemplate="Step %{x:,}<br>Distance %{y:.3f} on the lines of this step<extra></extra>"))
    if held:
        best = min(range(len(held)), key=lambda place: held[place][1])
        of = words.count(lines, "held-out line")
        traces.append(go.Scatter(
            x=[step for step, _ in held], y=[value for _, value in held], mode="lines+markers", name="held-out lines",
            line={"color": EMBER, "width": 2.5}, cliponaxis=False,
            marker={"color": EMBER, "opacity": 1, "line": {"width": 0},
                    "size": [13 if place == best else 6 for place in range(len(held))],
                    "symbol": ["diamond" if place == best else "circle" for place in range(len(held))]},
            text=["<br>The lowest so far" if place == best else "" for place in range(len(held))],
            hovertemplate=f"Step %{{x:,}}<br>Distance %{{y:.3f}} on {of}%{{text}}<extra></extra>"))
    return traces


def _legend(seen: bool, lines: int) -> str:
    """The curves' names in their colours: shorter than a legend, and readable at 400 px."""
    parts = [f'<span style="color:{BLUE}">■</span> learning lines'] if seen else []
    if lines:
        parts.append(f'<span style="color:{EMBER}">■</span> {words.count(lines, "held-out line")}, ◆ best')
    return " · ".join(parts)


def _note(outside: Sequence[Measured]) -> str:
    if not outside:
        return ""
    named = ", ".join(f"{_LABELS[one.what][1]} {words.figure(one.kl)}" for one in outside)
    return f"Above: {named} ({words.count(outside[0].lines, 'test line')})"


def _levels(inside: Mapping[str, Measured], low: float, high: float, log: bool) -> dict:
    """A dashed line at each level, its label right of the chart; labels that would touch are moved apart."""
    scale = (lambda value: math.log10(value)) if log else float
    plot = HEIGHT - 42  # px between the margins
    shapes, notes = [], []
    lowest = -math.inf
    for name, one in sorted(inside.items(), key=lambda item: item[1].kl):
        place = plot * (scale(one.kl) - scale(low)) / (scale(high) - scale(low))
        shown = max(place, lowest + _APART)
        lowest = shown
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": one.kl, "y1": one.kl,
                       "line": {"color": INK, "width": 1.2, "dash": "dash"}})
        notes.append({"xref": "paper", "x": 1, "xanchor": "left", "xshift": 6, "y": scale(one.kl), "yanchor": "middle",
                      "yshift": round(shown - place), "showarrow": False, "align": "left", "font": {"size": 11},
                      "text": f"{_LABELS[name][0]}<br><b>{words.figure(one.kl)}</b> · {words.count(one.lines, 'test line')}"})
    return {"shapes": shapes, "annotations": notes}


LADDER = "Distance to the dense model"
_LADDER_ROOM = 2.5  # a bar longer than this many times the longest of a learned mask is cut short
_ROW_HEIGHT = 40  # px


def ladder(readings: Iterable[Measured]) -> go.Figure:
    """A bar a reading (KL in nats a token): baselines first, the last thing learned, which is what is exported, in ember."""
    known = [one for one in in_order(readings) if math.isfinite(one.kl)]
    if not known:
        return empty(LADDER, "Nothing measured yet.")
    learned = [one for one in known if one.what not in BASELINES]
    widest = max(one.kl for one in known)
    fair = max(one.kl for one in learned) if learned else min(one.kl for one in known)
    limit = min(widest, _LADDER_ROOM * fair) if fair > 0 else widest
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
    on = f"On {words.count(lines.pop(), 'line') if len(lines) == 1 else 'lines'} that it did not learn from"
    return drawn([trace], LADDER, [f"{on} · shorter is closer",
                                  "Striped bars are longer than the chart" if any(cut) else ""],
                 words.DISTANCE + " The coloured bars are this character's; grey are simpler ways to remove as much.",
                 _ROW_HEIGHT * len(known) + 16, annotations=notes, margin={"l": 8, "r": 8, "b": 8},
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

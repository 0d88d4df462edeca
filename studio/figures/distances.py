"""Distances to the dense model: the course of a run, and the ladder of readings."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal

import plotly.graph_objects as go

from engine.base.events import Step
from engine.base.ids import BASELINES, ReadingId
from engine.base.pruning_events import Measured
from studio import labels
from studio.figures import words
from studio.figures.theme import BLUE, EMBER, GREY, INK, drawn, empty, value_axis

COURSE = "Distance over the whole run"
HEIGHT = 240  # px, without the lines of the title
_MOST = 400  # points drawn of a curve
_NAMED = (ReadingId.START_BEFORE, ReadingId.START_AFTER, ReadingId.MASK_AFTER, ReadingId.TUNING_AFTER,
          ReadingId.TUNING_AGAIN_AFTER)  # named where they are
Point = tuple[float, Measured | Step]  # seconds of work, and the event after them


def course(points: Sequence[Point], loss: Literal["kl", "ce"] = "kl") -> go.Figure:
    """Distance on the held-out lines, in nats a token, against the time that the run has worked; and that on the learning lines
    of each step, unless the loss is a cross entropy ("ce"), which is no distance."""
    held = [(at, one) for at, one in points if isinstance(one, Measured) and math.isfinite(one.kl)]
    seen = [(at, one) for at, one in points if isinstance(one, Step) and loss == "kl"]
    if not held and not seen:
        return empty(COURSE, "Nothing measured yet.")
    seen = [seen[place * len(seen) // _MOST] for place in range(_MOST)] if len(seen) > _MOST else seen
    first, last = (found([at for at, _ in (*held, *seen)]) for found in (min, max))
    unit, size = ("minutes", 60.0) if last >= 120 else ("seconds", 1.0)
    values = [one.kl for _, one in held] + [one.values["loss"] for _, one in seen]
    axis = value_axis("Distance to the dense model", values, (1, 2, 5))
    legend = [f'<span style="color:{EMBER}">■</span> {words.count(held[-1][1].lines, "held-out line")}'] if held else []
    legend += [f'<span style="color:{BLUE}">■</span> learning lines'] if seen else []
    width = max((last - first) / size, last / size / 2, 1.0)  # wide enough for a single point
    return drawn(_curves(held, seen, size), COURSE, [" · ".join(legend)],
                 words.DISTANCE + " Nothing is learned from the held-out lines.", HEIGHT, _course_says(held),
                 yaxis=axis, margin={"l": 50},
                 xaxis={"range": [first / size - 0.05 * width, last / size + 0.14 * width], "nticks": 6,
                        "title": {"text": f"{unit.capitalize()} of work"}})


def _curves(held: Sequence[tuple[float, Measured]], seen: Sequence[tuple[float, Step]], size: float) -> list[go.Scatter]:
    names = [labels.reading(one.what) + (f" {one.step:,}" if one.step else "") for _, one in held]
    parts = [list(part) for _, part in groupby(seen, lambda one: one[1].stage)]  # a gap between two stages
    points = [point for part in parts for point in (*part, None)][:-1]
    learning = go.Scatter(x=[point and point[0] / size for point in points],
                          y=[point and point[1].values["loss"] for point in points], name="learning lines",
                          mode="lines" if len(seen) > 1 else "markers", line={"color": BLUE, "width": 1.5},
                          customdata=[point and point[1].done for point in points],
                          hovertemplate="Step %{customdata:,}<br>Distance %{y:.3f} on its lines<extra></extra>")
    if not held:
        return [learning]
    return [*([learning] if seen else []), go.Scatter(
        x=[at / size for at, _ in held], y=[one.kl for _, one in held], mode="lines+markers+text", name="held-out lines",
        line={"color": EMBER, "width": 2.5}, marker={"color": EMBER, "size": 7}, cliponaxis=False, customdata=names,
        text=[labels.reading(one.what) if one.what in _NAMED else "" for _, one in held], textposition="top right",
        textfont={"size": 11, "color": INK}, hovertemplate=f"%{{customdata}}<br>Distance %{{y:.3f}} on "
        f"{words.count(held[-1][1].lines, 'held-out line')}<extra></extra>")]


def _course_says(held: Sequence[tuple[float, Measured]]) -> str:
    if not held:
        return "The model learns from step to step; it is not measured yet."
    first, last = held[0][1].kl, held[-1][1].kl
    lines = words.count(held[-1][1].lines, "line")
    if len(held) == 1:
        return f"On {lines} that it does not learn from, the model is now {words.figure(first)} away from the whole one."
    return (f"On {lines} that it does not learn from, the model was {words.figure(first)} away from the whole one, and is now "
            f"{words.figure(last)} away.")


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
    return drawn([trace], LADDER, [on, "Shorter is closer" + ("; striped: too long to show" if any(cut) else "")],
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

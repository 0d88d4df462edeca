"""What to ship: how close each model of a character is at each file type, against what it costs."""

from collections.abc import Sequence

import plotly.graph_objects as go

from engine.base.frontier import AXES, front, verdict
from engine.base.pruning_events import Placed
from studio.figures import words
from studio.figures.theme import BLUE, EMBER, GREY, INK, drawn, empty

UNKNOWN = "How close, and at what cost"
_KINDS = (("dense model", GREY, "circle", lambda point: not point.sparsity and not point.baked),
          ("pruned", BLUE, "diamond", lambda point: point.sparsity > 0 and not point.baked),
          ("baked", EMBER, "square", lambda point: point.baked))
_APART = (0.2, 0.09)  # of the width and the height: nearer points do not both get their name


def tradeoff(points: Sequence[Placed], axis: str = "size", picked: Placed | None = None) -> go.Figure:
    """KL to the dense model under the whole prompt, against one of AXES; points that no other beats are joined.

    `picked`: the point that a budget chose, ringed.
    """
    cost = AXES[axis]
    shown = [point for point in points if cost.value(point) is not None]
    if not shown:
        return empty(UNKNOWN, "Nothing was measured yet." if not points else "No speed was measured.")
    best = front(shown, cost)
    traces: list[go.Scatter] = [go.Scatter(
        x=[cost.value(point) for point in best], y=[point.kl for point in best], mode="lines", hoverinfo="skip",
        line={"color": INK, "width": 1.5, "dash": "dot"})]
    for name, colour, symbol, belongs in _KINDS:
        own = [point for point in shown if belongs(point)]
        if own:
            traces.append(go.Scatter(
                x=[cost.value(point) for point in own], y=[point.kl for point in own], mode="markers", name=name, cliponaxis=False,
                marker={"color": colour, "symbol": symbol, "size": [11 if point in best else 7 for point in own],
                        "opacity": [1.0 if point in best else 0.55 for point in own], "line": {"width": 0}},
                customdata=[_hover(point) for point in own], hovertemplate="%{customdata}<extra></extra>"))
    if picked in shown:
        traces.append(go.Scatter(x=[cost.value(picked)], y=[picked.kl], mode="markers", hoverinfo="skip", cliponaxis=False,
                                 marker={"color": "rgba(0,0,0,0)", "size": 20, "line": {"color": EMBER, "width": 2.5}}))
    values = [value for point in shown if (value := cost.value(point)) is not None]
    wide, high = max(values) - min(values) or max(values), max(point.kl for point in shown) or 1.0
    room = 0.08 * wide
    named: list[Placed] = []
    for point in best:  # a name that would lie on another is left out; pointing at a point tells it as well
        near = (one for one in named if abs((cost.value(point) or 0) - (cost.value(one) or 0)) < _APART[0] * wide)
        if all(abs(point.kl - one.kl) > _APART[1] * high for one in near):
            named.append(point)
    notes = [{"x": cost.value(point), "y": point.kl, "text": point.type, "showarrow": False, "yshift": 14, "font": {"size": 11}}
             for point in named]
    first = shown[0]
    title = f"{picked.name} at {picked.type}" if picked else f"{len(best)} of {len(shown)} are beaten by none"
    legend = " · ".join(f'<span style="color:{colour}">{"●◆■"[number]}</span> {name}'
                        for number, (name, colour, _, belongs) in enumerate(_KINDS) if any(map(belongs, shown)))
    caption = " ".join([*verdict(points), f"On {first.lines} lines ({first.tokens:,} word pieces) that no model learned from.",
                        "Lower is closer to the dense model with the whole card. Joined: no other point is closer for the same or "
                        "less."])
    return drawn(traces, title, [legend], caption, 300, annotations=notes, margin={"l": 54, "r": 16, "b": 46},
                 xaxis={"title": {"text": cost.name}, "range": [min(values) - room, max(values) + room], "nticks": 6},
                 yaxis={"title": {"text": "Distance to the dense model"}, "rangemode": "tozero", "nticks": 6})


def _hover(point: Placed) -> str:
    lines = [f"<b>{point.name}, {point.type}</b>", f"{words.size(point.bytes)} · distance {point.kl:.3f}",
             f"the same next word piece {words.percent(point.top1)} of the time"]
    if point.rounds:
        lines.append(f"{point.tokens_per_second:.0f} tokens a second, the first after {point.first_token_seconds:.2f} s")
    return "<br>".join([*lines, *(["the file that the dense model came from"] if point.exact else [])])

"""The error of each layer: when it is cut, with its refit, and once it is tuned."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from engine.base.ids import StageId
from engine.base.pruning_events import LayerTuned, LayerTuning
from studio.figures import words
from studio.figures.theme import BLUE, EMBER, GREY, GRID, drawn, empty, some_of, value_axis

ERRORS = "How wrong each layer is"
HEIGHT = 230  # px, without the lines of the title
_REFITS = (StageId.RECONSTRUCT_START, StageId.RECONSTRUCT)
TUNING = "being tuned: on the lines it learns from"
_STATES = (("cut", GREY, "circle-open"), ("refitted", BLUE, "circle"), ("tuned", EMBER, "diamond"))
Errors = dict[int, float]  # a layer's, by its number


def errors(events: Sequence[LayerTuned], tuning: LayerTuning | None = None) -> go.Figure:
    """Each layer's error on held-out lines, as a share of what it is to put out, in each state that it has been in.

    tuning: of the layer that is being tuned, whose error is that on the lines it learns from.
    """
    states = [{layer: value for layer, value in found.items() if math.isfinite(value)} for found in in_states(events)]
    if not any(states):
        return empty(ERRORS, "No layer repaired yet.")
    layers = events[-1].layers
    values = [100 * value for found in states for value in found.values()]
    values += [100 * tuning.error] if tuning else []
    shown = [(*state, found) for state, found in zip(_STATES, states, strict=True) if found]
    traces = [_paths(states), *(_dots(found, name, colour, symbol, layers) for name, colour, symbol, found in shown)]
    legend = " · ".join(f'<span style="color:{colour}">{"◆" if symbol == "diamond" else "●"}</span> {name}'
                        for name, colour, symbol, _ in shown)
    if tuning:
        traces.append(_dots({tuning.layer: tuning.error}, TUNING, EMBER, "diamond-open", layers))
        legend += f' · <span style="color:{EMBER}">◇</span> {TUNING}'
    return drawn(traces, ERRORS, [f"Of {words.count(layers, 'layer')}, lowest first", legend],
                 "A layer's error is how far what it puts out is from what it should, on lines that it does not learn from; 100 % "
                 "would be an empty layer. Refitting and tuning go layer by layer from the left, and each layer also corrects what "
                 "those before it get wrong.",
                 HEIGHT, _says(shown, layers), yaxis=value_axis("Error in %", values, (1, 3)), margin={"l": 52},
                 xaxis={"tickvals": some_of(range(1, layers + 1)), "range": [0.4, layers + 0.6], "title": {"text": "Layer"}})


def in_states(events: Sequence[LayerTuned]) -> tuple[Errors, Errors, Errors]:
    """The errors as cut, refitted and tuned. Earlier versions said nothing of the refit: then what tuning began with is it."""
    cut: Errors = {}
    refitted: Errors = {}
    tuned: Errors = {}
    for one in events:
        if one.stage in _REFITS:
            cut[one.layer], refitted[one.layer] = one.before, one.before if one.after is None else one.after
        else:
            tuned[one.layer] = one.after if one.used and one.after is not None else one.before
            refitted.setdefault(one.layer, one.before)
    return cut, refitted, tuned


def _paths(states: Sequence[Errors]) -> go.Scatter:
    """From each layer's first error to its last."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for layer in sorted(set().union(*states)):
        known = [100 * found[layer] for found in states if layer in found]
        xs += [layer + 1, layer + 1, None]
        ys += [known[0], known[-1], None]
    return go.Scatter(x=xs, y=ys, mode="lines", line={"color": GRID, "width": 3}, hoverinfo="skip")


def _dots(found: Errors, name: str, colour: str, symbol: str, layers: int) -> go.Scatter:
    return go.Scatter(x=[layer + 1 for layer in found], y=[100 * value for value in found.values()], mode="markers", name=name,
                      marker={"color": colour, "symbol": symbol, "size": 7, "opacity": 1},
                      hovertemplate=f"Layer %{{x}} of {layers}, {name}<br>Error %{{y:.2f}}\u00a0%<extra></extra>")


def _says(shown: Sequence[tuple[str, str, str, Errors]], layers: int) -> str:
    """The mean error in each state, of the layers that have come to the last one: others would be compared with other layers."""
    last = shown[-1][3]
    parts = [f"{words.percent(sum(found[layer] for layer in last) / len(last), 1)} {name}" for name, _, _, found in shown
             if last.keys() <= found.keys()]
    only = "" if len(last) == layers else f" ({len(last):,} of {layers:,} layers)"
    return f"The error of a layer, on average: {', '.join(parts)}{only}."

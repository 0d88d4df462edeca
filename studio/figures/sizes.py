"""What remains of a model after a cut: one bar for beside the slider."""

import plotly.graph_objects as go

from engine.base.colours import BLUE, GREY, GRID
from studio.figures import words
from studio.figures.theme import drawn, empty

TITLE = "What remains of the model"


def remaining(parameters: int, ffn_parameters: int, removed: int, bytes_per_weight: float = 2) -> go.Figure:
    """A bar of three parts: what pruning never touches, feed-forward weights kept, and those removed. All are weights.

    Without parameters: a sentence in its place. Raises ValueError unless 0 <= removed <= ffn_parameters <= parameters.
    """
    if not parameters:
        return empty(TITLE, "The sizes of this model are not known yet.")
    if not 0 <= removed <= ffn_parameters <= parameters:
        raise ValueError(f"no such cut: {removed} of {ffn_parameters} of {parameters}")
    stripes = {"shape": "/", "size": 7, "solidity": 0.25, "fgcolor": GREY, "bgcolor": GRID, "fillmode": "overlay"}
    parts: list[tuple[str, int, dict]] = [("never touched", parameters - ffn_parameters, {"color": GREY}),
                                          ("channels kept", ffn_parameters - removed, {"color": BLUE}),
                                          ("removed", removed, {"color": GRID, "pattern": stripes})]
    traces = [go.Bar(x=[weights], y=[""], orientation="h", name=name, marker={**marker, "line": {"width": 0}},
                     customdata=[[words.millions(weights), words.percent(weights / parameters, 1)]],
                     hovertemplate=f"{name.capitalize()}<br>%{{customdata[0]}} weights, %{{customdata[1]}}<extra></extra>")
              for name, weights, marker in parts]
    left = parameters - removed
    key = [(GREY, "■", "untouched"), (BLUE, "■", "kept"), (GREY, "▨", "removed")]
    legend = " · ".join(f'<span style="color:{colour}">{sign}</span> {name} {words.percent(weights / parameters)}'
                        for (colour, sign, name), (_, weights, _) in zip(key, parts, strict=True))
    return drawn(traces, f"{words.percent(left / parameters)} of the model remains",
                 [f"{words.millions(left)} of {words.millions(parameters)} weights · {words.size(left * bytes_per_weight)} of "
                  f"{words.size(parameters * bytes_per_weight)}", legend],
                 "Only channels of the feed-forward parts are removed, alike in every layer. Attention and the vocabulary stay as "
                 "they are, so the model shrinks by less than the slider says.",
                 38, barmode="stack", bargap=0.1, margin={"l": 8, "r": 8, "b": 10},
                 xaxis={"range": [0, parameters], "visible": False}, yaxis={"visible": False})

"""Sizes: what remains of a model after a cut, and what fits into memory."""

from collections.abc import Sequence

import plotly.graph_objects as go

from engine.base.sizes import Needed
from studio.figures import words
from studio.figures.theme import BLUE, EMBER, GREY, GRID, INK, drawn, empty

REMAINS = "What remains of the model"


def remaining(parameters: int, ffn_parameters: int, removed: int, bytes_per_weight: float = 2) -> go.Figure:
    """A bar of three parts: what pruning never touches, feed-forward weights kept, and those removed. All are weights.

    Without parameters: a sentence in its place. Raises ValueError unless 0 <= removed <= ffn_parameters <= parameters.
    """
    if not parameters:
        return empty(REMAINS, "The sizes of this model are not known yet.")
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
                 "Only channels of the feed-forward parts are removed, equally in every layer. Attention and the vocabulary stay "
                 "as they are, so the model shrinks by less than the slider says.",
                 38, barmode="stack", bargap=0.1, margin={"l": 8, "r": 8, "b": 10},
                 xaxis={"range": [0, parameters], "visible": False}, yaxis={"visible": False})


MEMORY = "Memory of the cast"
NAMES = {"standalone": "Models of their own", "cast": "A cast on one model"}
_PARTS = (("weights", "models", BLUE), ("adapters", "adapters", EMBER), ("key_values", "conversations", GREY))


def memory_bars(needed: Sequence[Needed], card: int) -> go.Figure:
    """A bar for each way, in the order given, and a line at the memory of the card (bytes; 0: none)."""
    if not needed:
        return empty(MEMORY, "Choose characters that were pruned from one model.")
    values = {part: [getattr(one, part) for one in needed] for part, _, _ in _PARTS}
    names = [NAMES[one.way] for one in needed]
    traces = [go.Bar(y=names, x=[value / 1e9 for value in values[part]], orientation="h", name=name,
                     marker={"color": colour, "line": {"width": 0}}, customdata=[words.size(value) for value in values[part]],
                     hovertemplate=f"%{{y}}<br>{name}: %{{customdata}}<extra></extra>") for part, name, colour in _PARTS]
    most = max(*(one.bytes for one in needed), card)
    legend = " · ".join(f'<span style="color:{colour}">■</span> {name}' for _, name, colour in _PARTS)
    line = [{"type": "line", "x0": card / 1e9, "x1": card / 1e9, "yref": "paper", "y0": 0, "y1": 1,
             "line": {"color": INK, "width": 2, "dash": "dot"}}] if card else []
    least = min(needed, key=lambda one: one.bytes)
    fits = [one for one in needed if one.bytes <= card]
    title = f"{len(fits)} of {len(needed)} ways fit into {words.size(card)}" if card else f"{words.size(least.bytes)} at least"
    return drawn(traces, title, [legend, f"dotted: the memory of the card, {words.size(card)}" if card else ""],
                 "Weights, adapters and conversations (keys and values of what was said) in 16 bit. Calculated from the sizes "
                 "of the tensors; the program that runs them needs some more.", 48 * len(needed) + 46, barmode="stack", bargap=0.35,
                 shapes=line,
                 margin={"l": 150, "r": 16, "b": 36}, yaxis={"autorange": "reversed", "showgrid": False, "ticksuffix": " "},
                 xaxis={"range": [0, 1.06 * most / 1e9], "ticksuffix": " GB", "showgrid": True, "nticks": 5})

"""What a cast of characters takes in memory, a stacked bar a way: weights, characters, keys and values. Pure."""

from collections.abc import Sequence

import plotly.graph_objects as go

from engine.base.colours import BLUE, EMBER, GREY, INK
from engine.base.memory import Needed
from studio.figures import words
from studio.figures.theme import drawn, empty

TITLE = "Memory of the cast"
NAMES = {"standalone": "Models of their own", "gather": "One model and a bank"}
_PARTS = (("weights", "models", BLUE), ("characters", "the bank's characters", EMBER), ("rest", "conversations", GREY))


def memory_bars(needed: Sequence[Needed], card: int) -> go.Figure:
    """A bar for each way, in the order given, and a line at the memory of the card (bytes; 0: none)."""
    if not needed:
        return empty(TITLE, "Choose characters that were pruned from one model.")
    values = {"weights": [one.weights for one in needed], "characters": [one.characters for one in needed],
              "rest": [one.key_values + one.working for one in needed]}
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
                 "Weights, characters and conversations (keys and values of what was said) in 16 bit. By arithmetic that was "
                 "checked against measured memory.", 48 * len(needed) + 46, barmode="stack", bargap=0.35, shapes=line,
                 margin={"l": 150, "r": 16, "b": 36}, yaxis={"autorange": "reversed", "showgrid": False},
                 xaxis={"range": [0, 1.06 * most / 1e9], "ticksuffix": " GB", "showgrid": True, "nticks": 5})

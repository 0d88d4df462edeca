"""Votes between the pruned and the dense model, against how much was removed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from studio.figures import words
from studio.figures.theme import EMBER, INK, drawn, empty

TITLE = "Your votes"
_BESIDE = 3.0  # per cent points between runs that removed the same


@dataclass(frozen=True)
class RunVotes:
    """The blind votes on one pruned model. All shares are 0 to 1.

    `removed`: of the channels; `share`: votes for the pruned model, ties counting half, None without a decided vote;
    `low`, `high`: its 95 % interval; `decided`: the votes that the share rests on; `both_bad`: votes for neither.
    """

    name: str
    removed: float
    share: float | None
    low: float
    high: float
    decided: int
    both_bad: int = 0


def votes(runs: Sequence[RunVotes]) -> go.Figure:
    """A point a run, with its 95 % interval; the line at one half is "as good as the dense model"."""
    known = sorted((run for run in runs if run.decided and run.share is not None and math.isfinite(run.share)),
                   key=lambda run: run.removed)
    if not known:
        return empty(TITLE, "No votes yet.")
    xs = _places([100 * run.removed for run in known])
    shares = [100 * (run.share or 0.0) for run in known]
    trace = go.Scatter(
        x=xs, y=shares, mode="markers", marker={"color": EMBER, "size": 11},
        error_y={"type": "data", "symmetric": False, "thickness": 2, "width": 5, "color": EMBER,
                 "array": [max(100 * run.high - share, 0.0) for run, share in zip(known, shares, strict=True)],
                 "arrayminus": [max(share - 100 * run.low, 0.0) for run, share in zip(known, shares, strict=True)]},
        customdata=[[words.shortened(run.name, 40), 100 * run.removed, 100 * run.low, 100 * run.high, run.decided, run.both_bad]
                    for run in known],
        hovertemplate="%{customdata[0]}, %{customdata[1]:.0f}\u00a0% removed<br>%{y:.0f}\u00a0% of %{customdata[4]:,} decided "
                      "votes for the pruned model<br>Likely between %{customdata[2]:.0f} and %{customdata[3]:.0f}\u00a0%<br>"
                      "Both bad: %{customdata[5]:,}<extra></extra>")
    half = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 50, "y1": 50,
            "line": {"color": INK, "width": 1.2, "dash": "dash"}}
    notes = [{"xref": "paper", "x": 0, "xanchor": "left", "xshift": 4, "y": 50, "yanchor": "bottom", "showarrow": False,
              "text": "as good as dense", "font": {"size": 11}}]
    notes += [{"x": x, "y": 100 * run.high, "yanchor": "bottom", "showarrow": False, "text": f"{run.decided:,}"}
              for x, run in zip(xs, known, strict=True)]
    total = sum(run.decided for run in known)
    return drawn([trace], TITLE, ["Share for the pruned model",
                                  f"{words.count(total, 'decided vote')}, {words.count(len(known), 'run')}"],
                 "Each point is a pruned model, with the number of decided votes above it. A tie counts half; votes for neither "
                 "are left out. The bar is where the true share likely lies (95 % Wilson interval): while it crosses the line, the "
                 "votes do not tell the two models apart.", 230, shapes=[half], annotations=notes,
                 yaxis={"range": [-4, 116], "tickvals": [0, 25, 50, 75, 100], "ticksuffix": "\u00a0%"},
                 xaxis={"range": [min(0, min(xs) - 3), max(xs) + 8], "ticksuffix": "\u00a0%", "nticks": 6,
                        "title": {"text": "How much of the channels is removed"}}, margin={"l": 50})


def _places(removed: Sequence[float]) -> list[float]:
    """Where the points stand (per cent, rising): runs that removed the same stand side by side around it."""
    places: list[float] = []
    for value in removed:
        twins = [place for place, other in enumerate(removed) if abs(other - value) < 0.5]
        places.append(value + _BESIDE * (len(places) - sum(twins) / len(twins)))
    return places

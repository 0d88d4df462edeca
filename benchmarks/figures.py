"""The ladder as pictures: every method's KL, cell by cell, and validation KL against tokens read; and what measures tell apart.

Each is one HTML page that needs nothing else, and whose camera saves it as SVG. Works from rows and points alone; no
model is loaded. Grey is for the baselines, blue for the paper's learning, ember for ours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.methods import DENSE, LADDER, OURS, PAPER, RECOVERED
from benchmarks.summary import Row, key_of
from engine.base.files import explain_write_errors, write_atomic
from engine.evaluation import measures as _registers
from engine.evaluation.measure import MEASURES
from engine.evaluation.proof import ASSISTANT, CONTRAST_WORDS, CUT, IMPOSTOR, Proof
from studio.figures.theme import BLUE, EMBER, GREY, GRID, INK

assert _registers
_CONTRASTS = {CUT: (EMBER, "circle"), IMPOSTOR: (BLUE, "diamond"), ASSISTANT: (INK, "square")}
DISTANCE = "KL to the dense model, nats a token"
_LOGARITHMIC = {"type": "log", "tickvals": [digit * 10.0**power for power in range(-3, 8) for digit in (1, 2, 5)]}


def write_figures(folder: Path, rows: Sequence[Row], curves: Sequence[Mapping[str, Any]],
                  proofs: Sequence[Proof] = ()) -> list[Path]:
    """ladder.html from rows, tokens.html from curves, measures.html from proofs in `folder`; what has nothing to show is left out.

    `rows`: of one model. `curves`: as curves.py keeps them. Returns the files. Raises UserError where they cannot be written.
    """
    drawn = {"ladder": ladder(rows) if any(row["method"] != DENSE for row in rows) else None,
             "tokens": tokens(curves) if curves else None, "measures": measures(proofs) if proofs else None}
    files = []
    with explain_write_errors(folder, "name another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            if figure is not None:
                config = {"displaylogo": False, "toImageButtonOptions": {"format": "svg", "filename": name}}
                write_atomic(folder / f"{name}.html", figure.to_html(include_plotlyjs=True, config=config))
                files.append(folder / f"{name}.html")
    return files


def ladder(rows: Sequence[Row]) -> go.Figure:
    """A dot for each cell's KL, a panel for each sparsity, the methods by their mean KL, the highest above.

    A diamond is the mean, drawn where a method was measured in all cells of its panel, so that means can be compared.
    """
    rows = [row for row in rows if row["method"] != DENSE]
    methods = sorted({row["method"] for row in rows}, key=lambda name: -_mean(rows, name))
    figure, sparsities = _panels(rows, shared_yaxes=True)
    for column, sparsity in enumerate(sparsities, start=1):
        some = [row for row in rows if row["sparsity"] == sparsity]
        cells = {key_of(row) for row in some}
        for method in methods:
            own = [row for row in some if row["method"] == method]
            figure.add_scatter(
                x=[row["kl"] for row in own], y=[_word(method)] * len(own), mode="markers", row=1, col=column,
                marker={"color": _colour(method), "size": 7, "opacity": 0.45, "line": {"width": 0}},
                text=[f"{row['character']}, seed {row['seed']}: {row['lines']} held-out lines" for row in own],
                hovertemplate="%{text}<br>KL %{x:.3f}<extra></extra>")
            if len(own) == len(cells):
                mean = _mean(own, method)
                figure.add_scatter(
                    x=[mean], y=[_word(method)], mode="markers+text", row=1, col=column, text=[_short(mean)],
                    textposition="top center", textfont={"size": 11},
                    marker={"color": _colour(method), "size": 11, "symbol": "diamond", "line": {"width": 0}},
                    hovertemplate=f"mean of {len(own)}<br>KL %{{x:.3f}}<extra></extra>")
    figure.update_xaxes(title_text=DISTANCE, matches="x")
    figure.update_yaxes(categoryorder="array", categoryarray=[_word(one) for one in reversed(methods)], automargin=True)
    lines = sorted({row["lines"] for row in rows})
    held = f"{lines[0]} held-out lines" if len(lines) == 1 else f"{lines[0]} to {lines[-1]} held-out lines"
    return _styled(figure, f"A dot: one character and seed, {held}. A diamond: their mean.", 110 + 38 * len(methods))


def tokens(curves: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Validation KL against the tokens read until then, a line for each cell, a panel for each sparsity; both axes logarithmic.

    `curves`: with model, character, seed, sparsity, method and points. Points that cost no token have no place.
    """
    figure, sparsities = _panels(curves, shared_yaxes=True)
    for curve in curves:
        points = [point for point in curve["points"] if point["tokens"] > 0]
        figure.add_scatter(
            x=[point["tokens"] for point in points], y=[point["validation_kl"] for point in points], mode="lines+markers",
            row=1, col=1 + sparsities.index(curve["sparsity"]), opacity=0.7, line={"color": _colour(curve["method"]), "width": 1.5},
            marker={"size": 5}, text=[point["stage"] for point in points],
            hovertemplate=f"{curve['character']}, seed {curve['seed']}, {curve['method']}<br>"
                          "%{text}: KL %{y:.3f} after %{x:,} tokens<extra></extra>")
    figure.update_xaxes(title_text="Tokens read", tickformat="~s")
    figure.update_yaxes(**_LOGARITHMIC)
    figure.update_yaxes(title_text=f"Validation {DISTANCE}", col=1)
    cells = len({(curve["character"], curve["seed"], curve["sparsity"]) for curve in curves})
    named = (f'<span style="color:{BLUE}">■</span> the paper\'s learning  <span style="color:{EMBER}">■</span> the whole recipe: '
             f"start, refit, learning, tuning. A line: one character and seed ({cells} in all).")
    return _styled(figure, named, 420)


def measures(proofs: Sequence[Proof]) -> go.Figure:
    """What each measure tells apart: a dot for a contrast's AUC with its interval, a panel for each model, chance as a line.

    Hollow: it does not tell, or was not tried enough. Measures are in the order of their AUC against the cut, the highest above.
    """
    models = sorted({one.model for one in proofs}, reverse=True)
    best = {name: max((one.auc for one in proofs if (one.measure, one.contrast) == (name, CUT)), default=0.0)
            for name in {one.measure for one in proofs}}
    names = sorted(best, key=lambda name: best[name])
    figure = make_subplots(1, len(models), subplot_titles=models, shared_yaxes=True, horizontal_spacing=0.04)
    for column, model in enumerate(models, start=1):
        for step, (contrast, (colour, symbol)) in enumerate(_CONTRASTS.items()):
            some = [one for one in proofs if (one.model, one.contrast) == (model, contrast)]
            figure.add_scatter(
                x=[one.auc for one in some], y=[names.index(one.measure) + 0.25 * (1 - step) for one in some], mode="markers",
                name=f"against {CONTRAST_WORDS[contrast]}", legendgroup=contrast, showlegend=column == 1, row=1, col=column,
                marker={"color": colour, "symbol": [symbol if one.tells else f"{symbol}-open" for one in some], "size": 9},
                error_x={"array": [one.high - one.auc for one in some], "arrayminus": [one.auc - one.low for one in some],
                         "color": GREY, "thickness": 1, "width": 0},
                text=[f"{one.measure}: {one.samples} samples of {one.characters} characters" for one in some],
                hovertemplate="%{text}<br>AUC %{x:.2f}<extra></extra>")
        figure.add_vline(x=0.5, line={"color": GREY, "dash": "dot"}, row=1, col=column)
    labels = [MEASURES[name].label if name in MEASURES else name for name in names]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=labels, automargin=True)
    figure = _styled(figure, "Dense model against each other speaker. Hollow: cannot tell, or not tried enough to say.",
                     150 + 44 * len(names))
    figure.update_xaxes(type="linear", range=[0, 1.02], tickvals=[0, 0.25, 0.5, 0.75, 1], title_text="AUC")
    return figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.08}, margin={"b": 90})


def _panels(rows: Sequence[Mapping[str, Any]], **shared: Any) -> tuple[go.Figure, list[float]]:
    """An empty panel for each sparsity that occurs, side by side, and these sparsities."""
    sparsities = sorted({row["sparsity"] for row in rows})
    titles = [f"{sparsity:.0%} of the channels removed" for sparsity in sparsities]
    return make_subplots(1, len(sparsities), subplot_titles=titles, horizontal_spacing=0.04, **shared), sparsities


def _styled(figure: go.Figure, note: str, height: int) -> go.Figure:
    """Quiet colours on no background, tokens or KL logarithmic along x, the note above the panels."""
    figure.update_xaxes(gridcolor=GRID, zeroline=False, title={"font": {"size": 13}, "standoff": 8}, **_LOGARITHMIC)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, title={"font": {"size": 13}, "standoff": 8})
    figure.update_annotations(font={"size": 14})
    return figure.update_layout(
        width=960, height=height, showlegend=False, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK}, margin={"t": 66, "r": 16, "b": 52},
        title={"text": note, "font": {"size": 13}, "x": 0, "xref": "paper", "y": 1, "yanchor": "top", "yref": "container",
               "pad": {"t": 12}})


def _mean(rows: Sequence[Row], method: str) -> float:
    found = [row["kl"] for row in rows if row["method"] == method]
    return sum(found) / len(found)


def _word(method: str) -> str:
    return LADDER[method].label if method in LADDER else method


def _colour(method: str) -> str:
    return EMBER if method in (OURS, RECOVERED) else BLUE if method == PAPER else GREY


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if value < 1 else f"{value:.2f}"

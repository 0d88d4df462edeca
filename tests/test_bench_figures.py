"""The fidelity bench's pictures, from rows and curves made by hand."""

from pathlib import Path
from typing import Any

from test_bench_summary import handmade

from benchmarks.figures import EMBER, ladder, tokens, write_figures

CURVES: list[dict[str, Any]] = [
    {"model": "m", "character": "a", "sparsity": sparsity, "seed": 0, "method": method, "points": [
        {"stage": "learning", "tokens": count, "validation_kl": kl} for count, kl in ((0, 9.0), (1000, 2.0), (5000, 1.0))]}
    for sparsity in (0.25, 0.5) for method in ("ste-ce", "default")]


def drawn(figure: Any, symbol: str) -> dict[str, list[float]]:
    """What stands on each line of the ladder as a dot ("circle") or as a mean ("diamond")."""
    return {trace.y[0]: list(trace.x) for trace in figure.data if (trace.marker.symbol or "circle") == symbol}


def test_a_dot_a_cell_and_a_mean_where_all_cells_have_one() -> None:
    figure = ladder(handmade({"dense": [0.0, 0.0], "wanda": [0.6, 0.8], "obs+ls": [0.9], "default": [0.3, 0.1]}))
    assert drawn(figure, "circle") == {"Wanda": [0.6, 0.8], "Brain surgeon + least squares": [0.9],
                                       "<b>The whole recipe</b>": [0.3, 0.1]}
    means = {name: round(values[0], 9) for name, values in drawn(figure, "diamond").items()}
    assert means == {"Wanda": 0.7, "<b>The whole recipe</b>": 0.2}  # the surgeon lacks a cell: its mean says less
    # From the highest KL, above, to the lowest; a category axis counts from below.
    assert list(figure.layout.yaxis.categoryarray) == ["<b>The whole recipe</b>", "Wanda", "Brain surgeon + least squares"]


def test_a_sparsity_of_which_only_the_dense_model_was_read_has_no_panel() -> None:
    begun = [{**row, "sparsity": 0.5} for row in handmade({"dense": [0.0]})]
    figure = ladder([*handmade({"dense": [0.0], "wanda": [0.6]}), *begun])
    assert [note.text for note in figure.layout.annotations] == ["25% of the channels removed"]


def test_every_method_of_the_ladder_has_words() -> None:
    from benchmarks.methods import LADDER

    figure = ladder(handmade({name: [0.5] for name in LADDER}))
    assert len(drawn(figure, "circle")) == len(LADDER) - 1


def test_curves_stand_in_the_panel_of_their_sparsity_and_leave_out_what_cost_nothing() -> None:
    figure = tokens(CURVES)
    assert [list(trace.x) for trace in figure.data] == [[1000, 5000]] * 4
    assert [trace.xaxis for trace in figure.data] == ["x", "x", "x2", "x2"]
    assert [trace.line.color == EMBER for trace in figure.data] == [False, True, False, True]


def test_pages_need_nothing_else(tmp_path: Path) -> None:
    rows = handmade({"dense": [0.0], "wanda": [0.6]})
    assert write_figures(tmp_path / "new", rows, CURVES) == [tmp_path / "new" / "ladder.html", tmp_path / "new" / "tokens.html"]
    page = (tmp_path / "new" / "ladder.html").read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page and "<script src=" not in page
    assert write_figures(tmp_path / "none", handmade({"dense": [0.0]}), []) == []

"""The tables of the fidelity bench, from rows, readings, curves and masks made by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import curves, fidelity, measures, plan, summary, swap
from engine.base.errors import UserError
from engine.base.files import read_json, write_json
from engine.cards.card import find_bundled


def handmade(kl: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Rows of one cell a character, "a", "b", ..., with these KLs."""
    return [{"model": "m", "character": chr(97 + place), "sparsity": 0.25, "seed": 0, "method": method, "kl": value, "top1": 0.5,
             "nll": 1.0, "identification": 0.75, "neutral_ppl": 20.0, "lines": 4, "tokens": 1000, "seconds": 2.0,
             "preset": "standard, 60 steps", "dtype": "fp32"}
            for method, values in kl.items() for place, value in enumerate(values)]


@pytest.fixture
def paper_plan(tmp_path: Path) -> plan.Plan:
    card = find_bundled("pim-tuckett")
    return plan.Plan("m", {"a": card, "b": card}, (0.25,), 1, "standard", tmp_path)


def test_the_summary_of_handmade_rows(paper_plan: plan.Plan) -> None:
    rows = handmade({"wanda": [0.6, 0.8], "obs": [0.9], "taylor": [0.7, 0.9], "wanda+ls": [0.4, 0.4], "ste-ce": [1.0, 1.0],
                     "default": [0.3, 0.1]})
    assert summary.methods_table(paper_plan, rows).rows[0][:2] == ["wanda", "0.700 [0.600, 0.800]"]
    found = summary.reductions_table(paper_plan, rows).rows
    assert [(line[1], line[2].split()[0], line[3], line[4]) for line in found] == [
        ("the paper's: ste-ce", "80.0%", "50%", "reached"),
        ("best one-shot as published: wanda", "71.4%", "60%", "reached"),
        ("best one-shot with least squares: wanda+ls", "50.0%", "25%", "reached")]
    assert "2 characters, 1 seed, 8 held-out lines; 95 % intervals over characters alone" in summary.methods_table(
        paper_plan, rows).title
    second = [*rows, *({**row, "seed": 1} for row in rows)]  # a character's seeds are drawn as its lines would be
    title = summary.methods_table(paper_plan, second).title
    assert "2 seeds, 16 held-out lines; 95 % intervals over characters and seeds (no" in title
    assert summary.side_conditions(handmade({"dense": [0, 0], "wanda": [1, 1], "obs": [0.5, 0.5], "default": [0.1, 0.1]})) == [
        "default: identified 75.0%, dense 75.0% (with recovery wanted within 3 points of it).",
        "default: neutral perplexity 20.0, the best baseline by KL (obs) 20.0 (wanted no worse than that)."]
    worse = handmade({"ste-ce": [1.0, 1.0], "default": [0.6, 0.8], "default+recovery": [0.2, 0.2]})
    assert [line[2:5] for line in summary.reductions_table(paper_plan, worse).rows] == [
        ["30.0% [20.0%, 40.0%]", "50%", "not reached"], ["80.0% [80.0%, 80.0%]", "", ""]]


def test_readings_by_line_make_the_interval(paper_plan: plan.Plan) -> None:
    rows = handmade({"wanda": [0.5, 0.7]})
    for row, kls in zip(rows, ([2.0, 8.0], [7.0, 7.0]), strict=True):
        folder = paper_plan.cell_folder(row["character"], 0, 0.25)
        write_json(measures.line_file(folder, "wanda"), {"kl": kls, "tokens": [10.0, 10.0]})
    (found,), by_line = summary.groups(paper_plan, rows)
    assert by_line and [one.tolist() for one in found] == [[[2, 10], [8, 10]], [[7, 10], [7, 10]]]
    assert summary.methods_table(paper_plan, rows).rows[0][1].startswith("0.600 [0.3")  # characters alone: from 0.5
    rows[0]["kl"] = 0.51  # measured again elsewhere: the readings in the folder are not this row's
    assert not summary.groups(paper_plan, rows)[1]


def test_sooner_is_measured_where_the_papers_curve_ends() -> None:
    curve = lambda *pairs: [{"step": 0, "tokens": tokens, "validation_kl": kl} for tokens, kl in pairs]
    paper = curve((0, 3.0), (500, 0.8), (1000, 0.9))
    assert curves.speedup(paper, curve((100, 1.0), (250, 0.8), (300, 0.5))) == 2
    assert curves.speedup(paper, curve((100, 1.0))) is None
    assert "in 1/2.0 of the tokens (median of 1 of 2 cells" in curves.sentence(
        [(paper, curve((250, 0.7))), (paper, curve((1, 2.0)))])
    assert "in 2.0 times the tokens" in curves.sentence([(paper, curve((1000, 0.7)))])
    assert "never reaches" in curves.sentence([(paper, curve((1, 2.0)))])


def test_overlap_and_chance_of_handmade_masks() -> None:
    rows = {("a", 0): [1, 1, 0, 0], ("a", 1): [1, 1, 0, 0], ("b", 0): [0, 1, 1, 0], ("c", 0): [0, 0, 1, 1]}
    masks = {key: torch.tensor([row, row], dtype=torch.float32) for key, row in rows.items()}
    assert swap.in_common(masks["a", 0], masks["b", 0]) == 0.5
    assert swap.overlaps(masks) == [["two characters, same seed", "33.3%", "0.0% to 50.0%", "3"],
                                    ["two seeds, same character", "100.0%", "100.0% to 100.0%", "1"],
                                    ["chance (k / d_ff)", "50.0%", "", ""]]


def test_rows_of_other_measures_stay_readable(paper_plan: plan.Plan, tmp_path: Path) -> None:
    """Rows from before a measure was there, and rows from a version that has more of them."""
    (older,), (newer,) = handmade({"wanda": [0.6]}), handmade({"default": [0.3]})
    write_json(tmp_path / "rows.json", [{name: value for name, value in older.items() if name != "neutral_ppl"},
                                        {**newer, "wit": 0.9}])
    results = fidelity.Results(tmp_path / "rows.json", "standard, 60 steps")
    assert [row["neutral_ppl"] for row in results.rows] == [None, 20.0] and results.rows[1]["wit"] == 0.9
    table = summary.methods_table(paper_plan, results.rows)
    (wanda, default), column = table.rows, table.columns.index("neutral perplexity")
    assert (wanda[column], default[column]) == ("–", "20.0")
    assert summary.side_conditions(results.rows) == []  # there is nothing to compare default's neutral perplexity with
    results.add(("m", "a", 0.25, 0, "random"), {"kl": 2.0, "lines": 4, "dtype": "fp32"})
    assert read_json(tmp_path / "rows.json")[1] == {**newer, "wit": 0.9}
    write_json(tmp_path / "rows.json", [{"method": "wanda", "kl": 0.6}])
    with pytest.raises(UserError, match="no list of rows"):
        fidelity.Results(tmp_path / "rows.json", "standard, 60 steps")


def test_the_stored_rows_are_read() -> None:
    for file in ("fidelity.json", "fidelity_fp32.json"):
        path = Path(fidelity.__file__).with_name("rows") / file
        assert len(fidelity.Results(path, read_json(path)[0]["preset"]).rows) == len(read_json(path))

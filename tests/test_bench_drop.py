"""How much less a run loses than a plain cut: margins, items, the interval, and what is said where nothing was lost."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cast_job import write_character
from small_job import make_job, prove_here, work_of
from tiny import add_files, make_tiny

from benchmarks import drop, proofs
from benchmarks.__main__ import main
from engine.base.files import read_json, write_json
from engine.base.sampling import SamplingParams
from engine.cards.files import read_card
from engine.evaluation import proof
from engine.evaluation.measure import MEASURES, ItemKind, Sample
from engine.evaluation.proof import Proof, read_proofs, write_proofs
from engine.evidence.items import Size
from engine.pipeline import prune
from engine.stages import finish


def spoken(*values: float | None) -> list[Sample]:
    return [Sample(f"talk-{number // 2}#{number % 2}", 0, value) for number, value in enumerate(values)]


def test_drops_are_in_margins_an_item_each_and_only_where_all_three_have_a_value() -> None:
    better = MEASURES["identification"]
    found = drop.drops(better, {"dense": spoken(1, 1, 1, None), "plain": spoken(0.5, 0, 0, 0), "run": spoken(1, 0.5, None, 1)})
    assert found.tolist() == [[pytest.approx(0.75 / better.margin), pytest.approx(0.25 / better.margin)]]
    worse = MEASURES["loops"]  # fewer are better
    (pair,) = drop.drops(worse, {"dense": spoken(0), "plain": spoken(1), "run": spoken(0)}).tolist()
    assert pair == [pytest.approx(1 / worse.margin), 0]


def test_the_reduction_is_of_the_mean_drop_over_characters_and_measures() -> None:
    figures = drop.summarise({("Pim", "loops"): np.array([[4.0, 1.0]] * 6), ("Pim", "drift"): np.array([[2.0, 0.5]] * 5),
                              ("Bodo", "loops"): np.empty((0, 2)), ("Pim", "identity"): np.array([[0.0, 20.0]] * 4)})  # too few
    assert figures["reduction"] == pytest.approx(0.75) and figures["interval"] == [pytest.approx(0.75)] * 2
    assert figures["items"] == 11 and [one["character"] for one in figures["rows"]] == ["Pim", "Pim"]
    assert drop.words(figures) == ("The run loses 75% less than the plain cut; "
                                   "95 % interval of what it avoids: 75% to 75% (11 items; Pim).")


def test_where_the_plain_cut_loses_nothing_there_is_no_reduction() -> None:
    assert "loses nothing" in drop.words(drop.summarise({("Pim", "loops"): np.array([[0.0, 1.0]] * 5)}))
    assert "nothing can be said" in drop.words(drop.summarise({("Pim", "loops"): np.array([[1.0, 0.0]] * 4)}))
    unsure = drop.summarise({("Pim", "loops"): np.array([[9.0, 0.0], *[[-2.0, 0.0]] * 4])})
    assert unsure["reduction"] == 1 and unsure["interval"] is None and "too few" in drop.words(unsure)
    assert drop.summarise({})["reduction"] is None
    worse = drop.summarise({("Pim", "loops"): np.array([[1.0, 1.5]] * 5)})
    assert drop.words(worse).startswith("The run loses 50% more than the plain cut;")


def kept(model: str, **more: Any) -> dict[str, Any]:
    figures = drop.summarise({("Pim", "loops"): np.array([[4.0, 1.0]] * 6)})
    return {"model": model, "sparsity": {"Pim": 0.5}, **figures, **more}


def test_the_results_of_two_models_are_printed_from_one_file(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "drop.json"
    assert main(["drop", "--table", "--json", str(file)]) == 2 and "no rows" in capsys.readouterr().err
    write_json(file, [kept("starter"), kept("small", sparsity={"Pim": 0.25})])
    assert main(["drop", "--table", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert said.index("starter: lost against") < said.index("50%") < said.index("small: lost against") < said.index("25%")
    assert said.count("The run loses 75% less than the plain cut") == 2
    assert main(["drop", "--json", str(file)]) == 2 and "No run was named" in capsys.readouterr().err


@pytest.fixture
def own_proofs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(proof, "TABLE", tmp_path / "proofs.json")
    read_proofs.cache_clear()
    yield
    read_proofs.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("own_proofs")
def test_two_runs_of_two_characters_beside_plain_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    model = add_files(make_tiny(tmp_path / "tiny", max_position_embeddings=4096, intermediate_size=256))
    runs = []
    for name, sparsity in (("Ann", 0.25), ("Bob", 0.5)):
        job = make_job(model, tmp_path / name / "out", sparsity=sparsity, multiple=32)
        runs.append(str(job.out))
        with mock.patch.object(finish, "prove", prove_here):
            list(prune(replace(job, card=read_card(write_character(tmp_path / name, name))), work_of(job.out)))
    another = add_files(make_tiny(tmp_path / "another", intermediate_size=128))
    write_proofs({(name, str(of), "cut"): Proof(name, str(of), "cut", 0.9, low, 1.0, 6, 90) for of in (model, another)
                  for name, low in (("loops", 0.8), ("knowledge", 0.8), ("identity", 0.4))})
    monkeypatch.setattr(proofs, "LINES", 4)
    monkeypatch.setattr(drop, "SHORT", SamplingParams(max_tokens=6))
    monkeypatch.setattr(drop, "SIZE", Size({ItemKind.TALK: 6}, 2, 1))
    file, work = tmp_path / "drop.json", tmp_path / "work"
    write_json(file, [kept("starter"), kept(str(model))])
    command = ["drop", "--model", str(model), "--workdir", str(work), "--json", str(file), "--run"]
    assert main([*command, *runs]) == 0
    other, result = read_json(file)
    assert other == kept("starter") and result["model"] == str(model)  # the same model's earlier result has gone
    assert result["sparsity"] == {"Ann": 0.25, "Bob": 0.5} and str(tmp_path / "Ann") not in file.read_text()
    assert [(row["character"], row["measure"], row["items"]) for row in result["rows"]] == [
        (name, measure, items) for name in ("Ann", "Bob") for measure, items in (("loops", 6), ("knowledge", 52))]
    answers = {one: one.read_bytes() for one in work.rglob("answers.jsonl")}
    assert len(answers) == 2 and main([*command, *runs]) == 0 and read_json(file) == [other, result]
    assert {one: one.read_bytes() for one in answers} == answers  # nobody was asked again
    shutil.copytree(runs[0], tmp_path / "copy")
    assert main([*command, runs[0], str(tmp_path / "copy")]) == 2 and "Two runs are of Ann" in capsys.readouterr().err
    assert main(["drop", "--model", str(another), "--run", runs[0], "--json", str(file)]) == 2
    assert "is not the dense model of these runs" in capsys.readouterr().err and read_json(file) == [other, result]

"""python -m benchmarks cast: that what it measures is there and is of the right thing, on a tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_job import run_job, work_of, write_card

from benchmarks import cast
from benchmarks.__main__ import main
from engine.base.sizes import ModelShape, bank_entry_bytes
from engine.cards.files import read_card
from engine.cast import building


def test_the_figures_of_a_tiny_cast(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    card = read_card(write_card(tmp_path))
    for name, value in (("CHARACTERS", 3), ("ROUNDS", 1), ("bundled_cards", lambda: [card])):
        monkeypatch.setattr(cast, name, value)
    monkeypatch.setattr(building, "LINES", 4)
    run_job(llama, tmp_path / "out")
    lines = work_of(tmp_path / "out") / "lines.jsonl"
    file = tmp_path / "cast.json"
    arguments = ["cast", "--model", str(llama), "--json", str(file)]
    assert main([*arguments, "--run", str(tmp_path / "out"), "--lines", str(lines)]) == 0
    found = json.loads(file.read_text())
    shape = ModelShape(2, 32, 64, 10**6)
    assert found["gather_pairs"] == 2 and found["gather_ratio"] > 0
    assert 0 < found["bank_bytes"] - bank_entry_bytes(shape, 48, found["rank"]) < 3000  # card, prompt and names
    folder, bank, plain = (found["fidelity"][name]["kl"] for name in
                           ("the exported folder", "in the bank, with the run's lines", "its mask, nothing corrected"))
    assert folder < plain and bank < plain
    assert found["fidelity"]["in the bank, without"]["lines"] > 0
    assert main([*arguments, "--run", str(tmp_path / "out")]) == 2
    assert "Add --lines" in capsys.readouterr().err

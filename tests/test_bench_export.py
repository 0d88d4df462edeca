"""The figures of `benchmarks export` on a tiny model: all there, and about the files that were written."""

from pathlib import Path
from typing import Any

import pytest
from test_gguf_export import ask_here
from tiny import make_tiny

from benchmarks import export, speed
from benchmarks.__main__ import main
from engine.base.files import read_json
from engine.export import gguf_proof


def test_every_type_has_its_proof_and_its_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for module in (gguf_proof, export):
        monkeypatch.setattr(module, "ask", lambda *arguments: ask_here(*arguments))
    monkeypatch.setattr(gguf_proof, "QUESTIONS", gguf_proof.QUESTIONS[:2])
    for module in (export, speed):
        monkeypatch.setattr(module, "CONTEXT", 32)
    folder = make_tiny(tmp_path / "model", intermediate_size=128, max_position_embeddings=4096)
    assert main(["export", "--model", str(folder), "--types", "q8_0", "F32", "--rounds", "1",
                 "--json", str(tmp_path / "figures.json")]) == 0
    figures, shown = read_json(tmp_path / "figures.json"), capsys.readouterr().out
    assert list(figures["types"]) == list(figures["speed"]) == ["F32", "Q8_0"]
    for type, one in figures["types"].items():
        assert one["proof"]["tokens"] == 64 and one["bytes"] < one["dense_bytes"] and f"of {one['proof']['tokens']}" in shown
        assert figures["speed"][type]["pruned"] > 0 and type in shown
    assert set(figures["transformers"]) == {"F32", "BF16"} and figures["seconds"] > figures["write_seconds"] > 0

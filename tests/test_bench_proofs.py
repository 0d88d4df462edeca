"""What a measure tells apart: AUCs, their table, its picture, and what an evaluation says of a measure that cannot tell."""

from pathlib import Path
from typing import Any

import pytest
from tiny import make_tiny

from benchmarks import proofs
from benchmarks.__main__ import main
from benchmarks.figures import measures as picture
from engine.base.files import read_json
from engine.base.sampling import SamplingParams
from engine.cards.card import find_bundled
from engine.cards.prompt import messages
from engine.evaluation import proof
from engine.evaluation.measure import MEASURES, ItemKind, Sample
from engine.evaluation.proof import Proof, doubt, read_proofs, untried, write_proofs
from engine.evidence.items import Size

PIM = find_bundled("pim-tuckett")
TRIAL: Any = type("Trial", (), {"model": "starter", "name": "pim-tuckett", "card": PIM})()


def spoken(*values: float | None) -> list[Sample]:
    return [Sample(f"talk-{number}", 0, value, "" if value is not None else "Silent.") for number, value in enumerate(values)]


def row(character: str, auc: float | None, measure: str = "loops", contrast: str = "cut") -> dict[str, Any]:
    return {"model": "starter", "character": character, "measure": measure, "contrast": contrast, "auc": auc, "samples": [3, 4]}


def test_an_auc_is_that_of_the_better_side_and_what_is_missing_is_counted() -> None:
    values = {"dense": spoken(0, 0, 1, None), "cut": spoken(1, 1, 0), "impostor": spoken(None)}
    cut, impostor = proofs._contrasts(MEASURES["loops"], TRIAL, values)  # fewer loops are better
    # Of nine pairs the cut loops more in 2 · 2, and is as the dense one in 2 · 1 + 1 · 2.
    assert cut["auc"] == pytest.approx((4 + 0.5 * 4) / 9)
    assert (cut["samples"], cut["missing"], cut["why"]) == ([3, 3], [1, 0], "Silent.")
    assert impostor["auc"] is None and impostor["other"] is None
    (better,) = proofs._contrasts(MEASURES["adherence"], TRIAL, {"dense": spoken(1), "cut": spoken(0)})
    assert better["auc"] == 1


def test_the_table_has_means_over_characters() -> None:
    found = proofs.summarise([row("a", 0.9), row("b", 0.7), row("c", None), row("d", 0.8), row("a", 0.5, "drift"),
                              row("b", 0.4, "drift"), row("c", 0.6, "drift"), row("a", 0.9, "knowledge"),
                              row("b", 0.9, "knowledge")])
    one = found["loops", "starter", "cut"]
    assert (one.auc, one.characters, one.samples, one.tells) == (0.8, 3, 21, True)
    assert one.low == 0.7 and one.high == 0.9 and ("knowledge", "starter", "cut") not in found  # of two characters
    assert not found["drift", "starter", "cut"].tells
    assert "cannot tell" in proofs.words(found["drift", "starter", "cut"]) and proofs.words(None) == "–"


def test_an_evaluation_doubts_what_cannot_tell_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "TABLE", tmp_path / "proofs.json")
    read_proofs.cache_clear()
    try:
        assert doubt("loops", "starter") == ""
        write_proofs({("loops", "starter", "cut"): Proof("loops", "starter", "cut", 0.55, 0.4, 0.7, 6, 90),
                      ("drift", "starter", "cut"): Proof("drift", "starter", "cut", 0.9, 0.8, 1.0, 6, 90)})
        words = doubt("loops", "starter")
        assert words.startswith("cannot tell here") and "0.40 to 0.70, 6 characters" in words
        assert doubt("drift", "starter") == doubt("loops", "small") == ""
        assert untried({"loops": "Repeats itself", "drift": "Drifts"}, "starter") == []
        assert "what Plain can tell with starter" in untried({"loops": "Loops", "knowledge": "Plain"}, "starter")[0]
        assert "what these measures can tell with small" in untried({"loops": "Loops"}, "small")[0]
    finally:
        read_proofs.cache_clear()


def test_what_is_published_is_of_measures_that_are_there() -> None:
    for name, _, contrast in read_proofs():
        assert name in MEASURES and contrast in proofs.CONTRASTS


def test_an_impostor_has_the_name_and_nothing_else() -> None:
    other = proofs.impostor(PIM)
    prompt = messages(other, [("user", "Who are you?")])[0]["content"]
    assert other.names == PIM.names and prompt.startswith("You are Pim.")
    assert "hen" not in prompt.split() and "Quentin" not in prompt and other.description != PIM.description
    assert "assistant" in messages(proofs.assistant(), [("user", "Who are you?")])[0]["content"].lower()


def test_the_picture_has_each_measures_auc_in_the_panel_of_its_model() -> None:
    some = [Proof("loops", "starter", "cut", 0.9, 0.8, 1.0, 6, 90), Proof("drift", "starter", "cut", 0.5, 0.4, 0.6, 6, 90),
            Proof("loops", "small", "assistant", 0.7, 0.6, 0.8, 6, 90)]
    figure = picture(some)
    assert [note.text for note in figure.layout.annotations] == ["starter", "small"]
    assert list(figure.layout.yaxis.ticktext) == [MEASURES["drift"].label, MEASURES["loops"].label]
    first = figure.data[0]
    assert list(first.x) == [0.9, 0.5] and list(first.y) == [1.25, 0.25] and first.marker.color[0] != first.marker.color[1]


@pytest.mark.slow
def test_the_whole_way_on_a_tiny_model_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny(tmp_path / "tiny", max_position_embeddings=4096, intermediate_size=256)
    monkeypatch.setattr(proofs, "LINES", 4)
    monkeypatch.setattr(proofs, "SHORT", SamplingParams(max_tokens=6))
    monkeypatch.setattr(proofs, "SIZE", Size({ItemKind.TALK: 2, ItemKind.LONG: 1}, 2, 1))
    command = ["measures", "--model", str(model), "--characters", "pim-tuckett", "--workdir", str(tmp_path / "work"),
               "--json", str(tmp_path / "rows.json"), "--measures"]
    assert main([*command, "loops", "adherence"]) == 0
    first = read_json(tmp_path / "rows.json")
    assert [(row["measure"], row["contrast"]) for row in first] == [
        (name, contrast) for name in ("loops", "adherence") for contrast in proofs.CONTRASTS]
    assert all(sum(row["samples"]) + sum(row["missing"]) == 8 for row in first)  # two answers and two turns of each
    answers = next((tmp_path / "work").rglob("answers.jsonl"))
    kept = answers.read_bytes()
    assert main([*command, "loops", "knowledge"]) == 0
    rows = read_json(tmp_path / "rows.json")
    assert rows[:6] == first and [(row["measure"], row["contrast"]) for row in rows[6:]] == [("knowledge", "cut")]
    assert answers.read_bytes() == kept  # nobody was asked again

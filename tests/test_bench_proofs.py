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
from engine.cards.card import bundled_cards, find_bundled
from engine.cards.dossier import read_dossier
from engine.cards.prompt import messages
from engine.evaluation import proof
from engine.evaluation.measure import MEASURES, ItemKind, Sample
from engine.evaluation.proof import Proof, caveat, doubt, read_proofs, untried, write_proofs
from engine.evidence.items import Size, choose_items

PIM = find_bundled("pim-tuckett")
TRIAL: Any = type("Trial", (), {"model": "starter", "name": "pim-tuckett", "card": PIM})()


def spoken(*values: float | None) -> list[Sample]:
    return [Sample(f"talk-{number}", 0, value, "" if value is not None else "Silent.") for number, value in enumerate(values)]


def row(character: str, auc: float | None, measure: str = "loops", contrast: str = "cut") -> dict[str, Any]:
    return {"model": "starter", "character": character, "measure": measure, "contrast": contrast, "auc": auc, "samples": [5, 7]}


def test_an_auc_is_that_of_the_better_side_and_what_is_missing_is_counted() -> None:
    values = {"dense": spoken(0, 0, 1, None), "cut": spoken(1, 1, 0), "impostor": spoken(None)}
    cut, impostor = proofs._contrasts(MEASURES["loops"], TRIAL, values, 4)  # fewer loops are better
    # Of nine pairs the cut loops more in 2 · 2, and is as the dense one in 2 · 1 + 1 · 2.
    assert cut["auc"] == pytest.approx((4 + 0.5 * 4) / 9)
    assert (cut["samples"], cut["missing"], cut["why"]) == ([3, 3], [1, 0], "Silent.")
    assert proofs.questions_of(cut) == 4 == proofs.questions_of({key: cut[key] for key in ("samples", "missing")})  # an older row
    assert impostor["auc"] is None and impostor["other"] is None
    (better,) = proofs._contrasts(MEASURES["adherence"], TRIAL, {"dense": spoken(1), "cut": spoken(0)}, 1)
    assert better["auc"] == 1


def test_the_table_has_means_over_characters() -> None:
    found = proofs.summarise([row("a", 0.9), row("b", 0.7), row("c", None), row("d", 0.8), row("a", 0.5, "drift"),
                              row("b", 0.4, "drift"), row("c", 0.6, "drift"), row("a", 0.9, "knowledge"),
                              row("b", 0.9, "knowledge")])
    one = found["loops", "starter", "cut"]
    assert (one.auc, one.characters, one.samples, one.tells) == (0.8, 3, 36, True)
    assert one.low == 0.7 and one.high == 0.9 and ("knowledge", "starter", "cut") not in found  # of two characters
    assert proofs.words(one) == "0.80 [0.70, 0.90]" and proofs.words(None) == "–"
    assert proofs.words(found["drift", "starter", "cut"]).endswith("] cannot tell")


@pytest.mark.parametrize(("low", "high", "samples", "tells", "thin"), [
    (0.55, 0.7, 60, True, False), (0.5, 0.65, 60, False, False), (0.0, 0.1, 60, False, False), (0.4, 0.75, 60, False, True),
    (0.75, 1.0, 59, False, True), (0.5, 0.5, 59, False, True),
])
def test_what_was_tried_on_too_little_neither_tells_nor_is_given_up(low: float, high: float, samples: int, tells: bool,
                                                                   thin: bool) -> None:
    one = Proof("loops", "starter", "cut", (low + high) / 2, low, high, 6, samples)  # 60: five answers of six characters, twice
    assert (one.tells, one.thin) == (tells, thin)
    assert ("not tried enough" in proofs.words(one)) == thin


def test_an_evaluation_doubts_what_cannot_tell_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "TABLE", tmp_path / "proofs.json")
    read_proofs.cache_clear()
    try:
        assert doubt("loops", "starter") == ""
        write_proofs({(name, "starter", "cut"): Proof(name, "starter", "cut", 0.55, low, high, 6, samples)
                      for name, low, high, samples in (("loops", 0.4, 0.6, 90), ("drift", 0.52, 0.9, 90), ("facts", 0.4, 0.6, 24))})
        assert doubt("loops", "starter") == (
            "cannot tell here: with starter it ranks the dense model above a 75 % cut in 55 of 100 pairs of answers (40 to 60; "
            "guessing: 50; 6 characters, 90 answers)")
        assert caveat("facts", "starter").startswith("not tried enough here: with starter it ranks")
        assert doubt("facts", "starter") == caveat("loops", "starter") == ""  # a measure has one of the two
        assert {say(name, model) for say in (doubt, caveat)
                for name, model in (("drift", "starter"), ("loops", "small"), ("facts", "small"))} == {""}
        assert untried({"loops": "Repeats itself", "drift": "Drifts"}, "starter") == []
        assert "with starter: “Plain” (" in untried({"loops": "Loops", "knowledge": "Plain"}, "starter")[0]
        three = {"identity": "Itself", "knowledge": "Plain", "script": "Script", "loops": "Loops"}
        assert "with starter: “Itself”, “Plain”, “Script” (" in untried(three, "starter")[0]
        assert "with small: all of these measures (" in untried({"loops": "Loops"}, "small")[0]
    finally:
        read_proofs.cache_clear()


def test_what_is_published_is_of_measures_that_are_there() -> None:
    for name, _, contrast in read_proofs():
        assert name in MEASURES and contrast in proofs.CONTRASTS


def test_all_that_a_bundled_dossier_asks_about_who_it_is_and_what_it_knows_is_asked() -> None:
    kinds = (ItemKind.IDENTITY, ItemKind.KNOWLEDGE)
    for one in bundled_cards():
        asked = [item for item in choose_items(one, proofs.SIZE, proofs.SIZE.items) if item.kind in kinds]
        assert len(asked) == len([question for question in read_dossier(one).questions
                                  if question.task in ("identity", "knowledge", "limits")]) > 10


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
    assert list(first.x) == [0.9, 0.5] and list(first.y) == [1.25, 0.25] and list(first.marker.symbol) == ["circle", "circle-open"]


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
    monkeypatch.setattr(proofs, "SIZE", Size({ItemKind.TALK: 3, ItemKind.LONG: 1}, 2, 1))
    assert main([*command, "loops", "knowledge"]) == 0  # one question more: loops has other rows, knowledge has its own questions
    assert read_json(tmp_path / "rows.json")[:4] == rows[3:]
    assert [(row["measure"], row["questions"], row["samples"][0] + row["missing"][0])
            for row in read_json(tmp_path / "rows.json")[4:]] == [("loops", 4, 5)] * 3
    assert answers.read_bytes().startswith(kept) and answers.read_bytes().count(b"\n") == kept.count(b"\n") + 4

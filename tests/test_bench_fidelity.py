"""The fidelity bench on a tiny model: the whole ladder once, going on after a kill, tables by hand, swapped masks."""

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_job import QUICK, write_card, write_lines
from tiny import make_tiny

from benchmarks import fidelity, measures, plan, swap
from benchmarks.__main__ import main
from benchmarks.cells import Cell, Subject, load
from benchmarks.measures import ability, identification
from benchmarks.meter import Counter, Halted, drain, watched
from benchmarks.methods import LADDER, PAPER, Kind, learned, of_kind, taylor
from benchmarks.methods.depth import skipped
from benchmarks.pruned import shortened
from benchmarks.replies import greedy_replies
from engine.base.errors import UserError
from engine.base.events import Event, Step
from engine.base.files import read_json, write_json
from engine.base.ids import StageId
from engine.cards.card import Card, parse_card
from engine.cards.files import read_card
from engine.evaluation import turns
from engine.evaluation.fidelity import dense_states, measure
from engine.models.ffn import masked
from engine.models.packing import pack
from engine.pruning.importance import read_activations, top_channels, wanda_scores
from engine.stages.mask import encode_lines

KEYS = {"model", "character", "sparsity", "seed", "method", "kl", "top1", "nll", "identification", "neutral_ppl", "lines",
        "tokens", "seconds", "preset", "dtype"}
HELD_OUT = 6  # of the lines of small_job, those that report


def short_cards() -> list[Card]:
    """Others to be told from, whose prompts are short."""
    return [parse_card(json.dumps({"name": name, "description": f"A {trade}."}).encode(), name)
            for name, trade in (("Odile", "baker"), ("Bodo", "thief"), ("Wim", "ferryman"))]


@contextlib.contextmanager
def small() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in ((turns, "OTHERS", 2), (identification, "bundled_cards", short_cards),
                                    (measures, "QUESTIONS", 3), (measures, "REPLY_TOKENS", 4), (ability, "NEUTRAL", 2),
                                    (taylor, "ROUNDS", 2)):
            patch.setattr(module, name, value)
        few = {"steps": 4, "step_lines": 4, "validate_every": 2}
        patch.setitem(learned.LEARNED, PAPER, {**learned.LEARNED[PAPER], **few})
        yield patch


def make_plan(folder: Path, model: Path, workdir: str = "work", **changes: Any) -> plan.Plan:
    """One character at one sparsity, its lines given."""
    card = read_card(write_card(folder))
    knobs = {**QUICK, "recovery_epochs": 8, "answer_tokens": 16, **changes}  # with fewer a random model reads no better
    return plan.Plan(str(model), {"zoe": card}, (0.25,), 1, "standard", folder / workdir, knobs, "fp32", write_lines(folder))


def results_of(one: plan.Plan) -> fidelity.Results:
    return fidelity.Results(one.workdir / "fidelity.json", one.label)


@dataclasses.dataclass
class Climbed:
    """A ladder that was climbed in two parts, the first of them cut off."""

    plan: plan.Plan
    first: list[dict[str, Any]]  # rows when it was cut off
    rows: list[dict[str, Any]]

    def row(self, method: str) -> dict[str, Any]:
        return next(row for row in self.rows if row["method"] == method)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with so many blocks that one of them weighs about as much as the channels removed."""
    return make_tiny(tmp_path_factory.mktemp("deep"), num_hidden_layers=6)


@pytest.fixture(scope="module")
def climbed(deep: Path, tmp_path_factory: pytest.TempPathFactory) -> Climbed:
    one = make_plan(tmp_path_factory.mktemp("bench"), deep)
    with small():
        run = fidelity.measure(one, list(LADDER), results_of(one))
        for event in run:
            if isinstance(event, Step) and event.stage == StageId.LEARN_MASK and event.done == 3:
                break
        run.close()
        first = results_of(one).rows
        fidelity.follow(fidelity.measure(one, list(LADDER), results_of(one)))
    return Climbed(one, first, results_of(one).rows)


def test_every_method_has_a_row_with_exactly_the_keys(climbed: Climbed) -> None:
    assert [row["method"] for row in climbed.rows] == list(LADDER)
    assert all(set(row) == KEYS for row in climbed.rows)
    assert {(row["character"], row["sparsity"], row["seed"], row["lines"], row["preset"]) for row in climbed.rows} == {
        ("zoe", 0.25, 0, HELD_OUT, "standard, 4 steps")}
    dense = climbed.row("dense")
    assert (dense["kl"], dense["top1"], dense["tokens"]) == (0, 1, 0)
    assert all(row["kl"] > 0 and 0 <= row["identification"] <= 1 and row["neutral_ppl"] > 1 for row in climbed.rows[1:])
    for name in of_kind(Kind.PUBLISHED):
        if name == "depth":
            continue
        assert climbed.row(f"{name}+ls")["kl"] < climbed.row(name)["kl"] or name == "magnitude", name
    assert climbed.row("default+recovery")["kl"] != climbed.row("default")["kl"]


def test_the_price_of_a_method_is_all_that_it_rests_on(climbed: Climbed) -> None:
    tokens = {row["method"]: row["tokens"] for row in climbed.rows}
    assert tokens["random"] == tokens["magnitude"] == 0
    assert 0 < tokens["flap"] == tokens["taylor"] == tokens["depth"] < tokens["wanda"]  # it reads validation, too
    assert tokens["obs"] > tokens["flap"]  # neutral lines, too, as every least squares; read once
    assert tokens["obs+ls"] == tokens["random+ls"]
    assert tokens["iterative-taylor"] == 2 * tokens["taylor"]
    assert tokens["random+ls"] == tokens["wanda+ls"] > tokens["wanda"] + tokens["flap"]
    assert tokens["taylor+ls"] == tokens["random+ls"] + tokens["taylor"]
    assert tokens["ste-ce-wanda"] == tokens["ste-ce"] + tokens["wanda"] == tokens["ste-kl"]
    assert tokens["default+recovery"] > tokens["default"] > tokens["ste-kl"]


def test_a_run_that_was_cut_off_goes_on_where_it_was(climbed: Climbed, deep: Path, tmp_path: Path) -> None:
    before = list(LADDER)[: list(LADDER).index("ste-ce")]
    assert [row["method"] for row in climbed.first] == before
    assert climbed.rows[: len(before)] == climbed.first
    whole = make_plan(tmp_path, deep)
    with small():
        drain(fidelity.measure(whole, ["ste-ce"], results_of(whole)))
    (row,) = results_of(whole).rows
    ours = climbed.row("ste-ce")
    assert row["kl"] == ours["kl"] and row["tokens"] == ours["tokens"]  # the steps before the cut are counted once


def test_what_is_measured_is_not_measured_again(climbed: Climbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "load", lambda _: pytest.fail("the model was loaded"))
    assert list(fidelity.measure(climbed.plan, list(LADDER), results_of(climbed.plan))) == []


def test_methods_that_are_asked_for_again_are_measured_again(climbed: Climbed, tmp_path: Path) -> None:
    write_json(tmp_path / "rows.json", [row for row in climbed.rows if row["method"] in ("random", "wanda", "taylor")])
    results = fidelity.Results(tmp_path / "rows.json", climbed.plan.label)
    with small():
        drain(fidelity.measure(climbed.plan, ["random", "wanda"], results, {"wanda"}))
    assert [row["method"] for row in read_json(tmp_path / "rows.json")] == ["random", "taylor", "wanda"]
    assert results.rows[-1] == climbed.row("wanda")


def test_large_files_are_gone_and_masks_stay(climbed: Climbed) -> None:
    assert len({file.stat().st_ino for file in climbed.plan.workdir.rglob("dense.safetensors")}) == 1  # read once
    left = {file.name for file in climbed.plan.workdir.rglob("*.safetensors")}
    large = {f"{name}.safetensors" for name in ("columns", "start", "tuned-0000", "retuned-0000", "recovered", "recovery")}
    assert "mask.safetensors" in left and not left & large
    folders = [file.parent.name for file in climbed.plan.workdir.rglob("mask.safetensors")]
    learned = sorted(name.rsplit("-", 1)[0] for name in folders if "-" in name)
    assert learned == ["ce-random", "ce-wanda", "kl-wanda"] and len(folders) == 4  # and the default's


@torch.inference_mode()
def test_the_row_of_wanda_is_what_one_finds_by_hand(climbed: Climbed) -> None:
    one = climbed.plan
    dense = drain(load(one))
    bench = Subject(one, "zoe", 0, dense).context(one.workdir / "by-hand", one.recipe(0.25, 0))
    (lines,) = one.workdir.rglob("lines/lines.jsonl")
    bench.path("lines.jsonl").write_bytes(lines.read_bytes())
    train, _, test, prefix = encode_lines(bench)
    size = QUICK["row_tokens"]
    *_, last = read_activations(dense.model, pack(train, size, prefix))
    rows = pack(test, size, prefix)
    states = dense_states(dense.model, rows)
    with masked(dense.model, top_channels(wanda_scores(dense.model, last.norms), 48)):
        found = measure(dense.model, rows, states)
    row = climbed.row("wanda")
    assert (row["kl"], row["top1"], row["nll"]) == pytest.approx((found.kl, found.top1, found.nll), rel=1e-6)


def test_rows_of_another_preset_are_refused(climbed: Climbed, deep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = climbed.plan.workdir / "fidelity.json"
    with pytest.raises(UserError, match="another preset"):
        fidelity.Results(file, "standard, 5 steps")
    command = ["fidelity", "--table", "--json", str(file), "--model", str(deep), "--workdir", str(file.parent)]
    assert main([*command, "--preset", "quick"]) == 2
    assert "holds rows of another preset (standard, 4 steps)" in capsys.readouterr().err
    write_json(file.with_name("other.json"), {"rows": []})
    assert main([*command[:3], str(file.with_name("other.json"))]) == 2
    assert "is no list of rows" in capsys.readouterr().err


def test_a_cell_is_measured_in_one_number_format(climbed: Climbed, tmp_path: Path) -> None:
    # In another format the dense model answers otherwise: the rows would rest on other lines, and no one could tell.
    rows = [{**row, "dtype": "bf16"} for row in climbed.rows if row["method"] == "dense"]
    write_json(tmp_path / "fidelity.json", rows)
    results = fidelity.Results(tmp_path / "fidelity.json", climbed.plan.label)
    with pytest.raises(UserError, match=r"in bf16; this run measures in fp32.*--dtype bf16"):
        list(fidelity.measure(climbed.plan, ["dense", "wanda"], results))
    with pytest.raises(UserError, match="in bf16"):
        list(fidelity.measure(climbed.plan, ["dense"], results, {"dense"}))
    assert fidelity.Results(tmp_path / "fidelity.json", climbed.plan.label).rows == rows


@pytest.mark.parametrize(("options", "words"), [
    (["--methods", "magic"], "no method 'magic'"), (["--seeds", "0"], "fewer than one"), (["--sparsity", "1.5"], "0 and 0.9"),
    (["--characters", "99"], "12 bundled"), (["--characters", "nobody-here"], "nobody-here"), (["--again", "magic"], "no method"),
    (["--characters", "pim-tuckett", "pim-tuckett"], "same name"), (["--table"], "no rows")])
def test_bad_options_get_one_sentence(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fidelity", *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_the_table_comes_from_rows_alone(climbed: Climbed, deep: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "make_plan", lambda _: climbed.plan)
    with small():
        assert main(["fidelity", "--table", "--markdown", "--curves", str(tmp_path / "curves.json"),
                     "--figures", str(tmp_path / "figures")]) == 0
    shown = capsys.readouterr().out
    assert "| default+recovery | " in shown and f"1 character, 1 seed, {HELD_OUT} held-out lines" in shown
    assert "intervals over characters and lines" in shown and "against the paper" not in shown
    assert "paper's best KL (of ste-ce)" in shown
    assert [file.name for file in sorted((tmp_path / "figures").iterdir())] == ["ladder.html", "tokens.html"]
    found = read_json(tmp_path / "curves.json")
    assert [one["method"] for one in found] == ["ste-ce", "default"]
    paper, ours = (one["points"] for one in found)
    assert {point["stage"] for point in paper} == {"learning"} and paper[0]["tokens"] == 0
    stages = [point["stage"] for point in ours]
    assert stages[0] == "start" and stages[1:4] == ["learning"] * 3 and stages[-1] == "tuning"
    tokens = [point["tokens"] for point in ours]
    assert tokens == sorted(tokens) and tokens[0] == climbed.row("wanda")["tokens"]  # the dense pass
    assert tokens[-1] == climbed.row("default")["tokens"]


def test_a_character_served_by_its_own_mask_reads_as_in_the_ladder(climbed: Climbed, monkeypatch: pytest.MonkeyPatch,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    two = dataclasses.replace(climbed.plan, characters={**climbed.plan.characters, "odile": short_cards()[0]})
    write_json(two.workdir / "two.json", climbed.rows)  # one of the two is measured already
    with small():
        drain(fidelity.measure(two, ["default"], fidelity.Results(two.workdir / "two.json", two.label)))
    monkeypatch.setattr(swap, "make_plan", lambda _: two)
    assert swap.run(argparse.Namespace(json=None, markdown=True)) == 0
    found = {(row["character"], row["served_by"]): row["kl"] for row in read_json(two.workdir / "swap.json")}
    assert len(found) == 4 and found["zoe", "zoe"] > climbed.row("default")["kl"]  # not reconstructed
    assert found["zoe", "odile"] != found["zoe", "zoe"] and "| odile | " in capsys.readouterr().out
    monkeypatch.setattr(swap, "load", lambda _: pytest.fail("the model was loaded"))
    assert swap.run(argparse.Namespace(json=None, markdown=True)) == 0


def test_swap_without_masks_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["swap", "--characters", "2"]) == 2
    assert "benchmarks fidelity" in capsys.readouterr().err


def test_shortened_blocks_are_gone_and_come_back(deep: Path, climbed: Climbed) -> None:
    dense = drain(load(climbed.plan))
    subject = Subject(climbed.plan, "zoe", 0, dense)
    drain(subject.prepare())
    cell = Cell(subject, 0.25)
    pruned = drain(LADDER["depth"].prune(cell))
    assert len(pruned.dropped) == 1
    with pruned.applied_to(dense.model) as model:
        assert len(model.model.layers) == model.config.num_hidden_layers == 5
        inside = measure(model, subject.test, subject.states)
    with skipped(dense.model, pruned.dropped):
        assert measure(dense.model, subject.test, subject.states) == inside
    prompt = list(subject.test[0].tokens[0, :20].tolist())
    with contextlib.suppress(ZeroDivisionError), shortened(dense.model, [0, 2]):
        (reply,) = greedy_replies(dense.model, [prompt], 3, frozenset())
        with torch.inference_mode():
            for token in reply.tokens:  # with a cache as without one
                assert token == int(dense.model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1].argmax())
                prompt.append(token)
        raise ZeroDivisionError
    assert [layer.self_attn.layer_idx for layer in dense.model.model.layers] == list(range(6))
    assert measure(dense.model, subject.test, subject.states).kl == pytest.approx(0, abs=1e-9)


def test_a_watched_call_ends_when_nobody_waits(deep: Path, climbed: Climbed) -> None:
    model = drain(load(climbed.plan)).model
    counter, ended = Counter(model), []

    def endless() -> None:
        try:
            while True:
                model(input_ids=torch.tensor([[1, 2, 3]]))
        except Halted:
            ended.append(True)
            raise

    work: Any = watched("waiting", 10, counter, endless)
    event: Event = next(work)
    assert event.done <= event.total == 10  # type: ignore[attr-defined]
    work.close()
    assert ended == [True] and counter.tokens >= 3
    model(input_ids=torch.tensor([[1]]))  # it may run again

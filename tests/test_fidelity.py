"""Fidelity readings, the exported mask, and a model card that no card name can break."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import find, make_tiny, random_examples

from engine.evaluation.fidelity import dense_states, measure
from engine.export.folder import pack_mask, read_mask
from engine.export.model_card import render_model_card
from engine.models.ffn import masked
from engine.models.loading import load_model
from engine.models.packing import pack
from engine.pruning.importance import random_scores, top_channels

SIZES = (3, 0, 120, 100, 110, 1)  # answers: none, one token, more than one chunk of logits


@pytest.fixture(scope="session", params=["llama", "gemma2", "granite"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tiny models: a plain one, one with a soft cap, one with scaled logits."""
    return load_model(find(make_tiny(tmp_path_factory.mktemp("fidelity"), request.param)), torch.float32).cpu()


def test_the_dense_model_is_nothing_away_from_itself(model: Any) -> None:
    rows = pack(random_examples(SIZES), 500)
    reading = measure(model, rows, dense_states(model, rows))
    assert reading.kl == pytest.approx(0, abs=1e-6)
    assert reading.top1 == 1
    assert (reading.lines, reading.tokens) == (6, 334)


@torch.inference_mode()
def test_readings_equal_a_naive_computation(model: Any) -> None:
    rows, mask = pack(random_examples(SIZES), 250), top_channels(random_scores(2, 64, 3), 40)
    assert len(rows) > 1
    dense = dense_states(model, rows)
    with masked(model, mask):
        reading = measure(model, rows, dense)
    divergence, agreement, surprise = [], [], []
    for example in random_examples(SIZES):
        ids, begin = torch.tensor([example.prompt + example.answer]), len(example.prompt) - 1
        wanted = model(input_ids=ids, use_cache=False).logits[0, begin:-1].log_softmax(-1)
        with masked(model, mask):
            own = model(input_ids=ids, use_cache=False).logits[0, begin:-1].log_softmax(-1)
        divergence += functional.kl_div(own, wanted, reduction="none", log_target=True).sum(-1).tolist()
        agreement += (own.argmax(-1) == wanted.argmax(-1)).float().tolist()
        surprise += (-own[range(len(example.answer)), example.answer]).tolist()
    assert reading.kl == pytest.approx(sum(divergence) / 334, rel=1e-4)
    assert reading.top1 == pytest.approx(sum(agreement) / 334, abs=0.004)
    assert reading.nll == pytest.approx(sum(surprise) / 334, rel=1e-5)
    assert reading.kl > 0.01
    assert 0 < reading.top1 < 1


@pytest.mark.parametrize(("channels", "k"), [(64, 40), (13, 5), (8, 8), (1, 1), (17, 1)])
def test_a_mask_comes_back_from_its_file(tmp_path: Path, channels: int, k: int) -> None:
    mask = top_channels(random_scores(3, channels, 1), k)
    packed = pack_mask(mask)
    assert packed["kept"].shape == (3, -(-channels // 8))
    assert packed["scales"].tolist() == [[1.0] * k] * 3
    save_file(packed, tmp_path / "mask.safetensors")
    found = read_mask(tmp_path / "mask.safetensors")
    assert torch.equal(found, mask)
    assert found.dtype == torch.float32


def make_report(name: str, **base: Any) -> dict[str, Any]:
    """A report of an export as the model card reads it."""
    reading = {"kl": 0.41, "top1": 0.83, "nll": 2.5, "lines": 48, "tokens": 1900}
    return {"base": {"name": "base model", "hub": "owner/base", "licence": "apache-2.0", **base}, "character": name,
            "before": {"parameters": 100, "intermediate_size": 64, "bytes": 200},
            "after": {"parameters": 83, "intermediate_size": 48, "bytes": 166},
            "recipe": {"sparsity": 0.25, "loss": "kl", "steps": 60, "reconstruct": True, "recover": False, "seed": 0},
            "lines": {"train": 384}, "readings": {"dense": reading, "mask": reading}}


def parts(card: str) -> tuple[Any, str]:
    """The parsed front matter of a model card, and its body."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert found
    return yaml.safe_load(found[1]), card[found.end():]


FRONT = {"base_model": "owner/base", "base_model_relation": "finetune", "license": "apache-2.0",
         "library_name": "transformers", "pipeline_tag": "text-generation",
         "tags": ["pruned", "roleplay", "persona-pruner"]}


def plain_front(front: dict[str, Any]) -> dict[str, Any]:
    """The front matter without its results, which are seen to elsewhere."""
    return {name: value for name, value in front.items() if name != "model-index"}


TRICKS = ["Bodo", "---\nlicense: mit\n---\n# Mine", "x\n---\n", "[a](javascript:alert(1))",
          "<script>alert(1)</script>", "![i](http://x/y.png)", "a | b |\n| --- |", "```\ncode", "# big\r\n## bigger",
          "key: value # no", "- item\n- item", '"quoted" \\ \'', "*bold* _too_", "&lt;b&gt;",
          "\u2028\u2029\u0085", "{{char}}", "%YAML 1.2", "@x `y` !!python/object:x"]


def assert_sound(card: str) -> None:
    """The front matter is ours and the body has our headings and no markup of the name's."""
    front, body = parts(card)
    assert plain_front(front) == FRONT and len(front["model-index"][0]["results"]) == 1
    headings = [line for line in re.split(r"[\r\n]", body) if re.match(r"\s*(#|=+\s*$|-+\s*$|```|~~~)", line)]
    assert [line[:5] for line in headings] == ['# "' + headings[0][3:5], "## Ho", "## Ho", "## Li", "## Li"]
    for mark in ("](", "<", "```", "`"):
        assert mark not in body
    rows = [line for line in body.split("\n") if line.startswith("|")]
    assert len(rows) == 8
    assert {line.count("|") for line in rows} == {4, 5}


@pytest.mark.parametrize("name", TRICKS)
def test_no_name_breaks_the_model_card(name: str) -> None:
    assert_sound(render_model_card(make_report(name)))


@given(st.text(st.sampled_from(list("-:#[]()<>`*|!\n\r\t \\\"'_~={}&a\u2028\u0085")), max_size=25))
@settings(max_examples=200)
def test_no_made_up_name_breaks_the_model_card(name: str) -> None:
    assert_sound(render_model_card(make_report(name)))


@pytest.mark.parametrize("licence", ["no", "null", "1.0", "-", "...", "+.inf", "2024-01-01", "---"])
def test_a_licence_that_the_hub_does_not_know_goes_under_other(licence: str) -> None:
    front, _ = parts(render_model_card(make_report("Bodo", licence=licence)))
    assert front["license"] == "other" and isinstance(front["license_name"], str) and front["license_name"]
    assert front["license_link"] == "https://huggingface.co/owner/base"


def test_what_is_not_known_is_left_out() -> None:
    front, body = parts(render_model_card(make_report("Bodo", hub="", licence=None)))
    assert not {"base_model", "base_model_relation", "license"} & front.keys()
    assert '# "Bodo" on 83% of base model' in body
    assert "| mask | 0.410 | 83.0% | 2.500 |" in body
    assert "25%" in body
    assert "17.0% of all parameters" in body


def test_the_model_card_speaks_of_learning_only_where_a_mask_was_learned() -> None:
    report = make_report("Bodo")
    report["choices"], report["recipe"]["start"], report["recipe"]["steps"] = {"mask": "start"}, "wanda", 12
    report["learning"] = [{"step": 0, "validation_kl": 0.1, "tokens": 0}]
    assert "mask by importance (wanda), " in render_model_card(report)
    report["learning"].append({"step": 1, "loss": 0.2, "tokens": 9})
    assert "steps of learning did not improve on it), " in render_model_card(report)


def test_the_model_card_tells_how_the_model_was_made() -> None:
    report = make_report("Bodo")
    assert "least-squares reconstruction of W_down, seed 0" in render_model_card(report)
    report["recipe"]["recover"] = True
    report["choices"] = {"tune_layers": {"used": True}, "tune_layers_again": {"used": True, "extra_samples": 1281}}
    assert ("reconstruction of W_down, the kept channels of each layer fine-tuned, fine-tuned again on 1,281 extra samples from "
            "the dense model, LoRA recovery, merged, seed 0") in render_model_card(report)
    report["choices"]["tune_layers_again"]["used"] = False
    assert "each layer fine-tuned, LoRA recovery" in render_model_card(report)
    of_older_versions = {"layer_tuning": {"used": False}, "layer_tuning_again": {"used": True, "further_answers": 9}}
    report["choices"] = of_older_versions
    assert "W_down, the kept channels of each layer fine-tuned on 9 extra samples" in render_model_card(report)

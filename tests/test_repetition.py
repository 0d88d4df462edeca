"""The settings of the samplers: read whatever their age, refused by name; and that calibration draws without them."""

import argparse
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import find, make_tiny
from torch import Tensor

from engine.base.errors import UserError
from engine.base.sampling import DEFAULTS, KNOBS, SamplingParams, add_sampling_options, read_params
from engine.models.loading import load_model
from engine.models.sampling import Sampling, sample_together


def _drawn(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Calibration's draw, written out: 64 likeliest, temperature, then the likeliest that together have top_p."""
    values, tokens = logits.topk(64, dim=-1)
    share = (values / sampling.temperature).softmax(-1)
    share[(share.cumsum(-1) - share) >= sampling.top_p] = 0
    return tokens.gather(-1, torch.multinomial(share, 1, generator=generator))[:, 0]


@torch.inference_mode()
def test_calibration_draws_as_it_always_did(tmp_path: Path) -> None:
    model: Any = load_model(find(make_tiny(tmp_path)), torch.float32)
    prefix, prompts = [5, 9, 33, 70], [[8, 12], [40, 3]]
    sampling = Sampling(frozenset(), 20, 0.8, 0.95, seed=11)
    generator, rows = torch.Generator().manual_seed(11), [[*prefix, *prompt] for prompt in prompts]
    for _ in range(20):
        drawn = _drawn(model(input_ids=torch.tensor(rows)).logits[:, -1].float(), sampling, generator)
        rows = [[*row, int(token)] for row, token in zip(rows, drawn, strict=True)]
    found = sample_together(model, prefix, prompts, sampling)
    assert [one.tokens for one in found] == [row[6:] for row in rows]


def test_settings_are_read_whatever_their_age() -> None:
    assert read_params({}) == DEFAULTS
    assert read_params({"temperature": 0.7, "top_p": 0.95, "limit": 40, "seed": 4}) == SamplingParams(max_tokens=40, seed=4)
    assert read_params({"limit": 40, "max_tokens": 50, "min_p": None, "unknown": 1}).max_tokens == 50
    assert read_params(SamplingParams(min_p=0.2, seed=3).as_dict()) == SamplingParams(min_p=0.2, seed=3)
    assert DEFAULTS.with_seed() != DEFAULTS.with_seed() and SamplingParams(seed=0).with_seed() == SamplingParams(seed=0)


BAD = [{knob.name: value} for knob in KNOBS for value in (knob.least - 1, knob.most + 1, math.nan, "x", True, [1])]


@pytest.mark.parametrize("given", [*BAD, {"max_tokens": 1.5}, {"dry_allowed_length": 2.5}, {"limit": 0}, {"seed": -1},
                                   {"seed": 2**32}, {"seed": 0.5}, {"seed": "x"}, {"seed": math.inf}, [1], "x"], ids=str)
def test_settings_that_cannot_be_are_refused_by_name(given: Any) -> None:
    with pytest.raises(UserError) as refused:
        read_params(given)
    name = next(iter(given)) if isinstance(given, dict) else "sampling"
    assert {"limit": "max_tokens"}.get(name, name) in str(refused.value)


def test_every_sampler_has_a_slider_that_holds_its_default_and_an_option() -> None:
    parser = argparse.ArgumentParser()
    add_sampling_options(parser)
    options = parser.format_help()
    for knob in KNOBS:
        low, high, step = knob.slider
        assert knob.least <= low <= getattr(DEFAULTS, knob.name) <= high <= knob.most and step > 0
        assert f"--{knob.name.replace('_', '-')}" in options and knob.help.endswith(".")

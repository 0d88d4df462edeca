"""The chat's samplers, by values worked out by hand from their definitions; and that calibration draws without them."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import find, make_tiny
from torch import Tensor
from transformers import MinPLogitsWarper

from engine.base.errors import UserError
from engine.base.sampling import DEFAULTS, KNOBS, SamplingParams, add_sampling_options, read_params
from engine.models.loading import load_model
from engine.models.sampling import Sampler, Sampling, choose, dry_lengths, sample_together

OFF = SamplingParams(temperature=0, top_p=1, min_p=0, repeat_penalty=1, dry_multiplier=0, seed=1)
A, B, C, D, STOP, END = range(6)


class _Tokenizer:
    """Five words, of which one ends a phrase, and a control token."""

    all_special_ids = (END,)

    def decode(self, tokens: Sequence[int]) -> str:
        return {STOP: "*", END: ""}.get(tokens[0], "word")


def adjusted(params: SamplingParams, said: Sequence[int], logits: Sequence[float] = (1, 1, 1, 1, 1, 1)) -> list[float]:
    """What is left of the logits after these words."""
    sampler = Sampler(params, _Tokenizer(), frozenset({END}), said)
    return sampler._adjusted(torch.tensor([logits], dtype=torch.float))[0].tolist()


@pytest.mark.parametrize(("said", "expected"), [
    ([A, B, C, A, B], {C: 2}),  # "a b" was followed by c
    ([A, B, C, D, A, B, C], {D: 3}),
    ([A, A, A], {A: 2}),
    ([B, C, A, B, A, B], {C: 1, A: 2}),  # "b" was followed by c, "a b" by a
    ([A, STOP, C, A, STOP], {}),  # a phrase does not run across what ends it
    ([A, STOP, B, C, A, STOP, B], {C: 1}),
    ([A, B, STOP, A, B], {}),  # and what ends it may come again
    ([A], {}), ([], {})])
def test_lengths_of_repeated_phrases(said: list[int], expected: dict[int, int]) -> None:
    found = dry_lengths(said, [token == STOP for token in said], 6)
    assert {token: length for token, length in enumerate(found.tolist()) if length} == expected


def test_dry_takes_off_the_multiplier_times_a_power_of_the_base() -> None:
    dry = replace(OFF, dry_multiplier=0.5, dry_base=2.0, dry_allowed_length=2)
    assert adjusted(dry, [A, B, C, D, A, B, C]) == [1, 1, 1, 1 - 0.5 * 2 ** 1, 1, 1]
    assert adjusted(dry, [A, B, C, A, B]) == [1, 1, 1 - 0.5, 1, 1, 1]
    assert adjusted(dry, [B, C, B]) == [1] * 6, "one token may be said again"
    assert adjusted(replace(dry, dry_penalty_last_n=4), [A, B, C, D, A, B, C]) == [1] * 6, "too long ago"
    assert adjusted(replace(dry, dry_penalty_last_n=0), [A, A, A, A]) == [1] * 6


def test_the_repetition_penalty_divides_likely_words_and_multiplies_unlikely_ones() -> None:
    penalty = replace(OFF, repeat_penalty=2.0)
    assert adjusted(penalty, [A, B, A], [4, -3, 4, -3, 1, 1]) == [2, -6, 4, -3, 1, 1]
    assert adjusted(replace(penalty, repeat_last_n=1), [A, B], [4, 4, 4, 4, 1, 1]) == [4, 2, 4, 4, 1, 1]
    assert adjusted(replace(penalty, repeat_last_n=0), [A, B]) == [1] * 6


def test_what_ends_an_answer_is_never_made_less_likely() -> None:
    strong = replace(OFF, repeat_penalty=2.0, dry_multiplier=5.0)
    assert adjusted(strong, [A, B, END, A, B])[END] == adjusted(strong, [END])[END] == 1


def test_min_p_is_that_of_transformers() -> None:
    logits = torch.randn(1, 200, generator=torch.Generator().manual_seed(1)) * 3
    expected = MinPLogitsWarper(0.05)(torch.empty(0), logits)
    assert 0 < int(expected.isinf().sum()) < 199
    sampler = Sampler(replace(OFF, min_p=0.05), _Tokenizer(), frozenset({END}), [])
    assert torch.equal(sampler._adjusted(logits), expected)


def test_with_all_of_them_off_an_answer_is_drawn_as_ever() -> None:
    logits = torch.randn(40, 1, 200, generator=torch.Generator().manual_seed(2))
    plain = replace(OFF, temperature=0.9, top_p=0.9, seed=7)
    sampler, generator = Sampler(plain, _Tokenizer(), frozenset({END}), [A, B]), torch.Generator().manual_seed(7)
    sampling = Sampling(frozenset({END}), 40, 0.9, 0.9, 7)
    assert [sampler.choose(row) for row in logits] == [int(choose(row, sampling, generator)) for row in logits]


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

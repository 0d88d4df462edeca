"""Generation: many rows behind one prefix, against transformers' own generate."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import find, make_tiny
from transformers import DynamicCache

from engine.base.families import FAMILIES
from engine.models.kv_cache import SPARE, growing_cache
from engine.models.loading import load_model
from engine.models.sampling import Sampled, Sampling, choose, sample_together

ModelOf = Callable[..., Any]
SLIDES: dict[str, dict[str, Any]] = {
    "mistral": {}, "gemma2": {}, "gemma3_text": {}, "phi3": {},
    **{family: {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}
       for family in ("qwen2", "qwen3", "smollm3")},
}
# A window within an answer, and one that the prefix leaves only while the answer grows.
CASES = [*((family, None) for family in sorted(FAMILIES)), *((family, 5) for family in SLIDES),
         *((family, 23) for family in ("mistral", "gemma2", "gemma3_text", "phi3"))]
LIMIT = 12


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> ModelOf:
    """A tiny model of a family, made once; with a sliding window of so many tokens, if given."""

    @functools.cache
    def build(family: str, window: int | None = None) -> Any:
        changes = {"sliding_window": window, **SLIDES[family]} if window else {}
        if family == "gemma2":
            changes["attn_logit_softcapping"] = 0.5  # so low that a forgotten soft cap shows
        return load_model(find(make_tiny(tmp_path_factory.mktemp(family), family, **changes)), torch.float32).cpu()

    return build


def make_prompts() -> tuple[list[int], list[list[int]]]:
    """A prefix of 13 random tokens, and prompts of 1 to 9 tokens that come after it."""
    draw = torch.Generator().manual_seed(2)
    ids = lambda size: torch.randint(3, 300, (size,), generator=draw).tolist()
    return ids(13), [ids(size) for size in (4, 1, 9, 6)]


def generate(model: Any, tokens: list[int], endings: frozenset[int] = frozenset()) -> list[int]:
    """transformers' greedy answer behind some tokens."""
    ids = torch.tensor([tokens])
    with torch.inference_mode():
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=LIMIT,
                                do_sample=False, eos_token_id=sorted(endings) or [10_000], pad_token_id=0)
    return output[0, len(tokens):].tolist()


def until(tokens: list[int], endings: frozenset[int]) -> Sampled:
    """An answer up to its first ending."""
    stop = next((place for place, token in enumerate(tokens) if token in endings), None)
    return Sampled(tokens[:stop], stop is not None)


@pytest.mark.parametrize(("family", "window"), CASES)
def test_greedy_answers_equal_those_of_generate(model_of: ModelOf, family: str, window: int | None) -> None:
    model, (prefix, prompts) = model_of(family, window), make_prompts()
    whole = [generate(model, prefix + prompt) for prompt in prompts]
    greedy = Sampling(frozenset(), LIMIT, 0.0)
    assert sample_together(model, prefix, prompts, greedy) == [Sampled(tokens) for tokens in whole]
    # Rows that end at once, in the middle and never: two endings from inside the answers.
    endings = frozenset({whole[0][0], whole[2][5]})
    expected = [until(tokens, endings) for tokens in whole]
    assert len({len(answer.tokens) for answer in expected}) > 1
    assert any(answer.complete for answer in expected)
    assert sample_together(model, prefix, prompts, replace(greedy, endings=endings)) == expected
    assert model.config._attn_implementation != "shared_prefix"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_seed_fixes_the_answers(model_of: ModelOf, family: str) -> None:
    prefix, prompts = make_prompts()
    sampling = Sampling(frozenset({5}), LIMIT, 1.0)
    once = lambda seed: sample_together(model_of(family), prefix, prompts, replace(sampling, seed=seed))
    assert once(3) == once(3)
    assert once(3) != once(4)


def test_rows_of_one_prompt_differ(model_of: ModelOf) -> None:
    prefix, prompts = make_prompts()
    answers = sample_together(model_of("llama"), prefix, prompts[:1] * 6, Sampling(frozenset(), LIMIT, 1.0))
    assert len({tuple(answer.tokens) for answer in answers}) == 6


def test_the_model_is_as_before_when_sampling_fails(model_of: ModelOf) -> None:
    model, (prefix, prompts) = model_of("llama"), make_prompts()
    before = model.config._attn_implementation
    with pytest.raises(IndexError):
        sample_together(model, prefix, [*prompts, [10_000]], Sampling(frozenset(), LIMIT))
    assert model.config._attn_implementation == before
    assert sample_together(model, prefix, prompts[:1], Sampling(frozenset(), LIMIT, 0.0))


def test_choices_follow_the_distribution_cut_at_top_p() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, 4)
    counts = choose(logits, Sampling(frozenset(), 1, 1.0, 0.79), torch.Generator().manual_seed(0)).bincount(minlength=4)
    assert counts[2:].tolist() == [0, 0]
    assert float(counts[0]) / 4000 == pytest.approx(0.625, abs=0.03)
    cold = choose(logits, Sampling(frozenset(), 1, 0.5, 1.0), torch.Generator().manual_seed(0)).bincount(minlength=4)
    assert float(cold[0]) / 4000 == pytest.approx(0.25 / 0.365, abs=0.03)
    assert choose(logits, Sampling(frozenset(), 1, 0.0), torch.Generator()).unique().tolist() == [0]


@torch.inference_mode()
def test_the_growing_cache_equals_the_dynamic_one_beyond_its_first_buffer(model_of: ModelOf) -> None:
    model, caches = model_of("llama"), (growing_cache(), DynamicCache())
    tokens = torch.randint(3, 300, (3, 5 + 2 * SPARE + 9), generator=torch.Generator().manual_seed(4))
    for begin, end in [(0, 5), *((at, at + 1) for at in range(5, 5 + SPARE + 4)), (5 + SPARE + 4, tokens.shape[1])]:
        mine, theirs = (model(input_ids=tokens[:, begin: end], past_key_values=cache, use_cache=True).logits[:, -1]
                        for cache in caches)
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    for mine, theirs in zip(caches[0].layers, caches[1].layers, strict=True):
        assert mine.get_seq_length() == tokens.shape[1]
        torch.testing.assert_close(mine.keys, theirs.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mine.values, theirs.values, atol=1e-5, rtol=1e-5)
        mine.keep_rows(torch.tensor([2, 0]))
        torch.testing.assert_close(mine.keys, theirs.keys[[2, 0]], atol=1e-5, rtol=1e-5)

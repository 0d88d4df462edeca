"""Perplexity of neutral answers: which pairs are read, what stands before them, and the arithmetic."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import find, make_tiny

from benchmarks.measures.ability import neutral_examples, neutral_perplexity
from engine.base.questions import split_of
from engine.models.ffn import masked
from engine.models.loading import load_model, load_tokenizer
from engine.models.packing import Example
from engine.pruning.importance import random_scores, top_channels

PAIRS = [(f"What do you sell on day {number}?", "Salt, thread, and the truth. " * (1 + number % 3)) for number in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama."""
    return make_tiny(tmp_path_factory.mktemp("ability"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """The tiny llama, loaded."""
    return load_model(find(folder), torch.float32).cpu()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    """The tokenizer of the tiny llama."""
    return load_tokenizer(find(folder))


def test_only_answered_pairs_of_the_test_split_are_read_without_a_persona(tokenizer: Any) -> None:
    reporting = [pair for pair in PAIRS if split_of(pair[0]) == "test"]
    assert 3 < len(reporting) < 30
    unanswered = (reporting[0][0].upper(), "")
    found = neutral_examples(tokenizer, [*PAIRS, unanswered])
    assert [tokenizer.decode(example.prompt + example.answer) for example in found] == [
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>" for question, answer in reporting]
    assert tokenizer.decode(found[0].answer) == f"{reporting[0][1]}<|im_end|>"


@torch.inference_mode()
def test_perplexity_is_the_micro_average_over_tokens(model: Any, tokenizer: Any) -> None:
    examples = neutral_examples(tokenizer, PAIRS)
    found = neutral_perplexity(model, examples, 120)
    surprise: list[float] = []
    for example in examples:
        ids = torch.tensor([example.prompt + example.answer])
        logs = model(input_ids=ids, use_cache=False).logits[0, len(example.prompt) - 1: -1].log_softmax(-1)
        surprise += (-logs[range(len(example.answer)), example.answer]).tolist()
    assert (found.lines, found.tokens) == (len(examples), len(surprise))
    assert found.perplexity == pytest.approx(math.exp(sum(surprise) / len(surprise)), rel=1e-4)
    with masked(model, top_channels(random_scores(2, 64, 3), 20)):
        assert neutral_perplexity(model, examples, 120).perplexity != pytest.approx(found.perplexity, rel=0.01)


def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large(folder: Path, tokenizer: Any) -> None:
    ignorant = load_model(find(folder), torch.float32).cpu()
    ignorant.lm_head.weight.data.zero_()
    found = neutral_perplexity(ignorant, neutral_examples(tokenizer, PAIRS), 200)
    assert found.perplexity == pytest.approx(len(tokenizer), rel=1e-5)


def test_without_answers_there_is_no_perplexity(model: Any) -> None:
    for examples in ([], [Example((1, 2))]):
        with pytest.raises(ValueError, match="no neutral answer"):
            neutral_perplexity(model, examples, 100)

"""Shared-prefix packing: what a packed row computes equals each example alone, and the padded batch."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import find, make_tiny
from torch import Tensor

from engine.base.families import FAMILIES
from engine.models.ffn import decoder, masked, project_logits
from engine.models.loading import load_model
from engine.models.packing import Example, Row, pack, shared_prefix, states_that_predict
from engine.pruning.importance import random_scores, top_channels
from engine.pruning.masks import backward_in_chunks, dense_target

ModelOf = Callable[..., Any]
PREFIX = 14
SIZES = ((5, 6), (3, 1), (9, 0), (1, 12), (25, 15), (6, 8))
SLIDING: dict[str, dict[str, Any]] = {
    "mistral": {}, "gemma2": {}, "gemma3_text": {}, "phi3": {},
    **{family: {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}
       for family in ("qwen2", "qwen3", "smollm3")},
}
# Windows inside a segment, across the prefix's end, and beyond the longest example.
CASES = [(family, None) for family in sorted(FAMILIES)] + [(family, window) for family in SLIDING
                                                           for window in (4, 17, 200)]


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> ModelOf:
    """A tiny model of a family, made once; with a sliding window of so many tokens, if given."""

    @functools.cache
    def build(family: str, window: int | None = None, **changes: Any) -> Any:
        if window:
            changes |= {"sliding_window": window, **SLIDING[family]}
        return load_model(find(make_tiny(tmp_path_factory.mktemp(family), family, **changes)), torch.float32).cpu()

    return build


def make_examples(sizes: Sequence[tuple[int, int]] = SIZES) -> list[Example]:
    """Examples behind one random prefix: so many tokens of question and of answer each."""
    generator = torch.Generator().manual_seed(11)
    draw = lambda count: tuple(torch.randint(1, 290, (count,), generator=generator).tolist())
    prefix = draw(PREFIX)
    return [Example((*prefix, 290 + index, *draw(question)), draw(answer))
            for index, (question, answer) in enumerate(sizes)]


@torch.inference_mode()
def alone(model: Any, example: Example) -> Tensor:
    """The states that predict an example's answer when the model reads nothing else, by transformers' own masks."""
    tokens = torch.tensor([example.prompt + example.answer])
    hidden = decoder(model)(input_ids=tokens, use_cache=False).last_hidden_state[0]
    begin = len(example.prompt) - 1
    return hidden[begin: begin + len(example.answer)]


@torch.inference_mode()
def packed(model: Any, examples: Sequence[Example], rows: Sequence[Row]) -> list[Tensor]:
    """The states that predict each example's answer, from packed rows."""
    found = {}
    for row in rows:
        hidden = states_that_predict(model, row)
        found |= {index: hidden[row.owner == index] for index in row.members}
    return [found[index] for index in range(len(examples))]


def padded_losses(model: Any, examples: Sequence[Example], dense: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross entropy, and KL from `dense` log-probabilities (N, vocabulary), of an ordinary padded batch."""
    longest = max(len(example.prompt + example.answer) for example in examples)
    tokens, attention, labels = (torch.full((len(examples), longest), value) for value in (0, 0, -100))
    for number, (prompt, answer) in enumerate((example.prompt, example.answer) for example in examples):
        end = len(prompt + answer)
        tokens[number, :end] = torch.tensor(prompt + answer)
        attention[number, :end] = 1
        labels[number, len(prompt): end] = torch.tensor(answer, dtype=torch.long)
    logits = model(input_ids=tokens, attention_mask=attention, use_cache=False).logits[:, :-1]
    counts = labels[:, 1:] != -100
    own = logits[counts].log_softmax(-1)
    return (functional.cross_entropy(logits[counts], labels[:, 1:][counts], reduction="sum"),
            (dense.exp() * (dense - own)).sum())


@pytest.mark.parametrize(("family", "window"), CASES)
def test_packed_states_equal_those_of_each_example_alone(model_of: ModelOf, family: str, window: int | None) -> None:
    model, examples = model_of(family, window), make_examples()
    expected = [alone(model, example) for example in examples]
    for row_tokens in (1000, 60):
        for mine, own in zip(packed(model, examples, pack(examples, row_tokens)), expected, strict=True):
            torch.testing.assert_close(mine, own, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", sorted(SLIDING))
def test_a_short_window_changes_the_states(model_of: ModelOf, family: str) -> None:
    example = make_examples()[4]
    short, long = (alone(model_of(family, window), example) for window in (4, 200))
    assert float((short - long).abs().max()) > 0.01  # or the test above could not see a forgotten window


@pytest.mark.parametrize(("family", "window"), [case for case in CASES if case[1] in (None, 4)])
def test_packed_losses_and_gradients_equal_those_of_the_padded_batch(model_of: ModelOf, family: str,
                                                                     window: int | None) -> None:
    model, examples = model_of(family, window), make_examples()
    rows = pack(examples, 70)
    assert len(rows) > 1
    with torch.no_grad():
        targets = [dense_target(model, states_that_predict(model, row), len(model.lm_head.weight)) for row in rows]
        dense = torch.cat([project_logits(model, alone(model, example)).log_softmax(-1) for example in examples])
    mask = top_channels(random_scores(2, 64, 5), 40)
    for kind in (0, 1):  # cross entropy, KL
        relaxed = mask.clone().requires_grad_(True)
        with masked(model, relaxed):
            expected = padded_losses(model, examples, dense)[kind]
            expected.backward()
        leaf, total = mask.clone().requires_grad_(True), 0.0
        with masked(model, leaf):
            for row, target in zip(rows, targets, strict=True):
                total += backward_in_chunks(model, states_that_predict(model, row), row.labels,
                                            target if kind else None, 1.0)
        assert total == pytest.approx(float(expected.detach()), rel=1e-4, abs=1e-3)
        assert total > 0.5
        torch.testing.assert_close(leaf.grad, relaxed.grad, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("family", "changes"), [*((family, {}) for family in sorted(FAMILIES)),
                                                 ("granite", {"logits_scaling": 7.0}),
                                                 ("gemma2", {"final_logit_softcapping": 1.5}),
                                                 ("gemma3_text", {"final_logit_softcapping": 1.5})])
def test_projected_states_are_the_models_logits(model_of: ModelOf, family: str, changes: dict[str, float]) -> None:
    model = model_of(family, None, **changes)
    tokens = torch.tensor([make_examples()[4].prompt])
    with torch.inference_mode():
        hidden = decoder(model)(input_ids=tokens, use_cache=False).last_hidden_state[0]
        logits = project_logits(model, hidden)
        expected = model(input_ids=tokens, use_cache=False).logits[0]
        if changes:
            assert float((logits - model.lm_head(hidden)).abs().max()) > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_an_example_longer_than_a_row_gets_one_of_its_own() -> None:
    examples = make_examples(((3, 3), (50, 30), (4, 2), (2, 2)))
    assert [row.members for row in pack(examples, 40)] == [(0,), (1,), (2, 3)]
    assert [row.members for row in pack(examples, 1)] == [(0,), (1,), (2,), (3,)]
    assert [row.members for row in pack(examples, 1000)] == [(0, 1, 2, 3)]
    assert pack([], 40) == []


def test_empty_answers_predict_nothing() -> None:
    row, = pack(make_examples(((3, 0), (2, 2), (4, 0))), 1000)
    assert row.owner.tolist() == [1, 1]
    assert row.labels.tolist() == list(make_examples(((3, 0), (2, 2)))[1].answer)
    assert len(row.last) == 3
    nothing, = pack(make_examples(((3, 0), (2, 0))), 1000)
    assert nothing.predict.shape == nothing.labels.shape == nothing.owner.shape == (0,)
    assert nothing.labels.dtype == torch.long


ids = st.lists(st.integers(0, 3), min_size=1, max_size=9).map(tuple)
groups = st.lists(st.builds(Example, ids, st.lists(st.integers(0, 3), max_size=5).map(tuple)), min_size=1, max_size=7)


@given(groups, ids)
@settings(max_examples=150)
def test_the_shared_prefix_is_common_and_the_longest(examples: list[Example], head: tuple[int, ...]) -> None:
    examples = [Example(head + example.prompt, example.answer) for example in examples]
    length = shared_prefix(examples)
    shortest = min(len(example.prompt) for example in examples)
    assert len(head) <= length < shortest
    assert len({example.prompt[:length] for example in examples}) == 1
    assert length == shortest - 1 or len({example.prompt[: length + 1] for example in examples}) > 1


@given(groups, st.integers(1, 40))
@settings(max_examples=150)
def test_rows_hold_every_example_once_and_whole(examples: list[Example], row_tokens: int) -> None:
    rows, prefix = pack(examples, row_tokens), shared_prefix(examples)
    assert [index for row in rows for index in row.members] == list(range(len(examples)))
    for row in rows:
        assert row.size <= row_tokens or len(row.members) == 1
        tokens = row.tokens[0]
        for segment, index in enumerate(row.members, start=1):
            seen = (row.segments == 0) | (row.segments == segment)
            example = examples[index]
            assert tuple(tokens[seen].tolist()) == example.prompt + example.answer[:-1]
            assert row.positions[0][seen].tolist() == list(range(int(seen.sum())))
            assert tuple(row.labels[row.owner == index].tolist()) == example.answer
            assert int(row.positions[0, row.last[segment - 1]]) == len(example.prompt) - 1
            assert int(row.segments[row.last[segment - 1]]) == segment
            predicted_from = row.positions[0][row.predict[row.owner == index]] + 1
            assert predicted_from.tolist() == [len(example.prompt) + step for step in range(len(example.answer))]
        assert int((row.segments == 0).sum()) == prefix


def test_a_row_without_answers_adds_nothing(model_of: ModelOf) -> None:
    model = model_of("llama", None)
    rows = pack(make_examples(((3, 0), (4, 0))), 1000)
    mask = torch.ones(2, 64, requires_grad=True)
    with masked(model, mask):
        hidden = states_that_predict(model, rows[0])
        assert hidden.shape[0] == 0
        assert backward_in_chunks(model, hidden, rows[0].labels, None, 1.0) == 0.0
        assert backward_in_chunks(model, hidden, rows[0].labels, dense_target(model, hidden, 8), 1.0) == 0.0
    assert mask.grad is None

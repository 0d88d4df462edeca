"""Fidelity line by line: each line's own sums, in the rows' order, and the Reading as their mean."""

from typing import Any

import pytest
import torch
from tiny import find, make_tiny, random_examples

from engine.evaluation.fidelity import LineReadings, compare_lines, dense_states, measure
from engine.models.ffn import masked
from engine.models.loading import load_model
from engine.models.packing import Row, answer_states, pack, states_that_predict
from engine.pruning.importance import random_scores, top_channels

SIZES = (2, 3, 0, 150, 9, 140, 1)  # answers: none, one token, more than one chunk of logits


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tiny models: a plain one, and one with a soft cap."""
    return load_model(find(make_tiny(tmp_path_factory.mktemp("lines"), request.param)), torch.float32).cpu()


def measure_lines(model: Any, rows: list[Row], dense: list[torch.Tensor]) -> LineReadings:
    return compare_lines(model, rows, answer_states(model, rows), dense)


@torch.inference_mode()
def test_each_line_equals_a_naive_computation_of_it_alone(model: Any) -> None:
    examples, mask = random_examples(SIZES), top_channels(random_scores(2, 64, 3), 40)
    rows = pack(examples, 320)
    assert [row.members for row in rows] == [(0, 1, 2, 3, 4), (5, 6)]
    dense = dense_states(model, rows)
    with masked(model, mask):
        found = measure_lines(model, rows, dense)
    assert found.tokens.tolist() == list(SIZES)
    for line, example in enumerate(examples):
        ids, begin = torch.tensor([example.prompt + example.answer]), len(example.prompt) - 1
        wanted = model(input_ids=ids, use_cache=False).logits[0, begin:-1].log_softmax(-1)
        with masked(model, mask):
            own = model(input_ids=ids, use_cache=False).logits[0, begin:-1].log_softmax(-1)
        assert float(found.kl[line]) == pytest.approx(float((wanted.exp() * (wanted - own)).sum()), rel=1e-4, abs=1e-5)
        assert int(found.agreeing[line]) == int((own.argmax(-1) == wanted.argmax(-1)).sum())
        surprise = -own[range(len(example.answer)), example.answer].sum()
        assert float(found.nll[line]) == pytest.approx(float(surprise), rel=1e-5)


@torch.inference_mode()
def test_the_reading_is_the_mean_of_its_lines(model: Any) -> None:
    rows, mask = pack(random_examples(SIZES), 320), top_channels(random_scores(2, 64, 3), 40)
    dense = dense_states(model, rows)
    with masked(model, mask):
        lines, reading = measure_lines(model, rows, dense), measure(model, rows, dense)
        states = [states_that_predict(model, row) for row in rows]
        # Products on several threads are not equal to the last bit.
        assert vars(compare_lines(model, rows, states, dense).reading()) == pytest.approx(vars(reading), rel=1e-6)
        torch.testing.assert_close(compare_lines(model, rows, states, dense).kl, lines.kl, rtol=1e-6, atol=1e-6)
    tokens = sum(SIZES)
    assert (reading.lines, reading.tokens) == (len(SIZES), tokens)
    for mean, sums in ((reading.kl, lines.kl), (reading.top1, lines.agreeing), (reading.nll, lines.nll)):
        assert mean == pytest.approx(float(sums.sum()) / tokens, rel=1e-6)
        assert mean > 0


def test_rows_and_states_that_do_not_match_are_refused(model: Any) -> None:
    rows = pack(random_examples(SIZES), 320)
    dense = dense_states(model, rows)
    with pytest.raises(ValueError):
        measure_lines(model, rows, dense[:1])

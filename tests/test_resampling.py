"""Rows drawn again: what stays, what may be drawn, and that labels follow."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny import find, make_tiny

from engine.models.ffn import project_logits
from engine.models.loading import load_model
from engine.models.packing import CANDIDATES, Example, Row, pack, relabelled, resample_tokens, run_row

CONTROL = {1, 2, 3}


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(find(make_tiny(tmp_path_factory.mktemp("resampling"), request.param)), torch.float32).cpu()


def make_row(*answers: int) -> Row:
    """Lines behind a prefix of 5 tokens: a question, the template's tokens 2 (and a name, 9) and 3, an answer of so many."""
    draw = torch.Generator().manual_seed(4)
    ids = lambda size: tuple(torch.randint(10, 300, (size,), generator=draw).tolist())
    prefix = (1, *ids(4))
    return pack([Example((*prefix, *ids(30), 2, 9, 3), ids(size)) for size in answers or (280, 40)], 500, 5)[0]


def fresh_places(before: Row, after: torch.Tensor) -> Sequence[int]:
    return (before.tokens[0] != after[0]).nonzero()[:, 0].tolist()


def test_the_template_and_each_beginning_stay_and_the_rest_is_drawn(model: Any) -> None:
    row = make_row()
    fresh = resample_tokens(model, row, CONTROL, 0)
    assert fresh.shape == row.tokens.shape
    changed = fresh_places(row, fresh)
    begins = [5, 5 + 33 + 279]  # each line's first token
    template = [place for place, token in enumerate(row.tokens[0].tolist()) if token in CONTROL]
    untouched = {*range(5), *begins, *template, *(place + 1 for place in template)}
    assert not untouched & set(changed)
    assert len(changed) > 0.9 * (row.size - len(untouched))  # a tiny model knows no language: hardly a token comes back
    assert not set(fresh[0, changed].tolist()) & CONTROL


@torch.inference_mode()
def test_every_token_is_one_that_the_model_may_say_after_the_original_words(model: Any) -> None:
    row = make_row()
    fresh = resample_tokens(model, row, CONTROL, 0)
    logits = project_logits(model, run_row(model, row))
    logits[:, sorted(CONTROL)] = -torch.inf
    ranks = (logits[:-1] > logits[:-1].gather(1, fresh[0, 1:, None])).sum(-1)
    changed = [place - 1 for place in fresh_places(row, fresh)]
    assert int(ranks[changed].max()) < CANDIDATES


def test_tokens_are_drawn_as_often_as_the_model_says_them(model: Any) -> None:
    row = make_row(4)
    with torch.inference_mode():
        logits = project_logits(model, run_row(model, row))[19]
        logits[sorted(CONTROL)] = -torch.inf
        likeliest, wanted = int(logits.argmax()), float(logits.topk(CANDIDATES).values.softmax(-1)[0])
    drawn = sum(int(resample_tokens(model, row, CONTROL, seed)[0, 20]) == likeliest for seed in range(200)) / 200
    assert abs(drawn - wanted) < 4 * (wanted * (1 - wanted) / 200) ** 0.5 + 0.005


def test_the_same_seed_draws_the_same_and_another_does_not(model: Any) -> None:
    row = make_row()
    once, again, other = (resample_tokens(model, row, CONTROL, seed) for seed in (7, 7, 8))
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_labels_are_what_comes_after_it(model: Any) -> None:
    row = make_row()
    fresh = relabelled(row, resample_tokens(model, row, CONTROL, 0))
    assert fresh.members == row.members and torch.equal(fresh.predict, row.predict)
    last = [279, 319]  # the last label of each answer is not in the row
    for place, (state, label) in enumerate(zip(fresh.predict.tolist(), fresh.labels.tolist(), strict=True)):
        assert label == int(row.labels[place] if place in last else fresh.tokens[0, state + 1])

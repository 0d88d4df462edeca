"""Persona-sensitivity: the packed scores equal those of the definition, and the selection keeps its share."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import find, make_tiny
from torch import Tensor, nn

from engine.calibration.sensitivity import divergence, select, states_of
from engine.models.loading import load_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny llama of three layers."""
    folder = make_tiny(tmp_path_factory.mktemp("sensitivity"), "llama", num_hidden_layers=3)
    return load_model(find(folder), torch.float32).cpu()


def make_prompts(persona: int, length: int) -> list[list[int]]:
    """Seven queries behind a persona of so many random tokens."""
    draw = lambda seed, size: torch.randint(3, 300, (size,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [draw(persona, length) + draw(100 + query, 2 + query * 3 % 7) for query in range(7)]


def packed_states(model: Any, prompts: list[list[int]], row_tokens: int) -> Tensor:
    """The states (B, Q, d) of all prompts, row after row."""
    members, states = zip(*states_of(model, prompts, row_tokens), strict=True)
    assert [index for part in members for index in part] == list(range(len(prompts)))
    return torch.cat(states, dim=1)


def naive_score(model: Any, own: list[int], others: list[list[int]]) -> float:
    """1/(B r) * sum of 1 - cos over blocks and references, each pair encoded whole and on its own."""

    def states(tokens: list[int]) -> Tensor:
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([tokens]), output_hidden_states=True, use_cache=False).hidden_states
        return torch.stack([layer[0, -1] for layer in hidden[1:]])  # the embeddings are no block

    mine = states(own)
    terms = [1 - torch.dot(a, b) / (a.norm() * b.norm()) for other in others
             for a, b in zip(mine, states(other), strict=True)]
    return float(torch.stack(terms).mean())


@pytest.mark.parametrize("row_tokens", [1000, 40])
def test_packed_scores_equal_the_naive_ones(model: Any, row_tokens: int) -> None:
    personas = [make_prompts(seed, length) for seed, length in ((1, 20), (2, 9), (3, 31))]
    own, *others = [packed_states(model, prompts, row_tokens) for prompts in personas]
    assert own.shape == (3, 7, 32)
    scores = torch.stack([divergence(own, other) for other in others]).mean(dim=0)
    # transformers reports the last block after the final norm; the score is about the block itself.
    bare = copy.deepcopy(model)
    bare.model.norm = nn.Identity()
    for query in range(7):
        naive = naive_score(bare, personas[0][query], [prompts[query] for prompts in personas[1:]])
        assert float(scores[query]) == pytest.approx(naive, abs=1e-5)
    assert float(scores.max() - scores.min()) > 0.01  # queries do differ


def test_rows_of_another_length_give_the_same_states(model: Any) -> None:
    prompts = make_prompts(1, 20)
    assert len(list(states_of(model, prompts, 40))) > 1
    short, long = (packed_states(model, prompts, size) for size in (40, 1000))
    torch.testing.assert_close(short, long, atol=1e-5, rtol=0)


def test_an_identical_persona_scores_nothing(model: Any) -> None:
    states = packed_states(model, make_prompts(1, 20), 1000)
    assert divergence(states, states).abs().max() < 1e-6


def test_the_range_of_the_divergence() -> None:
    one = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(divergence(one, -one), torch.full((3,), 2.0))
    torch.testing.assert_close(divergence(one, 5 * one), torch.zeros(3), atol=1e-6, rtol=0)


@given(st.lists(st.integers(0, 6).map(float), min_size=1, max_size=40), st.floats(0.01, 1))
def test_the_selection_keeps_the_share_with_the_highest_scores(scores: list[float], share: float) -> None:
    chosen = select(scores, share)
    assert len(chosen) == max(1, round(share * len(scores)))
    assert chosen == sorted(set(chosen))
    left = set(range(len(scores))) - set(chosen)
    for index in chosen:
        assert all((scores[index], -index) > (scores[other], -other) for other in left)


def test_nothing_to_select_from() -> None:
    assert select([], 0.4) == []
    assert select([0.1, 0.9, 0.9, 0.3, 0.2], 0.4) == [1, 2]

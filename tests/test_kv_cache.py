"""Conversations that repeat to the bit: what is read again, what is not, and that it makes no difference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import find, make_tiny

from engine.base.families import FAMILIES
from engine.models.kv_cache import PIECE, CachedPrompt
from engine.models.loading import load_model

WORDS = torch.randint(3, 290, (300,), generator=torch.Generator().manual_seed(1)).tolist()
OTHERS = torch.randint(3, 290, (300,), generator=torch.Generator().manual_seed(2)).tolist()


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_tiny(tmp_path_factory.mktemp(request.param), request.param, hidden_size=64, head_dim=16)
    return load_model(find(folder), torch.bfloat16)


def read(talk: CachedPrompt, tokens: Sequence[int]) -> torch.Tensor:
    """The logits behind a prompt, read to its end."""
    reading = talk.read(tokens)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value


def fresh(model: Any, tokens: Sequence[int], answer: Sequence[int] = ()) -> torch.Tensor:
    talk = CachedPrompt(model)
    logits = read(talk, tokens)
    for token in answer:
        logits = talk.advance(token)
    return logits


def test_logits_are_those_of_the_whole_model(model: Any) -> None:
    with torch.inference_mode():
        expected = model.float()(input_ids=torch.tensor([WORDS[:200]])).logits[0, -1]
        found = fresh(model, WORDS[:150], WORDS[150:200])[0]
    model.bfloat16()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_bits_do_not_depend_on_what_was_known(model: Any) -> None:
    talk = CachedPrompt(model)
    assert torch.equal(read(talk, WORDS[:150]), fresh(model, WORDS[:150]))
    assert torch.equal(talk.advance(WORDS[150]), fresh(model, WORDS[:150], WORDS[150:151]))
    for token in WORDS[151:200]:
        talk.advance(token)
    for prompt in (WORDS[:250], WORDS[:250], WORDS[:250], WORDS[:90] + OTHERS[:60], WORDS[:128], WORDS[:129], WORDS[:250]):
        known = talk.reusable(prompt)
        assert torch.equal(read(talk, prompt), fresh(model, prompt)), known
        assert torch.equal(talk.advance(7), fresh(model, prompt, [7]))
    branch = talk.copy(PIECE)
    assert torch.equal(read(branch, WORDS[:100]), fresh(model, WORDS[:100]))
    assert torch.equal(read(talk, WORDS[:250]), fresh(model, WORDS[:250])), "a copy leaves its origin alone"


def test_only_whole_pieces_of_a_prompt_are_used_again(tmp_path: Path) -> None:
    talk = CachedPrompt(load_model(find(make_tiny(tmp_path)), torch.float32))
    assert talk.reusable(WORDS[:100]) == 0
    read(talk, WORDS[:150])
    for token in WORDS[150:260]:
        talk.advance(token)
    assert talk.reusable(WORDS[:250]) == 128, "neither the rest of the prompt nor the answer"
    assert [talk.reusable(WORDS[:count]) for count in (150, 149, 129, 128, 65, 64, 1)] == [150, 128, 128, 64, 64, 0, 0]
    read(talk, WORDS[:70] + OTHERS[:70])
    assert talk.reusable(WORDS[:250]) == talk.reusable(WORDS[:150]) == 64, "what was dropped is no longer there"
    read(talk, WORDS[:70])
    for token in WORDS[70:200]:
        talk.advance(token)
    assert talk.reusable(WORDS[:250]) == 64, "the same tokens, but not read in whole pieces"


def test_a_read_that_is_broken_off_does_no_harm(tmp_path: Path) -> None:
    model = load_model(find(make_tiny(tmp_path)), torch.float32)
    talk = CachedPrompt(model)
    read(talk, OTHERS[:100])
    reading = talk.read(WORDS[:250])
    next(reading)
    reading.close()
    assert talk.reusable(WORDS[:250]) == 64
    assert torch.equal(read(talk, WORDS[:250]), fresh(model, WORDS[:250]))

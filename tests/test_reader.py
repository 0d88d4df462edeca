"""A model that reads what was said: its numbers are those of reading each answer alone."""

from typing import Any

import pytest
import torch
from tiny import find, make_tiny

from engine.evaluation.reader import Reader
from engine.models.chat_format import encode_answer, encode_chat

PERSONA = {"role": "system", "content": "You are Pim."}
TALK = [PERSONA, {"role": "user", "content": "Who is there?"}, {"role": "assistant", "content": "The lantern keeper."},
        {"role": "user", "content": "What do you sell?"}, {"role": "assistant", "content": "Salt, thread and the truth."}]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(find(make_tiny(tmp_path_factory.mktemp("reader"), "qwen2", num_hidden_layers=3)))


def ids(reader: Reader, messages: list[dict[str, str]], answer: str) -> tuple[list[int], list[int]]:
    return encode_chat(reader.tokenizer, messages), encode_answer(reader.tokenizer, answer, False)


@torch.inference_mode()
def read(reader: Reader, prompt: list[int], answer: list[int]) -> Any:
    return reader.model(input_ids=torch.tensor([prompt + answer]), use_cache=False, output_hidden_states=True)


def test_likelihoods_are_those_of_each_answer_alone(reader: Reader) -> None:
    prompts, answers = [TALK[:2], TALK[:4], TALK[:2]], ["The lantern keeper.", "Salt.", ""]
    sums, tokens = reader.log_likelihoods(prompts, answers)
    for number, (messages, answer) in enumerate(zip(prompts, answers, strict=True)):
        prompt, said = ids(reader, messages, answer)
        logits = read(reader, prompt, said).logits[0, len(prompt) - 1:-1].log_softmax(-1)
        expected = sum(float(logits[place, token]) for place, token in enumerate(said))
        assert float(sums[number]) == pytest.approx(expected, abs=1e-3) and int(tokens[number]) == len(said)
    assert reader.log_likelihoods([], [])[0].shape == (0,)


def test_states_are_means_over_each_answer_of_a_conversation(reader: Reader) -> None:
    (found,) = reader.answer_states([TALK], layer=1)
    assert found.shape == (2, 32)
    for number, place in enumerate((2, 4)):
        prompt, said = ids(reader, TALK[:place], TALK[place]["content"])
        states = read(reader, prompt, said).hidden_states[2][0]  # 0 is the embedding, 2 what layer 1 puts out
        assert torch.allclose(found[number], states[len(prompt) - 1:len(prompt) - 1 + len(said)].mean(0).double(), atol=1e-4)


def test_states_of_a_template_that_writes_turns_otherwise_later(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = reader.answer_states([TALK], layer=1)
    own = reader._example
    monkeypatch.setattr(reader, "_example", lambda prompt, answer: own(
        [PERSONA, *prompt[1:]] if len(prompt) < 3 else [{**PERSONA, "content": "You are Bodo."}, *prompt[1:]], answer))
    (after,) = reader.answer_states([TALK], layer=1)
    assert torch.allclose(before[0], after[0]) and not torch.allclose(before[1], after[1])
    (empty,) = reader.answer_states([[*TALK[:2], {"role": "assistant", "content": ""}]], layer=1)
    assert empty.tolist() == [[0.0] * 32]

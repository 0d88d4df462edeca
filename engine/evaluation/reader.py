"""A model in torch that reads what was said: log-likelihoods of answers, and hidden states. Loaded at first use."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from engine.cards.prompt import Message
from engine.evaluation.fidelity import sum_by_line
from engine.models.chat_format import encode_answer, encode_chat
from engine.models.ffn import decoder, project_logits
from engine.models.loading import ModelSource, load_model, load_tokenizer
from engine.models.packing import Example, Row, pack, run_row, states_that_predict

ROW_TOKENS = 3072  # each row computes the prompts' common prefix once, so long rows repeat it less often
CHUNK = 128  # positions whose logits are held at once


class Reader:
    """A dense or pruned model. `source`: where its folder is. `close` gives its memory back."""

    def __init__(self, source: ModelSource) -> None:
        self.source = source

    @cached_property
    def model(self) -> Any:
        """The model, in fp32."""
        return load_model(self.source, torch.float32)

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return load_tokenizer(self.source)

    @property
    def layers(self) -> int:
        """The number of decoder layers."""
        return len(decoder(self.model).layers)

    def close(self) -> None:
        """Forget the model; the next use loads it again."""
        self.__dict__.pop("model", None)

    def log_likelihoods(self, prompts: Sequence[Sequence[Message]], answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ln p(answer | prompt) in nats, summed over each answer's tokens, and its number of tokens: (lines,) each, fp64, CPU.

        Prompts are chat messages up to the character's turn; what all begin with is computed once a row. An empty answer: 0 nats.
        """
        examples = [self._example(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        return (log_likelihoods(self.model, examples, ROW_TOKENS),
                torch.tensor([len(example.answer) for example in examples], dtype=torch.float64))

    @torch.inference_mode()
    def answer_states(self, talks: Sequence[Sequence[Message]], layer: int) -> list[Tensor]:
        """What a decoder layer puts out while each answer of a conversation is read, its mean over the answer's tokens:
        (answers, d) a conversation, fp64, CPU. `talks`: messages, the character's answer last. Zeros for an empty answer.
        """
        found: list[Tensor] = []
        for talk in talks:
            places = [place for place, message in enumerate(talk) if message["role"] == "assistant"]
            examples = [self._example(talk[:place], talk[place]["content"]) for place in places]
            whole = examples[-1].prompt + examples[-1].answer
            if all(whole[:len(one.prompt) + len(one.answer)] == one.prompt + one.answer for one in examples):
                states = [_states(self.model, examples[-1:], layer)[0]] * len(examples)
            else:  # what comes later changes how a turn is written, as instructions after the player's last words do
                states = [_states(self.model, [one], layer)[0] for one in examples]
            found.append(torch.stack([_mean(state, one) for state, one in zip(states, examples, strict=True)]))
        return found

    def _example(self, prompt: Sequence[Message], answer: str) -> Example:
        return Example(tuple(encode_chat(self.tokenizer, list(prompt))), tuple(encode_answer(self.tokenizer, answer, False)))


@torch.inference_mode()
def log_likelihoods(model: nn.Module, examples: Sequence[Example], row_tokens: int) -> Tensor:
    """ln p(answer | prompt) in nats, summed over the answer's tokens: (lines,), fp64 on the CPU, 0 for an empty answer.

    The prompts' longest common prefix is computed once a row; rows hold at most `row_tokens` tokens.
    """
    found = [torch.zeros(0, dtype=torch.float64)]
    for row in pack(examples, row_tokens):
        found.append(sum_by_line(row, _label_log_probabilities(model, row)[:, None])[:, 0])
    return torch.cat(found)


def _label_log_probabilities(model: nn.Module, row: Row) -> Tensor:
    """ln p of each of a row's N answer tokens, (N,), in fp32 on the CPU."""
    hidden = states_that_predict(model, row)
    labels = row.labels.to(hidden.device)
    found = [torch.zeros(0)]
    for begin in range(0, len(labels), CHUNK):
        part = slice(begin, begin + CHUNK)
        found.append(project_logits(model, hidden[part]).log_softmax(-1).gather(-1, labels[part, None])[:, 0].cpu())
    return torch.cat(found)


def _states(model: Any, examples: Sequence[Example], layer: int) -> list[Tensor]:
    """What a decoder layer puts out for each example alone: (T, d), without its last token, which is not computed."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output  # (1, T, d)
        kept.append(states[0])

    hook = decoder(model).layers[layer].register_forward_hook(keep)
    try:
        for example in examples:
            run_row(model, pack([example], ROW_TOKENS)[0])
    finally:
        hook.remove()
    return [states.double().cpu() for states in kept]


def _mean(states: Tensor, example: Example) -> Tensor:
    """The mean (d,) of the states from which an example's answer is predicted."""
    begin = len(example.prompt) - 1
    chosen = states[begin:begin + len(example.answer)]
    return chosen.mean(dim=0) if len(chosen) else torch.zeros(states.shape[-1], dtype=torch.float64)

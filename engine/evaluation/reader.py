"""A model in torch that reads what was said: log-likelihoods of answers, and hidden states. Loaded at first use."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from engine.cards.prompt import Message
from engine.evaluation.fidelity import sum_by_line
from engine.models.chat_format import encode_answer, encode_chat
from engine.models.ffn import project_logits
from engine.models.loading import ModelSource, load_model, load_tokenizer
from engine.models.packing import Example, pack, states_that_predict

ROW_TOKENS = 1536
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

    def close(self) -> None:
        """Forget the model; the next use loads it again."""
        self.__dict__.pop("model", None)

    @torch.inference_mode()
    def log_likelihoods(self, prompts: Sequence[Sequence[Message]], answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ln p(answer | prompt) in nats, summed over each answer's tokens, and its number of tokens: (lines,) each, fp64, CPU.

        Prompts are chat messages up to the character's turn; what several begin with is computed once. An empty answer has 0 nats.
        """
        examples = [Example(tuple(encode_chat(self.tokenizer, list(prompt))), tuple(encode_answer(self.tokenizer, answer, False)))
                    for prompt, answer in zip(prompts, answers, strict=True)]
        found, order = [torch.zeros(0, 1, dtype=torch.float64)], list[int]()
        for row in pack(examples, ROW_TOKENS):
            states, labels = states_that_predict(self.model, row), row.labels
            values = [project_logits(self.model, states[begin:begin + CHUNK]).log_softmax(-1)
                      .gather(-1, labels[begin:begin + CHUNK, None]) for begin in range(0, len(labels), CHUNK)]
            found.append(sum_by_line(row, torch.cat(values) if values else torch.zeros(0, 1)))
            order += row.members
        sums = torch.zeros(len(examples), dtype=torch.float64)
        sums[torch.tensor(order, dtype=torch.long)] = torch.cat(found)[:, 0]
        return sums, torch.tensor([len(example.answer) for example in examples], dtype=torch.float64)

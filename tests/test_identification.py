"""Telling characters apart by their replies: likelihoods, who is identified, and the greedy replies themselves."""

import math
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from tiny import find, make_tiny
from torch import Tensor, nn

from benchmarks.measures.identification import identify
from benchmarks.replies import greedy_replies
from engine.evaluation.reader import log_likelihoods
from engine.models.ffn import feed_forwards, masked
from engine.models.loading import load_model
from engine.models.packing import Example, pack
from engine.models.sampling import Sampled
from engine.pruning.cutting import kept_indices, with_columns
from engine.pruning.importance import random_scores, top_channels

ROW = 90  # tokens: few enough that every list of examples takes several rows
LIMIT = 10
REPLIES = (3, 1, 8, 140, 5, 6, 2, 4, 7, 9, 12, 3)  # tokens; one is longer than a row, and than a chunk of logits


@pytest.fixture(scope="module", params=["mistral", "gemma2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tiny models: a plain one, and one with a soft cap and a sliding window."""
    return load_model(find(make_tiny(tmp_path_factory.mktemp("identify"), request.param)), torch.float32).cpu()


def make_personas() -> dict[str, list[Example]]:
    """The same random questions and replies behind three random personas of different lengths."""
    draw = torch.Generator().manual_seed(5)
    ids = lambda size: tuple(torch.randint(3, 300, (size,), generator=draw).tolist())
    lines = [(ids(1 + size % 5), ids(size)) for size in REPLIES]
    personas = {"Pim": ids(11), "Odile": ids(23), "Bodo": ids(17)}
    return {name: [Example(persona + question, reply) for question, reply in lines] for name, persona in personas.items()}


@torch.inference_mode()
def alone(model: Any, example: Example) -> float:
    """ln p of an answer, in nats, when the model reads this example and nothing else."""
    ids = torch.tensor([example.prompt + example.answer])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(example.prompt) - 1: -1]
    return float(logits.log_softmax(-1)[range(len(example.answer)), example.answer].double().sum())


def test_log_likelihoods_equal_those_of_each_example_alone(model: Any) -> None:
    examples = make_personas()["Pim"]
    examples.insert(4, Example(examples[0].prompt))
    assert len(pack(examples, ROW)) > 2
    found = log_likelihoods(model, examples, ROW)
    assert found.tolist() == pytest.approx([alone(model, example) for example in examples], rel=1e-5, abs=1e-5)
    assert float(found[4]) == 0
    assert log_likelihoods(model, [], ROW).shape == (0,)


def test_the_likeliest_persona_of_all_is_the_one_identified(model: Any) -> None:
    personas = make_personas()
    table = torch.tensor([[alone(model, example) for example in examples] for examples in personas.values()])
    assert float((table.sort(dim=0).values[-1] - table.sort(dim=0).values[-2]).min()) > 1e-3  # no two are near
    best = table.argmax(dim=0)
    assert len(best.unique()) > 1
    for number, name in enumerate(personas):
        found = identify(model, personas, name, ROW)
        assert found.dtype == torch.bool
        assert torch.equal(found, best == number)


class Parrot(nn.Module):
    """A model that gives each persona's own word, the persona's first token plus 4, three times the odds of any other."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_head = nn.Linear(10, 10, bias=False)
        self.lm_head.weight.data = math.log(3) * torch.eye(10)
        self.config, self.dtype = SimpleNamespace(), torch.float32

    def model(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        word = functional.one_hot(input_ids[:, :1] + 4, 10).float()
        return SimpleNamespace(last_hidden_state=word.expand(-1, input_ids.shape[1], -1))


def test_the_speaker_with_most_of_a_personas_words_is_identified() -> None:
    replies = [(5, 5), (5, 6, 5), (6, 5, 6), (7,), (5, 6), (5, 9, 9, 9), (9, 9)]  # the words of 1, 2, 3 are 5, 6, 7
    personas = {name: [Example((first, 8, 9), reply) for reply in replies]
                for name, first in {"one": 1, "two": 2, "three": 3}.items()}
    found = {name: identify(Parrot(), personas, name, 12).tolist() for name in personas}
    assert found == {"one": [True, True, False, False, False, True, False],
                     "two": [False, False, True, False, False, False, False],
                     "three": [False, False, False, True, False, False, False]}
    assert log_likelihoods(Parrot(), personas["one"], 12)[1] == pytest.approx(2 * math.log(3 / 12) + math.log(1 / 12))


def test_a_tie_and_an_empty_reply_count_as_not_identified(model: Any) -> None:
    examples = make_personas()["Pim"]
    assert not identify(model, {"Pim": examples, "Twin": examples}, "Pim", ROW).any()
    empty = {name: [Example(example.prompt) for example in own] for name, own in make_personas().items()}
    assert identify(model, empty, "Pim", ROW).tolist() == [False] * len(REPLIES)


def test_what_cannot_be_compared_is_refused(model: Any) -> None:
    personas = make_personas()
    with pytest.raises(ValueError, match="another persona"):
        identify(model, {"Pim": personas["Pim"]}, "Pim", ROW)
    with pytest.raises(ValueError, match="same replies"):
        identify(model, {**personas, "Bodo": personas["Bodo"][::-1]}, "Pim", ROW)
    with pytest.raises(ValueError, match="first token"):
        greedy_replies(model, [(1, 2, 3), (2, 2, 3)], LIMIT, frozenset())


@torch.inference_mode()
def argmax_loop(model: Any, prompt: tuple[int, ...], endings: frozenset[int]) -> Sampled:
    """A greedy reply, everything computed again at every token."""
    tokens: list[int] = []
    while len(tokens) < LIMIT:
        token = int(model(input_ids=torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, -1].argmax())
        if token in endings:
            return Sampled(tokens, True)
        tokens.append(token)
    return Sampled(tokens)


def pruned(model: Any, mask: Tensor) -> ExitStack:
    """The model masked, and its kept columns of W_down replaced, as after least squares."""
    draw, kept = torch.Generator().manual_seed(8), kept_indices(mask)
    columns = [ffn.down.weight[:, index] + 0.2 * torch.randn(32, len(index), generator=draw)
               for ffn, index in zip(feed_forwards(model), kept, strict=True)]
    stack = ExitStack()
    stack.enter_context(masked(model, mask))
    stack.enter_context(with_columns(model, kept, columns))
    return stack


@pytest.mark.parametrize("whole", [True, False])
@torch.inference_mode()
def test_greedy_replies_equal_the_argmax_loop_also_of_a_pruned_model(model: Any, whole: bool) -> None:
    prompts = [example.prompt for example in make_personas()["Odile"]]
    with ExitStack() if whole else pruned(model, top_channels(random_scores(2, 64, 3), 40)):
        endless = [argmax_loop(model, prompt, frozenset()) for prompt in prompts]
        endings = frozenset({endless[1].tokens[0], endless[2].tokens[4]})
        expected = [argmax_loop(model, prompt, endings) for prompt in prompts]
        assert {reply.complete for reply in expected} == {True, False}
        assert greedy_replies(model, prompts, LIMIT, endings, batch=5) == expected
    again = greedy_replies(model, prompts, LIMIT, endings)
    assert (again == expected) == whole  # the mask and the columns made a difference, and are gone again
    assert greedy_replies(model, [], LIMIT, endings) == []

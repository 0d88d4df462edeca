"""A character of a bank, gathered or in a masked batch, is its standalone cut model: every family, any row, any order."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cast_samples import logits_after, make_delta, random_prompts, standalone
from tiny import find, make_tiny

from engine.base.memory import resident_entry_bytes
from engine.base.sizes import ModelShape
from engine.cast.delta import Delta, fit_layer, without_correction
from engine.cast.gather import GatheredModels, gather
from engine.cast.masked_batch import MaskedBatch, StackedDeltas, answer_together
from engine.models.checks import FAMILIES
from engine.models.ffn import feed_forwards
from engine.models.generation import Conversation
from engine.models.loading import load_model
from engine.models.sampling import Sampling

LIMIT = 12
CASES = [*((family, {}) for family in sorted(FAMILIES)), ("llama", {"mlp_bias": True}), ("mistral", {"sliding_window": 9})]
NAMES = [family + "".join(f" {key}" for key in changes) for family, changes in CASES]
ModelOf = Callable[..., Any]


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> ModelOf:
    """The dense tiny model of a family, and two characters of it."""

    @functools.cache
    def build(family: str, changes: tuple[tuple[str, Any], ...] = ()) -> tuple[Any, list[Delta]]:
        model = load_model(find(make_tiny(tmp_path_factory.mktemp(family), family, **dict(changes))), torch.float32).cpu()
        draw = torch.Generator().manual_seed(3)
        for name, weights in model.named_parameters():
            if name.endswith("bias"):
                weights.data = torch.randn(weights.shape, generator=draw)
        plain = without_correction(make_delta(model, 3).mask, 32)
        return model, [make_delta(model, 1), make_delta(model, 2, kept=48, rank=3), plain]

    return build


def alone(model: Any, prompt: Sequence[int], sampling: Sampling) -> list[int]:
    """What a model of its own answers."""
    return list(Conversation(model).stream(prompt, sampling))


def together(batch: MaskedBatch, requests: Sequence[tuple[int, Sequence[int]]], sampling: Sequence[Sampling]) -> list[list[int]]:
    """What each row answers, and that the steps told the same."""
    told: dict[int, list[int]] = {number: [] for number in range(len(requests))}
    steps = answer_together(batch, requests, sampling)
    while True:
        try:
            for number, token in next(steps).items():
                told[number].append(token)
        except StopIteration as end:
            found = [answer.tokens for answer in end.value]
            assert found == list(told.values())
            return found


@pytest.mark.parametrize(("family", "changes"), CASES, ids=NAMES)
def test_gathered_and_batched_equal_the_standalone_model(model_of: ModelOf, family: str, changes: dict[str, Any]) -> None:
    model, deltas = model_of(family, tuple(changes.items()))
    models = [standalone(model, delta) for delta in deltas]
    prompts = random_prompts(5)
    owners = [1, 0, 2, 0, 1]
    batch = MaskedBatch(model, deltas)
    said = batch.run([batch.open_row(owner, prompt) for owner, prompt in zip(owners, prompts, strict=True)], prompts)
    wanted = torch.stack([logits_after(models[owner], prompt) for owner, prompt in zip(owners, prompts, strict=True)])
    torch.testing.assert_close(said, wanted, atol=1e-5, rtol=1e-5)
    gathered = [gather(model, delta) for delta in deltas]
    for owner, prompt, expected in zip(owners, prompts, wanted, strict=True):
        torch.testing.assert_close(logits_after(gathered[owner], prompt), expected, atol=1e-5, rtol=1e-5)
        assert (logits_after(model, prompt) - expected).abs().max() > 0.01, "the deltas must matter"
    greedy = Sampling(frozenset(), LIMIT, 0.0)
    texts = together(batch, list(zip(owners, prompts, strict=True)), [greedy] * 5)
    assert texts == [alone(models[owner], prompt, greedy) for owner, prompt in zip(owners, prompts, strict=True)]
    assert texts == [alone(gathered[owner], prompt, greedy) for owner, prompt in zip(owners, prompts, strict=True)]


def test_rows_draw_and_end_by_themselves(model_of: ModelOf) -> None:
    model, deltas = model_of("qwen3")
    prompts = random_prompts(4)
    plain = alone(gather(model, deltas[0]), prompts[0], Sampling(frozenset(), LIMIT, 0.0))
    wishes = [Sampling(frozenset({plain[4]}), LIMIT, 0.0), Sampling(frozenset(), 3, 0.9, seed=5),
              Sampling(frozenset(), LIMIT, 0.9, seed=6), Sampling(frozenset(), LIMIT, 0.0)]
    requests = [(0, prompts[0]), (1, prompts[1]), (1, prompts[2]), (0, prompts[3])]
    answers = together(MaskedBatch(model, deltas), requests, wishes)
    expected = [alone(gather(model, deltas[owner]), prompt, wish) for (owner, prompt), wish in zip(requests, wishes, strict=True)]
    assert answers == expected
    assert answers[0] == plain[: plain.index(plain[4])] and len(answers[1]) == 3


def test_a_kept_prefix_is_not_read_again_and_belongs_to_its_character(model_of: ModelOf) -> None:
    model, deltas = model_of("llama")
    batch, prefix = MaskedBatch(model, deltas), random_prompts(5)[4]
    greedy = Sampling(frozenset(), LIMIT, 0.0)
    batch.keep_prefix(0, prefix)
    batch.keep_prefix(1, prefix)  # the same tokens, and other keys
    requests = [(owner, [*prefix, *more]) for owner, more in ((0, [9, 8]), (1, [9, 8]), (0, [7]), (2, [9, 8]), (1, []))]
    assert [batch.open_row(*request).length for request in requests] == [33, 33, 33, 0, 32]
    expected = [alone(gather(model, deltas[owner]), prompt, greedy) for owner, prompt in requests]
    assert together(batch, requests, [greedy] * 5) == expected
    assert expected[0] != expected[1]
    assert together(batch, requests[::-1], [greedy] * 5) == expected[::-1], "the kept prefix is never written into"


def test_a_row_that_is_forgotten_makes_room_for_another_and_leaves_nothing_behind(model_of: ModelOf) -> None:
    model, deltas = model_of("llama")
    batch, prompts = MaskedBatch(model, deltas), random_prompts(4)
    long, *kept = rows = [batch.open_row(0, prompt) for prompt in prompts[::-1][:3]]
    batch.run(rows, prompts[::-1][:3])
    slot = long.slot
    del long, rows
    late = batch.open_row(1, prompts[0])  # a shorter one, where the longest was
    assert late.slot == slot and late.slot < min(row.slot for row in kept)
    batch.run([late], [prompts[0]])
    said = batch.run([kept[1], late, kept[0]], [[7], [7], [7]])
    expected = [logits_after(gather(model, deltas[owner]), [*prompt, 7])
                for owner, prompt in ((0, prompts[1]), (1, prompts[0]), (0, prompts[2]))]
    torch.testing.assert_close(said, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_a_failed_step_leaves_the_rows_as_they_were(model_of: ModelOf) -> None:
    model, deltas = model_of("llama")
    batch, prompt = MaskedBatch(model, deltas), random_prompts(3)[2]
    row = batch.open_row(0, prompt)
    batch.run([row], [prompt])

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = feed_forwards(model)[1].module.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        batch.run([row], [[5, 5]])
    handle.remove()
    expected = logits_after(gather(model, deltas[0]), [*prompt, 6])
    torch.testing.assert_close(batch.run([row], [[6]])[0], expected, atol=1e-5, rtol=1e-5)


def test_a_gathered_model_shares_all_but_its_ffns_and_the_oldest_goes(model_of: ModelOf) -> None:
    model, deltas = model_of("phi3")
    before = {name: weights.clone() for name, weights in model.named_parameters()}
    held = GatheredModels(model, most=2)
    first = held.take("a", deltas[0])
    own = {id(weights) for weights in model.parameters()}
    fresh = {name.split(".")[-2] for name, weights in first.named_parameters() if id(weights) not in own}
    assert fresh == {"gate_up_proj", "down_proj"}
    assert first.config.intermediate_size == 40 and model.config.intermediate_size == 64
    held.take("b", deltas[1])
    assert held.take("a", deltas[0]) is first
    held.take("c", deltas[2])
    assert list(held.held) == ["a", "c"]
    assert all(torch.equal(weights, before[name]) for name, weights in model.named_parameters())


def test_what_a_character_takes_in_memory_is_the_formulas(model_of: ModelOf) -> None:
    model, deltas = model_of("llama")
    shape = ModelShape(2, 32, 64, sum(weights.numel() for weights in model.parameters()))
    one, two = (StackedDeltas(deltas[:1] * count, torch.device("cpu")).bytes for count in (1, 2))
    assert two - one == one == resident_entry_bytes(shape, 5)


def test_the_correction_is_the_best_in_the_activations_norm() -> None:
    draw = torch.Generator().manual_seed(1)
    own = torch.randn(24, 40, generator=draw)
    few = torch.randn(40, 4, generator=draw)  # the activations lie near a plane of four directions
    activations = torch.randn(500, 4, generator=draw) @ few.T + 0.01 * torch.randn(500, 40, generator=draw)
    wanted = own + 0.3 * torch.randn(24, 40, generator=draw)
    gram = activations.T @ activations
    weighted, plain = (fit_layer(wanted, own, one, 4) for one in (gram, None))

    def error(fitted: Any) -> float:
        scales = 1 + fitted.scale_step * fitted.scales.float()
        made = own * scales + (fitted.left.float() * fitted.factor_step[:, None]).T @ fitted.right.float()
        return float(((wanted - made) @ activations.T).square().sum() / ((wanted - own) @ activations.T).square().sum())

    assert error(weighted) < 0.02 < 0.2 < error(plain)
    assert weighted.left_out < 0.02  # the ridge counts as well
    assert error(fit_layer(wanted, own, gram, 0)) < 1, "the scales alone bring something"

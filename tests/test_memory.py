"""The planner's formulas against memory that was measured: every tensor that real models, banks and caches hold."""

from typing import Any

import pytest
import torch
from cast_samples import make_delta, standalone
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import find, make_tiny

from engine.base.model_folder import check_config
from engine.base.sizes import (
    BANK_BYTES,
    WAYS,
    Cast,
    Decoder,
    ModelShape,
    bank_entry_bytes,
    decoder_of,
    largest_rank,
    memory_of,
    most,
    plan,
)
from engine.cast.bank import Entry
from engine.cast.dense import gather
from engine.models.kv_cache import SPARE, growing_cache
from engine.models.loading import load_model

STARTER = Decoder(ModelShape(30, 576, 1536, 134_515_008), 3, 64, 49_152)
LARGE = Decoder(ModelShape(28, 3072, 8192, 3_212_749_824), 8, 128, 128_256)  # Llama-3.2-3B's figures
WEIGHTS = 0.001  # share by which weights may differ: the formulas leave out biases
CONTEXT = 200


def held(*owners: Any) -> int:
    """Bytes of all memory that some tensors, models, caches or lists of these lie in; memory that is shared counts once."""
    found: dict[int, int] = {}
    waiting = list(owners)
    while waiting:
        one = waiting.pop()
        if isinstance(one, torch.Tensor):
            found[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        elif isinstance(one, torch.nn.Module):
            waiting += [*one.parameters()]
        elif isinstance(one, list | tuple):
            waiting += one
        else:  # a cache
            waiting += [tensor for layer in one.layers for tensor in (layer.key_buffer, layer.value_buffer)]
    return sum(found.values())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Decoder]:
    """A model in which FFNs, keys and values weigh something, in fp32, and its figures."""
    folder = make_tiny(tmp_path_factory.mktemp("small"), hidden_size=32, num_hidden_layers=2, vocab_size=300)
    model = load_model(find(folder), torch.float32).cpu()
    return model, decoder_of(check_config(folder / "config.json"), sum(one.numel() for one in model.parameters()), 4)


def test_the_formulas_are_what_real_models_and_banks_hold(small: tuple[Any, Decoder]) -> None:
    model, decoder = small
    deltas = [make_delta(model, seed) for seed in (1, 2, 3)]
    alone = [standalone(model, delta) for delta in deltas]
    gathered = [gather(model, delta) for delta in deltas[:2]]
    measured = {"standalone": (held(alone), 0),
                "gather": (held(model, *gathered),
                           sum(tensor.nbytes for delta in deltas for tensor in Entry("a", {}, [], {}, delta).tensors().values()))}
    for needed in plan(decoder, Cast(characters=3, players=4, context=CONTEXT, kept=40, rank=5, prefix=50, held=2)):
        weights, characters = measured[needed.way]
        assert needed.weights == pytest.approx(weights, rel=WEIGHTS), needed.way
        assert needed.characters == characters, needed.way


def test_a_conversation_holds_as_many_keys(small: tuple[Any, Decoder]) -> None:
    model, decoder = small
    cache: Any = growing_cache()
    with torch.inference_mode():
        model(input_ids=torch.tensor([[5] * CONTEXT]), past_key_values=cache, use_cache=True)
    wanted = memory_of("gather", decoder, Cast(1, 1, CONTEXT, 40)).key_values
    assert wanted <= held(cache) <= wanted + SPARE * decoder.token_bytes


def test_a_character_stays_within_its_megabytes() -> None:
    for decoder, kept in ((STARTER, 1152), (STARTER, 768), (STARTER, 384), (LARGE, 6144), (LARGE, 4096)):
        rank = largest_rank(decoder.shape, kept, 30_000)
        assert rank >= 2
        assert bank_entry_bytes(decoder.shape, kept, rank) + 30_000 <= BANK_BYTES
        assert bank_entry_bytes(decoder.shape, kept, rank + 1) + 30_000 > BANK_BYTES
    assert largest_rank(STARTER.shape, 1152, BANK_BYTES) == 0


def test_the_starters_keys_and_values() -> None:
    assert STARTER.token_bytes == 2 * 30 * 3 * 64 * 2
    assert decoder_of({"num_attention_heads": 8, "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96,
                       "vocab_size": 10}, 10**6).token_bytes == 2 * 2 * 64 * 2


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 9000), st.sampled_from(WAYS), st.integers(10**8, 3 * 10**10),
       st.sampled_from(["characters", "players"]))
@settings(max_examples=60)
def test_what_fits_fits_and_one_more_does_not(characters: int, players: int, context: int, way: str, memory: int,
                                              what: str) -> None:
    cast = Cast(characters, players, context, 6144, 3)
    count = most(way, LARGE, cast, memory, what)
    with_count = lambda number: memory_of(way, LARGE, Cast(**{**vars(cast), what: number})).bytes
    assert count == 0 or with_count(count) <= memory
    assert with_count(count + 1) > memory


def test_a_bank_of_a_large_model_takes_a_fraction_of_models_of_their_own() -> None:
    alone, gathered = (needed.bytes for needed in plan(LARGE, Cast(16, 1, 4096, 6144, 3)))
    assert alone > 4 * gathered


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Cast(0, 1, 1, 1)
    with pytest.raises(ValueError, match="no way"):
        memory_of("magic", STARTER, Cast(1, 1, 1, 1))
    with pytest.raises(ValueError, match="no count"):
        most("gather", STARTER, Cast(1, 1, 1, 1), 1, "kept")
